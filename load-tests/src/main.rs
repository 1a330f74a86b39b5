//! Puts load on a Petrel broker and measures it.
//!
//! Three parts: [`fleet`] is the devices, very many and light; [`broker`] is whom they talk to, started here or running
//! already; [`measure`] reads what it costs both. [`scenario`] puts them together, [`report`] says what came out. Load
//! goes to loopback only. What the figures mean and how they are made is told in `load-tests/README.md`.

mod arguments;
mod broker;
mod fleet;
mod http;
mod measure;
mod progress;
mod registrations;
mod report;
mod scenario;
mod settings;

use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;

/// As the broker has it, so that figures of both ends compare.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match arguments::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one place that prints errors")]
            {
                eprintln!("petrel-load: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
