//! `petrel demo`: the whole thing at work. A broker, a thousand devices, a kill under traffic, nothing lost.
//!
//! [`story`] is what happens; [`child`] is the broker, [`fleet`] the devices, [`publisher`] what was sent and answered,
//! [`verdict`] compares the lists of both, [`report`] shows it. Whatever happens, the broker's process and its
//! directory are gone when this command ends.

mod child;
mod fleet;
mod progress;
mod publisher;
mod report;
mod story;
mod verdict;

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use self::child::Home;
use self::progress::Progress;
use self::story::Story;
use super::Failure;

/// Exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Devices to connect.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    devices: u32,
    /// Print the result as one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("petrel-demo")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(interruptible(&args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Runs the demo until it ends or a signal does. Dropping it takes broker and directory with it.
async fn interruptible(args: &Args) -> Result<(), Failure> {
    // Before anything is started, and until the end: a second Ctrl-C must not interrupt the tidying up.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        outcome = demo(args) => return outcome,
    }
    Err(Failure::with_code(
        INTERRUPTED,
        "interrupted; the broker is stopped and its data removed",
    ))
}

async fn demo(args: &Args) -> Result<(), Failure> {
    let home = Home::new()?;
    let progress = Progress::new(args.json);
    let story = Story {
        home: &home,
        progress: &progress,
        began: Instant::now(),
    };
    let report = story
        .tell(args.devices as usize)
        .await
        .map_err(|failure| home.explain(&failure))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.json()?)?;
    } else {
        write!(out, "\n{}\n{}", report.checks_text(), report.table())?;
    }
    out.flush()?;
    if report.is_good() {
        return Ok(());
    }
    let failure = if args.json {
        Failure::new(format!("a check did not hold:\n{}", report.checks_text()))
    } else {
        Failure::new("a check did not hold")
    };
    Err(home.explain(&failure))
}
