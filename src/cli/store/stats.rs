//! `petrel store stats`.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::super::Failure;
use super::place::{Admin, Place, Stopped, running, wall_ms};
use super::progress::{Progress, print, size};
use crate::store::maintenance::{self, Usage, directory_bytes};

#[derive(Serialize)]
struct Stats {
    running: bool,
    disk_bytes: u64,
    /// Bytes on disk for each live byte.
    amplification: Option<f64>,
    #[serde(flatten)]
    usage: Usage,
}

pub(super) fn run(place: &Place, json: bool) -> Result<(), Failure> {
    let config = place.config()?;
    if let Some(ready) = running(&config)? {
        let answer = Admin::of(&ready, false)?.get("/store/stats")?;
        let (status, stats) = answer.json();
        if status != 200 {
            return Err(Failure::new(format!(
                "the broker gave no sizes (HTTP {status}): {}",
                answer.text()
            )));
        }
        return print(json, &stats, &running_text(&stats));
    }
    let stopped = Stopped::take(&config)?;
    let map = stopped.open_store()?;
    let progress = Progress::new("read");
    let usage = maintenance::usage(&*map, &mut |seen| progress.set(seen))?;
    drop(progress);
    let disk_bytes = directory_bytes(&stopped.data_dir.db());
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let amplification = (usage.live.bytes > 0).then(|| disk_bytes as f64 / usage.live.bytes as f64);
    let stats = Stats {
        running: false,
        disk_bytes,
        amplification,
        usage,
    };
    print(json, &stats, &text(&stats))
}

/// What a running broker says, a line for each.
fn running_text(stats: &Value) -> String {
    let mut text = String::from("the broker is running; stop it for sizes by kind and project\n");
    for (name, value) in stats.as_object().into_iter().flatten() {
        let Some(number) = value.as_u64() else {
            continue;
        };
        let shown = match name.ends_with("bytes") {
            true => size(number),
            false => number.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:<24}{shown:>16}", name.replace('_', " "));
    }
    text
}

fn text(stats: &Stats) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, stats);
    text
}

fn write_text(text: &mut String, stats: &Stats) -> std::fmt::Result {
    let usage = &stats.usage;
    writeln!(
        text,
        "  {:<14}{:>12}{:>12}{:>12}",
        "kind", "keys", "in keys", "in values"
    )?;
    for kind in &usage.kinds {
        writeln!(
            text,
            "  {:<14}{:>12}{:>12}{:>12}",
            kind.kind,
            kind.keys,
            size(kind.key_bytes),
            size(kind.value_bytes)
        )?;
    }
    writeln!(
        text,
        "\n  {:<14}{:>12}{:>12}{:>12}",
        "project", "devices", "queued", "bytes"
    )?;
    for project in &usage.projects {
        writeln!(
            text,
            "  {:<14}{:>12}{:>12}{:>12}",
            project.project,
            project.registrations,
            project.queued_messages,
            size(project.queued_bytes)
        )?;
    }
    writeln!(text)?;
    if let Some(at) = usage.oldest_queued_at_ms {
        let minutes = wall_ms().saturating_sub(at) / 60_000;
        writeln!(
            text,
            "the oldest queued message has waited {minutes} minutes"
        )?;
    }
    if usage.unreadable > 0 {
        writeln!(
            text,
            "{} values cannot be read: `petrel store check` lists them",
            usage.unreadable
        )?;
    }
    write!(
        text,
        "{} live, {} on disk",
        size(usage.live.bytes),
        size(stats.disk_bytes)
    )?;
    match stats.amplification {
        Some(times) => writeln!(text, ": {times:.1} times"),
        None => writeln!(text),
    }
}
