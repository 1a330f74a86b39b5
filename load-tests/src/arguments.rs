//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::broker::{Choice, Explicit};
use crate::scenario::{self, Order};
use crate::settings::Settings;

/// Puts load on a Petrel broker and measures it.
#[derive(Debug, Parser)]
#[command(name = "petrel-load", version, about, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario: idle, fanout, or the path of a .toml file.
    Run(Run),
}

#[derive(Debug, Args)]
struct Run {
    /// idle, fanout, or the path of a .toml file that says which of them it sets.
    scenario: String,
    /// Change a setting; the scenario's file lists all of them.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the result as one JSON document; - for stdout, and nothing else there.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    own: Own,
    #[command(flatten)]
    foreign: Foreign,
}

/// A broker that is started here. This is the default.
#[derive(Debug, Args)]
struct Own {
    /// The broker's binary [default: petrel beside petrel-load].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "broker"])]
    petrel: Option<PathBuf>,
    /// Configuration file of the broker.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "broker"])]
    broker_config: Option<PathBuf>,
    /// Keep the broker's data and the registrations here, for later runs [default: a temporary directory].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data_dir", "broker"])]
    home: Option<PathBuf>,
}

/// A broker that runs already.
#[derive(Debug, Args)]
struct Foreign {
    /// Use the broker that runs on this data directory.
    #[arg(long, value_name = "DIR", conflicts_with = "broker")]
    data_dir: Option<PathBuf>,
    /// Use the broker at this UDP address.
    #[arg(long, value_name = "ADDR", requires_all = ["ca", "project", "app_key", "http", "api_key"])]
    broker: Option<SocketAddr>,
    /// What its certificate is trusted by.
    #[arg(long, value_name = "FILE", requires = "broker")]
    ca: Option<PathBuf>,
    /// The project to register with.
    #[arg(long, value_name = "NAME", requires = "broker")]
    project: Option<String>,
    /// A key for devices.
    #[arg(long, value_name = "KEY", requires = "broker")]
    app_key: Option<String>,
    /// Where it takes publishes: http://ip:port.
    #[arg(long, value_name = "URL", requires = "broker")]
    http: Option<String>,
    /// A key for publishers.
    #[arg(long, value_name = "KEY", requires = "broker")]
    api_key: Option<String>,
    /// Where its metrics are: http://ip:port. Without it some figures are missing.
    #[arg(long, value_name = "URL", requires = "broker")]
    admin: Option<String>,
    /// Its process, on this machine. Without it CPU and memory are missing.
    #[arg(long, value_name = "PID", requires = "broker")]
    pid: Option<u32>,
    /// Keep the registrations here, for later runs with the same broker.
    #[arg(long, value_name = "FILE")]
    registrations: Option<PathBuf>,
}

impl Arguments {
    /// Runs the command to its end.
    pub(crate) fn run(self) -> Result<()> {
        let Command::Run(run) = self.command;
        let settings = Settings::new(&run.scenario, &run.set)?;
        let order = Order {
            settings,
            json: run.json,
            choice: choice(run.own, run.foreign)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the system gives no runtime")?;
        runtime.block_on(interruptible(order))
    }
}

fn choice(own: Own, foreign: Foreign) -> Result<Choice> {
    let registrations = foreign.registrations;
    if let Some(data_dir) = foreign.data_dir {
        return Ok(Choice::DataDir {
            data_dir,
            registrations,
        });
    }
    if let Some(quic) = foreign.broker {
        let needed =
            |value: Option<String>, flag| value.with_context(|| format!("{flag} is missing"));
        return Ok(Choice::Explicit {
            explicit: Explicit {
                quic,
                ca: foreign.ca.context("--ca is missing")?,
                project: needed(foreign.project, "--project")?,
                app_key: needed(foreign.app_key, "--app-key")?,
                http: needed(foreign.http, "--http")?,
                api_key: needed(foreign.api_key, "--api-key")?,
                admin: foreign.admin,
                pid: foreign.pid,
            },
            registrations,
        });
    }
    if registrations.is_some() {
        bail!(
            "--registrations goes with --data-dir or --broker; a broker of our own keeps them in its --home"
        );
    }
    Ok(Choice::Own {
        petrel: own.petrel,
        config: own.broker_config,
        home: own.home,
    })
}

/// Runs until the end or a signal. Dropping the run takes broker, devices and temporary directory with it.
async fn interruptible(order: Order) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        outcome = scenario::run(order) => return outcome,
    }
    bail!("interrupted; what was started is stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Choice, String> {
        let words = ["petrel-load", "run", "idle"]
            .into_iter()
            .chain(arguments.split_whitespace());
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Run(run) = parsed.command;
        choice(run.own, run.foreign).map_err(|error| error.to_string())
    }

    #[test]
    fn a_broker_is_chosen_in_one_of_three_ways() {
        assert!(matches!(parse(""), Ok(Choice::Own { home: None, .. })));
        assert!(matches!(
            parse("--home h --petrel p"),
            Ok(Choice::Own { .. })
        ));
        assert!(matches!(
            parse("--data-dir d --registrations r"),
            Ok(Choice::DataDir { .. })
        ));
        let all = "--broker 127.0.0.1:1 --ca c --project p --app-key a --http http://127.0.0.1:2 --api-key k";
        assert!(matches!(parse(all), Ok(Choice::Explicit { .. })));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (arguments, expect) in [
            ("--data-dir d --home h", "cannot be used with"),
            ("--data-dir d --broker 127.0.0.1:1", "cannot be used with"),
            ("--broker 127.0.0.1:1 --ca c", "--api-key"),
            ("--ca c", "--broker"),
            ("--registrations r", "--home"),
        ] {
            let error = parse(arguments).err().unwrap();
            assert!(error.contains(expect), "{arguments}: {error}");
        }
    }
}
