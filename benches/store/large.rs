//! A large backlog: rate over time, memory, disk, and the start after SIGKILL.
//!
//! A child process fills the store and is killed right after its last commit; the next ones open what it left, each in a
//! process of its own, so that memory is that of the opening alone. They are killed too: nothing gets an orderly end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::report::{Moment, Report, Target};
use crate::settings::{Settings, Stage};
use crate::workload::{self, Messages, Random};
use crate::{engine, print, proc, say};

/// Disk that a message may take while the store is being filled, and a registration with it: measured, doubled.
const BYTES_PER_MESSAGE: u64 = 2000;
const BYTES_PER_DEVICE: u64 = 2000;

const GIB: f64 = (1 << 30) as f64;

/// What a child says, one a line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Moment {
        seconds: f64,
        messages: u64,
        memory_bytes: u64,
        disk_bytes: u64,
    },
    Filled,
    Opened {
        open_s: f64,
        load_s: f64,
        memory_bytes: u64,
        queued_messages: u64,
        registrations: u64,
    },
    Live {
        keys: u64,
        bytes: u64,
        seconds: f64,
    },
}

impl Said {
    fn say(&self) -> Result<()> {
        print(&(serde_json::to_string(self)? + "\n"));
        Ok(())
    }
}

/// What a child does.
pub(crate) fn stage(stage: Stage, settings: &Settings) -> Result<()> {
    match stage {
        Stage::Fill => fill(settings)?,
        Stage::Open => {
            let opened = engine::open(settings)?;
            Said::Opened {
                open_s: opened.open.as_secs_f64(),
                load_s: opened.load.as_secs_f64(),
                memory_bytes: proc::memory(),
                queued_messages: opened.loaded.queued_messages,
                registrations: opened.loaded.registrations.len() as u64,
            }
            .say()?;
            wait_to_be_killed();
        }
        Stage::Live => {
            let live = engine::live(settings)?;
            Said::Live {
                keys: live.keys,
                bytes: live.bytes,
                seconds: live.took.as_secs_f64(),
            }
            .say()?;
            wait_to_be_killed();
        }
    }
    Ok(())
}

/// Ends with the parent at the latest: then nothing holds the other end of standard input.
fn wait_to_be_killed() {
    let _ = std::io::stdin().lines().next();
}

fn fill(settings: &Settings) -> Result<()> {
    let mut opened = engine::open(settings)?;
    ensure!(
        opened.loaded.queued_messages == 0,
        "there are queued messages in {} already; choose an empty directory",
        settings.dir.display()
    );
    workload::register(&mut opened, settings)?;
    let mut messages = Messages::new(&mut opened, settings)?;
    let devices = workload::shuffled(settings.devices, &mut Random::new(1));
    let started = Instant::now();
    let mut failed = None;
    let told = |done| {
        let said = Said::Moment {
            seconds: started.elapsed().as_secs_f64(),
            messages: done,
            memory_bytes: proc::memory(),
            disk_bytes: proc::disk_bytes(&settings.dir),
        };
        failed = failed.take().or(said.say().err());
    };
    workload::fill(
        &mut *opened.store,
        &mut messages,
        &devices,
        settings.messages,
        told,
    )?;
    if let Some(error) = failed {
        return Err(error);
    }
    Said::Filled.say()?;
    wait_to_be_killed();
    Ok(())
}

pub(crate) fn run(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    check_space(settings)?;
    let moments = filled(settings)?;
    let last = *moments.last().context("the child told of no moment")?;
    let memory = moments.iter().map(|m| m.memory_bytes).max().unwrap_or(0);
    let rate = last.messages as f64 / last.seconds;
    report.add("fill_messages_per_s", rate, "/s");
    report.add("fill_messages_per_s_at_the_end", late_rate(&moments), "/s");
    report.judge(
        "fill_memory_gib_max",
        memory as f64 / GIB,
        "GiB",
        Target::AtMost(1.0),
    );
    report.add("disk_gib", last.disk_bytes as f64 / GIB, "GiB");
    report.moments(moments);
    opened("after SIGKILL", settings, report, AFTER_KILL)?;
    opened("once more", settings, report, ONCE_MORE)?;
    let Said::Live {
        keys,
        bytes,
        seconds,
    } = asked(settings, Stage::Live)?
    else {
        bail!("the child did not add up what is alive");
    };
    let disk = proc::disk_bytes(&settings.dir);
    report.add("live_keys", keys as f64, "");
    report.add("live_gib", bytes as f64 / GIB, "GiB");
    report.add("live_keys_read_per_s", keys as f64 / seconds, "/s");
    report.add("disk_gib_after_opening", disk as f64 / GIB, "GiB");
    report.add("disk_per_live_byte", disk as f64 / bytes as f64, "×");
    Ok(())
}

