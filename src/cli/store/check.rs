//! `petrel store check`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::Serialize;

use super::super::Failure;
use super::place::{Place, Stopped, say, wall_ms};
use super::progress::{Progress, print, size};
use crate::store::OrderedMap;
use crate::store::maintenance::{self, CheckReport, LISTED_MAX, MaintenanceError, Repair};

/// Exit code where something is wrong with the store, and nothing with the command.
const PROBLEMS: u8 = 3;

#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    report: CheckReport,
    repair: Option<Repaired>,
}

#[derive(Serialize)]
struct Repaired {
    #[serde(flatten)]
    repair: Repair,
    /// Where the removed values are.
    file: Option<PathBuf>,
}

pub(super) fn run(place: &Place, repair: bool, json: bool) -> Result<(), Failure> {
    let stopped = Stopped::take(&place.config()?)?;
    let mut map = stopped.open_store()?;
    let progress = Progress::new("checked");
    let mut report = maintenance::check(&*map, &mut |seen| progress.set(seen))?;
    if let Some(lost) = stopped.loss(&*map)? {
        report.problem(lost);
    }
    drop(progress);
    let repaired = match repair && report.bad > 0 {
        true => Some(repair_into(&stopped, &mut *map)?),
        false => None,
    };
    let outcome = Outcome {
        report,
        repair: repaired,
    };
    print(json, &outcome, &text(&outcome))?;
    let Outcome { report, repair } = outcome;
    match repair {
        _ if report.is_fine() => Ok(()),
        Some(Repaired { repair, .. }) if repair.irreparable == 0 && report.mismatches == 0 => {
            Ok(())
        }
        Some(_) => Err(Failure::with_code(
            PROBLEMS,
            "what is left cannot be repaired: restore the data directory from a backup",
        )),
        None if report.bad == 0 => Err(Failure::with_code(
            PROBLEMS,
            "values do not fit together: please report how that came about, and restore the data directory from a backup",
        )),
        None => Err(Failure::with_code(
            PROBLEMS,
            format!(
                "{} values cannot be read: `petrel store check --repair` writes them to a file and takes them out",
                report.bad
            ),
        )),
    }
}

fn repair_into(stopped: &Stopped, map: &mut dyn OrderedMap) -> Result<Repaired, Failure> {
    let path = stopped
        .path()
        .join(format!("unreadable-{}.jsonl", wall_ms()));
    let failed = |source| MaintenanceError::File {
        path: path.clone(),
        action: "written",
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    // The name must last as long as what it holds.
    File::open(stopped.path())
        .and_then(|directory| directory.sync_all())
        .map_err(failed)?;
    let synced = file.try_clone().map_err(failed)?;
    let progress = Progress::new("repaired");
    let repair = maintenance::repair(
        map,
        &mut file,
        &mut |out: &mut dyn Write| out.flush().and_then(|()| synced.sync_all()),
        &mut |seen| progress.set(seen),
    )?;
    if repair.removed == 0 && std::fs::remove_file(&path).is_err() {
        say(&format!("{} is empty and can be deleted", path.display()));
    }
    Ok(Repaired {
        repair,
        file: (repair.removed > 0).then_some(path),
    })
}

fn text(outcome: &Outcome) -> String {
    let report = &outcome.report;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut text, report, outcome.repair.as_ref());
    text
}

fn write_text(
    text: &mut String,
    report: &CheckReport,
    repaired: Option<&Repaired>,
) -> std::fmt::Result {
    for count in &report.kinds {
        write!(text, "  {:<14}{:>12}", count.kind, count.pairs)?;
        if count.bad > 0 {
            write!(text, "  {} unreadable", count.bad)?;
        }
        writeln!(text)?;
    }
    for bad in &report.listed {
        write!(text, "unreadable {} {}", bad.kind, bad.key)?;
        if let Some(device) = bad.device {
            write!(text, ", device {device}")?;
        }
        if let Some(message) = &bad.message {
            write!(text, ", message {message}")?;
        }
        writeln!(text, ": {}", bad.problem)?;
    }
    if report.bad > LISTED_MAX as u64 {
        writeln!(text, "… and {} more", report.bad - LISTED_MAX as u64)?;
    }
    for problem in &report.problems {
        writeln!(text, "{problem}")?;
    }
    if report.mismatches > LISTED_MAX as u64 {
        writeln!(text, "… and {} more", report.mismatches - LISTED_MAX as u64)?;
    }
    if let Some(Repaired { repair, file }) = repaired {
        if let Some(file) = file {
            writeln!(
                text,
                "{} values were taken out; they are in {}",
                repair.removed,
                file.display()
            )?;
        }
        if repair.left_to_broker > 0 {
            writeln!(
                text,
                "{} values are left to the broker, which tells their devices of a gap",
                repair.left_to_broker
            )?;
        }
        if repair.irreparable > 0 {
            writeln!(text, "{} values cannot be repaired", repair.irreparable)?;
        }
    }
    let (values, bytes) = (report.seen.pairs, size(report.seen.bytes));
    match report.is_fine() {
        true => writeln!(text, "{values} values, {bytes}: nothing is wrong with them"),
        false => writeln!(
            text,
            "{values} values, {bytes}: {} unreadable, {} that do not fit together",
            report.bad, report.mismatches
        ),
    }
}
