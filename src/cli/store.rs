//! `petrel store`: look after a store.
//!
//! All but `stats` and `backup` need the broker stopped and hold the data directory's lock while they work; those two
//! ask a running broker through its admin port. Exit codes: 0 done, 1 failed, 3 problems found by `check`.

mod backup;
mod check;
mod compact;
mod export;
mod import;
mod place;
mod progress;
mod stats;

use std::path::PathBuf;

use super::Failure;

use self::place::Place;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Read every value of a stopped broker's store; exit code 3 if something is wrong.
    Check {
        #[command(flatten)]
        place: Place,
        /// Take out what cannot be read, after writing it to a file in the data directory.
        #[arg(long)]
        repair: bool,
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what takes how much room. A running broker is asked; a stopped one's store is read.
    Stats {
        #[command(flatten)]
        place: Place,
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Rewrite a stopped broker's store, which gives back the room of what was deleted.
    Compact {
        #[command(flatten)]
        place: Place,
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a stopped broker's store to a portable file.
    Export {
        /// The file, which must not exist yet; - for stdout.
        file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Read an export into a stopped broker's empty store.
    Import {
        /// The file; - for stdin.
        file: PathBuf,
        #[command(flatten)]
        place: Place,
        /// Take the export of a broker with other keys: its devices must register again.
        #[arg(long)]
        foreign: bool,
    },
    /// Copy a running or stopped broker's store and keys to a new data directory.
    Backup {
        /// The directory, which must not exist yet.
        directory: PathBuf,
        #[command(flatten)]
        place: Place,
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args {
        Args::Check {
            place,
            repair,
            json,
        } => check::run(&place, repair, json),
        Args::Stats { place, json } => stats::run(&place, json),
        Args::Compact { place, json } => compact::run(&place, json),
        Args::Export { file, place } => export::run(&place, &file),
        Args::Import {
            file,
            place,
            foreign,
        } => import::run(&place, &file, foreign),
        Args::Backup {
            directory,
            place,
            json,
        } => backup::run(&place, &directory, json),
    }
}
