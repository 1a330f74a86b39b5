//! `petrel config`: check and show the configuration.

use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use super::serve::{Flags, load};
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Check a file: everything that is wrong with it, at once.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Show every key, its value and where that comes from.
    Show {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<Flags>,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match args {
        Args::Check { file } => {
            Config::load(Some(file), std::iter::empty(), &[])?;
            writeln!(out, "{} is good", file.display())?;
        }
        Args::Show { config, flags } => {
            let config = load(config.as_deref(), flags)?;
            write!(out, "{}", config.show())?;
        }
    }
    Ok(())
}