fn check_space(settings: &Settings) -> Result<()> {
    let wanted =
        settings.messages * BYTES_PER_MESSAGE + u64::from(settings.devices) * BYTES_PER_DEVICE;
    if let Some(free) = proc::file_system(&settings.dir).free_bytes {
        ensure!(
            free >= wanted,
            "{} has {:.1} GiB free, and this run may take {:.1} GiB: choose another --dir or fewer --messages",
            settings.dir.display(),
            free as f64 / GIB,
            wanted as f64 / GIB
        );
    }
    Ok(())
}

/// Messages a second in the last tenth of the messages.
fn late_rate(moments: &[Moment]) -> f64 {
    let Some(last) = moments.last() else {
        return 0.0;
    };
    let late = last.messages / 10 * 9;
    let from = moments.iter().rev().find(|m| m.messages <= late);
    let (messages, seconds) = from.map_or((0, 0.0), |m| (m.messages, m.seconds));
    (last.messages - messages) as f64 / (last.seconds - seconds)
}

/// Names and targets of one opening.
struct Names {
    start: &'static str,
    open: &'static str,
    load: &'static str,
    memory: &'static str,
    start_s_max: f64,
}

const AFTER_KILL: Names = Names {
    start: "start_after_kill_s",
    open: "open_after_kill_s",
    load: "load_after_kill_s",
    memory: "memory_gib_opened_after_kill",
    start_s_max: 60.0,
};

const ONCE_MORE: Names = Names {
    start: "start_once_more_s",
    open: "open_once_more_s",
    load: "load_once_more_s",
    memory: "memory_gib_opened_once_more",
    start_s_max: 10.0,
};

/// Opens the store in a child; nothing may be missing.
fn opened(which: &str, settings: &Settings, report: &mut Report<'_>, names: Names) -> Result<()> {
    say(&format!("opening {which} …"));
    let Said::Opened {
        open_s,
        load_s,
        memory_bytes,
        queued_messages,
        registrations,
    } = asked(settings, Stage::Open)?
    else {
        bail!("the child did not open the store");
    };
    ensure!(
        queued_messages == settings.messages,
        "{queued_messages} messages are left of {}",
        settings.messages
    );
    let wanted = u64::from(settings.devices);
    ensure!(
        !settings.has_registrations || registrations == wanted,
        "{registrations} registrations are left of {wanted}"
    );
    let target = Target::AtMost(names.start_s_max);
    report.judge(names.start, open_s + load_s, "s", target);
    report.add(names.open, open_s, "s");
    report.add(names.load, load_s, "s");
    let memory = memory_bytes as f64 / GIB;
    report.judge(names.memory, memory, "GiB", Target::AtMost(1.0));
    Ok(())
}

/// Fills the store in a child that is killed when it is done.
fn filled(settings: &Settings) -> Result<Vec<Moment>> {
    let mut moments: Vec<Moment> = Vec::new();
    let mut child = Killed::start(settings, Stage::Fill)?;
    loop {
        match child.says()? {
            Said::Moment {
                seconds,
                messages,
                memory_bytes,
                disk_bytes,
            } => {
                let before = moments.last().map_or((0.0, 0), |m| (m.seconds, m.messages));
                let messages_per_s = (messages - before.1) as f64 / (seconds - before.0);
                moments.push(Moment {
                    seconds,
                    messages,
                    messages_per_s,
                    memory_bytes,
                    disk_bytes,
                });
            }
            Said::Filled => return Ok(moments),
            Said::Opened { .. } | Said::Live { .. } => bail!("the child did something else"),
        }
    }
}

/// The one thing that a child says.
fn asked(settings: &Settings, stage: Stage) -> Result<Said> {
    Killed::start(settings, stage)?.says()
}

/// A child that gets SIGKILL when this is dropped.
struct Killed {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Killed {
    fn start(settings: &Settings, stage: Stage) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(settings.child_arguments(stage))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a child")?;
        let stdout = child.stdout.take().context("it was asked for")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    fn says(&mut self) -> Result<Said> {
        let line = self.lines.next();
        let line = line.context("the child has ended; it has said why above")??;
        serde_json::from_str(&line).with_context(|| format!("the child said {line:?}"))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // SIGKILL, and nothing is left to do if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
