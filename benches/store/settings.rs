//! The command line, and what each scenario takes where it says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;

use crate::proc;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Durable enqueues to distinct offline devices, with very many publishes waiting.
    Enqueue,
    /// One publish at a time, with pauses.
    Lone,
    /// Attaching devices read their queues, and drain them with acks.
    Replay,
    /// Scans of attaching devices while much is being written.
    Mixed,
    /// A large backlog: memory, disk, and the start after SIGKILL.
    Large,
    /// Broadcasts to very many offline subscribers.
    Broadcast,
    /// What became of unicasts to devices that are online.
    History,
}

/// What keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Engine {
    /// sled 0.34.
    Sled,
    /// fjall 3; needs `--features fjall`.
    Fjall,
    /// Memory: what the store itself costs.
    Memory,
}

impl Engine {
    /// Its name on the command line and in the JSON document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
            Self::Memory => "memory",
        }
    }
}

/// What a child process of `large` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// Fills the store and waits to be killed.
    Fill,
    /// Opens it, and waits to be killed.
    Open,
    /// Adds up what is alive in it.
    Live,
}

impl Stage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Open => "open",
            Self::Live => "live",
        }
    }
}

/// Measures Petrel's store at its trait.
#[derive(Debug, Parser)]
#[command(name = "store")]
pub(crate) struct Arguments {
    /// What to measure.
    #[arg(value_enum)]
    scenario: Scenario,
    /// Devices; of `broadcast` the subscribers.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    devices: Option<u32>,
    /// Messages that are queued before anything is measured; of `broadcast` and `history` those that are measured.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    messages: Option<u64>,
    /// What keeps the data.
    #[arg(long, value_enum, default_value_t = Engine::Sled)]
    engine: Engine,
    /// Where the data goes, on a real disk; it is kept. Left out: a temporary directory below the target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Bound of the engine's cache, such as 64MiB or 1GiB. The default is that of `store.cache`.
    #[arg(long, default_value = "64MiB", value_parser = size)]
    cache: u64,
    /// How long `enqueue`, `lone` and `mixed` measure.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Publishes a second of `mixed` and `history`.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Devices that attach each second in `mixed`.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    attaches: u32,
    /// Bytes of content of a message.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=4096))]
    content: u32,
    /// Leave out the registrations that the data set otherwise begins with.
    #[arg(long)]
    no_registrations: bool,
    /// Write the result as one JSON document.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// How `large` starts itself.
    #[arg(long, hide = true, value_enum)]
    pub(crate) stage: Option<Stage>,
    /// `cargo bench` says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a run is set to.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) engine: Engine,
    pub(crate) devices: u32,
    pub(crate) messages: u64,
    pub(crate) cache_bytes: u64,
    pub(crate) content_bytes: u32,
    pub(crate) seconds: u32,
    pub(crate) rate: u32,
    pub(crate) attaches: u32,
    pub(crate) has_registrations: bool,
    /// Of the data directory.
    pub(crate) file_system: String,
    #[serde(skip)]
    pub(crate) dir: PathBuf,
    /// Removes it at the end.
    #[serde(skip)]
    _temporary: Option<TempDir>,
}

impl Settings {
    pub(crate) fn new(arguments: &Arguments) -> Result<Self> {
        let (devices, messages) = match arguments.scenario {
            Scenario::Enqueue => (1_000_000, 0),
            Scenario::Lone => (100_000, 0),
            Scenario::Replay => (100_000, 1_000_000),
            Scenario::Mixed => (1_000_000, 200_000),
            Scenario::Large => (1_000_000, 10_000_000),
            Scenario::Broadcast => (1_000_000, 50),
            Scenario::History => (1_000_000, 1_000_000),
        };
        let (dir, temporary) = match &arguments.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let below = Path::new(env!("CARGO_TARGET_TMPDIR"));
                fs::create_dir_all(below).with_context(|| format!("making {}", below.display()))?;
                let temporary = tempfile::Builder::new()
                    .prefix("store-bench-")
                    .tempdir_in(below)
                    .with_context(|| format!("making a directory in {}", below.display()))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        if arguments.scenario == Scenario::Large {
            ensure!(
                arguments.engine != Engine::Memory,
                "`large` kills the process that holds the data; choose an engine that keeps it"
            );
        }
        Ok(Self {
            scenario: arguments.scenario,
            engine: arguments.engine,
            devices: arguments.devices.unwrap_or(devices),
            messages: arguments.messages.unwrap_or(messages),
            cache_bytes: arguments.cache,
            content_bytes: arguments.content,
            seconds: arguments.seconds,
            rate: arguments.rate,
            attaches: arguments.attaches,
            has_registrations: !arguments.no_registrations,
            file_system: proc::file_system(&dir).kind,
            dir,
            _temporary: temporary,
        })
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }

    /// What a child of this run is started with.
    pub(crate) fn child_arguments(&self, stage: Stage) -> Vec<String> {
        let mut arguments = vec![
            "large".into(),
            format!("--stage={}", stage.name()),
            format!("--engine={}", self.engine.name()),
            format!("--devices={}", self.devices),
            format!("--messages={}", self.messages),
            format!("--cache={}", self.cache_bytes),
            format!("--content={}", self.content_bytes),
            format!("--dir={}", self.dir.display()),
        ];
        if !self.has_registrations {
            arguments.push("--no-registrations".into());
        }
        arguments
    }
}

/// A number of bytes with its unit.
fn size(text: &str) -> Result<u64, String> {
    let units = [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("", 1),
    ];
    units
        .into_iter()
        .find_map(|(unit, bytes)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(bytes)
        })
        .ok_or_else(|| "write a number and a unit such as 64MiB or 1GiB".into())
}
