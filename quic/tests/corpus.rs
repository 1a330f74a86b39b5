//! Replays what the fuzzer found worth keeping: every input reaches something that the others do not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, panic, path::Path};

use petrel_quic::sim::hostile;

/// Runs every input of a target, in the order of their names.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
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
fn datagrams() {
    replay("datagrams", hostile::datagrams);
}

#[test]
fn resident_frames() {
    replay("resident_frames", hostile::resident_frames);
}
