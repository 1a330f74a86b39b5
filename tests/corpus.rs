//! Replays what the fuzzer found worth keeping of Petrel's own protocol. `quic/tests/corpus.rs` does so of the transport.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, panic, path::Path};

#[expect(
    unreachable_pub,
    reason = "the fuzz targets, which share it, are another crate"
)]
#[path = "../fuzz/src/protocol.rs"]
mod protocol;

/// Runs every input of a target, in the order of their names.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 10, "{} of {target}", files.len());
    for file in files {
        let input = fs::read(&file).unwrap();
        let outcome = panic::catch_unwind(|| run(&input));
        assert!(outcome.is_ok(), "{}", file.display());
    }
}

#[test]
fn protocol_frames() {
    replay("protocol_frames", protocol::frames);
}

#[test]
fn token() {
    replay("token", protocol::token);
}
