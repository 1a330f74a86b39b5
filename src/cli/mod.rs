//! The commands of the `petrel` binary.
//!
//! Each command is one file (or folder) with its arguments and a `run`. Commands find a running broker through the
//! `ready.json` of its data directory, or by explicit addresses and keys.

mod config_command;
mod demo;
mod exit;
mod http;
mod listen;
mod send;
mod serve;
mod store;
mod target;

use clap::{Parser, Subcommand};

pub use self::exit::Failure;

/// A self-hosted push provider: devices over QUIC, publishers over HTTP, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "petrel", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    Serve(serve::Args),
    /// Be a device: register, print what arrives.
    Listen(listen::Args),
    /// Publish a message.
    Send(send::Args),
    /// See the whole thing work: broker, a thousand devices, a kill, nothing lost.
    Demo(demo::Args),
    /// Check and show the configuration.
    #[command(subcommand)]
    Config(config_command::Args),
    /// Look after the store: check, sizes, compaction, export, import, backup.
    #[command(subcommand)]
    Store(store::Args),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// [`Failure`]: what to print and which exit code to end with.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Listen(args) => listen::run(args),
            Command::Send(args) => send::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Config(args) => config_command::run(&args),
            Command::Store(args) => store::run(args),
        }
    }
}
