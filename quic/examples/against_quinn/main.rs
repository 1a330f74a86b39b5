//! Measures what a connection costs this crate, against plain quinn, in one run on one machine.
//!
//! ```sh
//! cargo run --release -p petrel-quic --example against_quinn -- --connections 10000 --rounds 5 --json FILE
//! ```
//!
//! For each [`Form`] of server, one after the other, a child process of this same program serves clients that live in
//! this process. What is measured is the child, through `/proc`: memory at rest, CPU of a handshake, CPU and packets of
//! a broadcast of 256 bytes to everyone.
//!
//! | file | idea |
//! |---|---|
//! | `measure` | the order of things in a run, and what it makes of the readings |
//! | `child`, `proc` | the server's process, and what the kernel says of it |
//! | `clients` | connections in very light clients, which can be stopped for a moment |
//! | `server_petrel`, `server_quinn` | the servers, which do the same thing |
//! | `wire` | what clients and server, parent and child say to each other |
//! | `report` | the table and the JSON document |

mod child;
mod clients;
mod measure;
mod proc;
mod report;
mod server_petrel;
mod server_quinn;
mod wire;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use petrel_quic::Engine;
use serde::Serialize;
use tikv_jemallocator::Jemalloc;

/// As the broker has it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What the server is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    /// quinn with the transport that it has by default.
    QuinnDefault,
    /// quinn with the bounds of petrel-quic: one stream, small windows, no datagrams, no MTU discovery.
    Quinn,
    /// petrel-quic, connections stay with quinn-proto.
    Proto,
    /// petrel-quic as it is.
    Resident,
}

impl Form {
    /// Its name on the command line and in the JSON document.
    fn name(self) -> &'static str {
        match self {
            Self::QuinnDefault => "quinn-default",
            Self::Quinn => "quinn",
            Self::Proto => "proto",
            Self::Resident => "resident",
        }
    }
}

/// Measures what a connection costs petrel-quic, against plain quinn.
#[derive(Debug, Parser)]
struct Arguments {
    /// Connections in the end; memory is read at a quarter, at half and at all of them.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    connections: u32,
    /// Broadcasts of each kind, of which the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Which servers.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Form::QuinnDefault, Form::Quinn, Form::Proto, Form::Resident])]
    forms: Vec<Form>,
    /// Write the result as one JSON document.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Serve, obey standard input, and end with it. This is how the program starts itself.
    #[arg(long, hide = true, value_enum, value_name = "FORM")]
    serve: Option<Form>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.serve {
        Some(form) => serve(form),
        None => compare(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("against_quinn: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(form: Form) -> Result<()> {
    match form {
        Form::QuinnDefault => server_quinn::run(false),
        Form::Quinn => server_quinn::run(true),
        Form::Proto => server_petrel::run(Engine::Proto),
        Form::Resident => server_petrel::run(Engine::Resident),
    }
}

fn compare(arguments: &Arguments) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "only a release build says anything: cargo run --release …"
    );
    let mut report = report::Report::begin(arguments.connections, arguments.rounds);
    for &form in &arguments.forms {
        say(&format!("measuring {} …", form.name()));
        let figures = measure::run(form, arguments.connections, arguments.rounds)
            .with_context(|| format!("measuring {}", form.name()))?;
        report.add(figures);
    }
    report.finish();
    if let Some(path) = &arguments.json {
        fs::write(path, report.json()?).with_context(|| format!("writing {}", path.display()))?;
    }
    #[expect(clippy::print_stdout, reason = "the one place that prints the result")]
    {
        print!("{report}");
    }
    Ok(())
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
