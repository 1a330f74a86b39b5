//! QUIC stacks of other people's as devices: what the broker's engines say must be QUIC, not what quinn understands.
//!
//! Each stack does the same: it shakes hands, registers, receives and acks, falls silent for long enough that the broker
//! hands its connection over, moves to another address, changes keys, and closes. aioquic is driven through the device
//! of `docs/guides/device.py`, s2n-quic through the crate in `tests/other-stack`. `cargo xtask test` installs and builds
//! both.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

#[path = "stacks/guide.rs"]
mod guide;
#[path = "stacks/life.rs"]
mod life;
#[path = "stacks/nat.rs"]
mod nat;
#[path = "stacks/process.rs"]
mod process;
#[path = "stacks/trust.rs"]
mod trust;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::process::Command;

/// The configuration of each engine: every stack lives with both.
const RESIDENT: &str = "[quic]\nengine = \"resident\"\n";
const PROTO: &str = "[quic]\nengine = \"proto\"\n";

/// The Python that `cargo xtask test` made, with the packages of `tests/clients/requirements.txt`.
const PYTHON: &str = "TEST_PYTHON";
/// The binary that `cargo xtask test` built from `tests/other-stack`.
const OTHER_STACK: &str = "TEST_OTHER_STACK";

/// Somebody else's QUIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stack {
    Aioquic,
    S2nQuic,
}

impl Stack {
    /// The device, without arguments.
    fn command(self) -> Command {
        match self {
            Self::Aioquic => {
                let mut command = Command::new(given(PYTHON));
                command.arg(in_repository("tests/clients/aioquic_device.py"));
                command
            }
            Self::S2nQuic => Command::new(given(OTHER_STACK)),
        }
    }

    /// Whether its API lets an app move a connection to another socket. All have to bear a NAT that moves them.
    fn migrates(self) -> bool {
        self == Self::Aioquic
    }
}

/// What `cargo xtask test` hands to the tests.
fn given(variable: &str) -> OsString {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run this with `cargo xtask test`"))
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
