//! The scenarios: what is done in which order, and what is read when.

mod fanout;
mod idle;
mod stage;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use self::stage::Stage;
use crate::broker::Choice;
use crate::progress::Progress;
use crate::report::Report;
use crate::settings::{Program, Settings};

/// What the user ordered.
pub(crate) struct Order {
    pub(crate) settings: Settings,
    /// `-` is stdout.
    pub(crate) json: Option<PathBuf>,
    pub(crate) choice: Choice,
}

/// Runs a scenario and says what came out.
///
/// # Errors
/// The scenario could not be run to its end, or something that has to hold did not.
///
/// # Cancel safety
/// Cancelled, it takes devices, a broker of its own and its temporary directory with it.
pub(crate) async fn run(order: Order) -> Result<()> {
    let began = Instant::now();
    let to_stdout = order
        .json
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    let progress = Progress::new(to_stdout);
    let program = order.settings.program;
    let mut report = Report::new(program.name(), order.settings.table);
    let generator = program.generator();
    report.devices = generator.devices;
    report.sockets = generator.sockets.min(generator.devices);
    report.threads = generator.threads.min(report.sockets);

    let mut stage = Stage::open(order.choice, generator.clone(), &progress, began).await?;
    let outcome = match &program {
        Program::Idle(idle) => idle::run(&mut stage, idle, &mut report).await,
        Program::Fanout(fanout) => fanout::run(&mut stage, fanout, &mut report).await,
    };
    if let Err(error) = outcome {
        return Err(match stage.broker.log_tail() {
            tail if tail.is_empty() => error,
            tail => anyhow!("{error:#}\n\nthe broker's last words:\n{tail}"),
        });
    }
    if let Err(error) = stage.broker.close().await {
        report.problem(format!("{error:#}"));
    }
    report.seconds = began.elapsed().as_secs_f64();

    let json = report.json()?;
    match &order.json {
        Some(_) if to_stdout => std::io::stdout().lock().write_all(json.as_bytes())?,
        Some(path) => {
            std::fs::write(path, json)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => {}
    }
    progress.say(&report.text())?;
    if report.ok {
        return Ok(());
    }
    Err(anyhow!(
        "something that has to hold did not: {}",
        report.problems.join("; ")
    ))
}
