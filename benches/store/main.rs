//! Measures the store at its trait, with records as the broker writes them, against what it has to reach.
//!
//! ```sh
//! cargo bench --bench store -- enqueue --json FILE
//! ```
//!
//! A program of its own: what matters here are rates and latencies of durable commits under a load that waits, over a
//! data set of a given size, which a benchmark that repeats one call cannot show.
//!
//! | file | idea |
//! |---|---|
//! | `settings` | the command line, and what each scenario takes where it says nothing |
//! | `calls` | the only place that calls the store for devices: enqueue, attach, settle |
//! | `engine` | opens a store over an engine that counts what reaches it |
//! | `workload` | devices in random order, messages with content of a given size |
//! | `owner` | the one thread that owns the store and commits in groups, as the broker's committer does |
//! | `enqueue`, `replay`, `mixed`, `large`, `broadcast`, `history` | the scenarios |
//! | `proc` | what the kernel says of memory, CPU, disk and machine |
//! | `report` | the table and the JSON document |

mod broadcast;
mod calls;
mod engine;
mod enqueue;
mod history;
mod large;
mod mixed;
mod owner;
mod proc;
mod replay;
mod report;
mod settings;
mod workload;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use tikv_jemallocator::Jemalloc;

use self::report::Report;
use self::settings::{Arguments, Scenario, Settings};

/// As the broker has it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let result = run(&Arguments::parse());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("store: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "only a release build says anything: cargo bench --bench store -- …"
    );
    let settings = Settings::new(arguments)?;
    if let Some(stage) = arguments.stage {
        return large::stage(stage, &settings);
    }
    let mut report = Report::begin(&settings);
    match settings.scenario {
        Scenario::Enqueue => enqueue::under_load(&settings, &mut report),
        Scenario::Lone => enqueue::lone(&settings, &mut report),
        Scenario::Replay => replay::run(&settings, &mut report),
        Scenario::Mixed => mixed::run(&settings, &mut report),
        Scenario::Large => large::run(&settings, &mut report),
        Scenario::Broadcast => broadcast::run(&settings, &mut report),
        Scenario::History => history::run(&settings, &mut report),
    }?;
    report.finish();
    if let Some(path) = &arguments.json {
        fs::write(path, report.json()?).with_context(|| format!("writing {}", path.display()))?;
    }
    print(&report.to_string());
    Ok(())
}

/// Results: the table, and what a child says to its parent.
fn print(text: &str) {
    #[expect(clippy::print_stdout, reason = "the one place that prints results")]
    {
        print!("{text}");
    }
}

/// Progress and errors.
fn say(line: &str) {
    #[expect(
        clippy::print_stderr,
        reason = "the one place that prints progress and errors"
    )]
    {
        eprintln!("{line}");
    }
}
