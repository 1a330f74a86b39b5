//! Compaction, and what is left of a swap that was cut off.

use super::swap::{Places, STEPS};
use super::*;
use crate::store::Durability;

#[test]
fn compaction_keeps_every_pair_and_gives_room_back() {
    let directory = filled();
    {
        // What was written and deleted takes room until then.
        let mut map = sled(&directory.path().join("db")).unwrap();
        for n in 0..2_000_u32 {
            let key = format!("Qx{n}").into_bytes();
            map.write(&[(key, Some(vec![n as u8; 4_000]))]).unwrap();
        }
        map.sync(Durability::Durable).unwrap();
        for n in 0..2_000_u32 {
            map.write(&[(format!("Qx{n}").into_bytes(), None)]).unwrap();
        }
        map.sync(Durability::Durable).unwrap();
    }
    let before = contents(directory.path());
    let compacted = compact(directory.path(), &sled, &mut silent()).unwrap();
    assert_eq!(contents(directory.path()), before);
    assert_eq!(compacted.live.pairs, before.len() as u64);
    assert!(
        compacted.after_bytes < compacted.before_bytes,
        "{compacted:?}"
    );
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn without_a_store_there_is_nothing_to_compact() {
    let directory = tempfile::tempdir().unwrap();
    let error = compact(directory.path(), &sled, &mut silent()).unwrap_err();
    assert!(matches!(error, MaintenanceError::NoStore(_)), "{error}");
    assert!(!directory.path().join("db").exists());
}

#[test]
fn a_compaction_that_fails_leaves_the_old_store() {
    let directory = filled();
    let before = contents(directory.path());
    let tmp = directory.path().join("db.compact-tmp");
    let open = |path: &Path| {
        if *path == tmp {
            return Err(StoreError::Engine {
                path: path.to_owned(),
                source: "no space left".into(),
            });
        }
        sled(path)
    };
    assert!(compact(directory.path(), &open, &mut silent()).is_err());
    assert_eq!(contents(directory.path()), before);
    assert!(!tmp.exists());
}

fn directory_saying(path: &Path, text: &str) {
    std::fs::create_dir_all(path.join("inside")).unwrap();
    std::fs::write(path.join("inside/text"), text).unwrap();
}

fn says(path: &Path) -> String {
    std::fs::read_to_string(path.join("inside/text")).unwrap()
}

/// Cut off after each step, and again after each step of putting it right: one of the two is whole, nothing else is
/// left.
#[test]
fn a_swap_cut_off_anywhere_is_finished_or_undone() {
    for had_old in [true, false] {
        for done in 0..=STEPS.len() {
            let directory = tempfile::tempdir().unwrap();
            let places = Places::of(directory.path());
            if had_old {
                directory_saying(&places.db, "old");
            }
            directory_saying(&places.tmp, "new");
            for step in &STEPS[..done] {
                step(&places).unwrap();
            }
            let found = finish_interrupted_compaction(directory.path()).unwrap();
            let expect = match (had_old, done) {
                (true, 0 | 1) => Some("old"),
                (false, 0..=2) => None,
                _ => Some("new"),
            };
            let now = places.db.exists().then(|| says(&places.db));
            assert_eq!(now.as_deref(), expect, "{had_old} {done}: {found:?}");
            for gone in [&places.tmp, &places.old, &places.trash] {
                assert!(!gone.exists(), "{had_old} {done}: {}", gone.display());
            }
            let again = finish_interrupted_compaction(directory.path()).unwrap();
            assert_eq!(again, Interrupted::Nothing);
        }
    }
}

#[test]
fn what_no_swap_leaves_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let places = Places::of(directory.path());
    for (path, text) in [(&places.db, "a"), (&places.tmp, "b"), (&places.old, "c")] {
        directory_saying(path, text);
    }
    let error = finish_interrupted_compaction(directory.path()).unwrap_err();
    assert!(matches!(error, MaintenanceError::Tangled(_)), "{error}");
    for (path, text) in [(&places.db, "a"), (&places.tmp, "b"), (&places.old, "c")] {
        assert_eq!(says(path), text);
    }
}

#[test]
fn an_old_database_alone_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let places = Places::of(directory.path());
    directory_saying(&places.old, "old");
    directory_saying(&places.trash, "rubbish");
    let found = finish_interrupted_compaction(directory.path()).unwrap();
    assert_eq!(found, Interrupted::Undone);
    assert_eq!(says(&places.db), "old");
    assert!(!places.trash.exists());
}

#[test]
fn a_disk_without_room_is_named() {
    let directory = tempfile::tempdir().unwrap();
    assert!(require_space(directory.path(), 1).is_ok());
    let error = require_space(directory.path(), u64::MAX).unwrap_err();
    assert!(error.to_string().contains("make room"), "{error}");
}
