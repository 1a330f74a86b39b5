//! The `petrel` binary: hands the command line to [`petrel::cli`].

use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;

/// Millions of small boxes that come and go: size classes close together, and memory given back after a burst.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match petrel::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                // The last word of the process: where stderr is gone, nobody is left to tell.
                #[expect(clippy::print_stderr, reason = "the one place that prints errors")]
                {
                    eprintln!("petrel: {text}");
                }
            }
            ExitCode::from(failure.code())
        }
    }
}
