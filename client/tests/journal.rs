//! The state file: what survives, what is refused, and a model that random histories are compared with.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use petrel_client::{
    Durability, FileStorage, InboxRecord, MessageId, RECENT_IDS, Storage, StorageError, StoredState,
};
use proptest::prelude::*;

fn id(sequence: u64) -> MessageId {
    MessageId { epoch: 7, sequence }
}

fn record(sequence: u64) -> InboxRecord {
    InboxRecord {
        id: id(sequence),
        body: format!("{{\"n\":{sequence}}}"),
    }
}

fn open(path: &Path) -> FileStorage {
    FileStorage::open_with(path, Durability::ProcessEnd).unwrap()
}

#[test]
fn everything_comes_back_after_a_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/with/its/folders.json");
    let mut storage = FileStorage::open(&path).unwrap();
    assert_eq!(storage.load().unwrap(), StoredState::default());
    storage.save_registration("{\"token\":\"a\"}").unwrap();
    storage.append(&[record(1), record(2), record(3)]).unwrap();
    storage.done(&[id(2), id(99)]).unwrap();
    storage.save_registration("{\"token\":\"b\"}").unwrap();
    let expected = StoredState {
        registration: Some("{\"token\":\"b\"}".into()),
        inbox: vec![record(1), record(3)],
        recent: vec![id(1), id(2), id(3)],
    };
    assert_eq!(storage.load().unwrap(), expected);
    drop(storage);
    assert_eq!(open(&path).load().unwrap(), expected);
}

#[test]
fn the_file_is_private_and_locked() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.json");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let storage = FileStorage::open(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let error = FileStorage::open(&path).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }) && error.is_retryable());
    let text = error.to_string();
    assert!(
        text.contains("device.json is in use") && text.contains("another state file"),
        "{text}"
    );
    drop(storage);
    open(&path);
}

#[test]
fn a_torn_tail_is_cut_off_and_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.json");
    let mut storage = open(&path);
    storage.append(&[record(1)]).unwrap();
    let whole = fs::metadata(&path).unwrap().len();
    storage.append(&[record(2)]).unwrap();
    drop(storage);
    let bytes = fs::read(&path).unwrap();
    for cut in whole as usize + 1..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let mut storage = open(&path);
        assert_eq!(storage.load().unwrap().inbox, [record(1)], "cut at {cut}");
        storage.append(&[record(3)]).unwrap();
        drop(storage);
        assert_eq!(
            open(&path).load().unwrap().inbox,
            [record(1), record(3)],
            "cut at {cut}"
        );
    }
}

#[test]
fn a_file_of_another_kind_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.json");
    for content in [
        "dear diary",
        "dear diary\n",
        "{\"a\":1}\n{\"b\":2}\n",
        "{\"petrel_device_state\":2}\n",
    ] {
        fs::write(&path, content).unwrap();
        let error = FileStorage::open(&path).unwrap_err();
        assert!(
            matches!(error, StorageError::Format { line: 1, .. }),
            "{error}"
        );
        assert!(!error.is_retryable());
        let text = error.to_string();
        assert!(
            text.contains("device.json") && text.contains("Name another file"),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let mut storage = open(&path);
    storage.append(&[record(1)]).unwrap();
    storage.append(&[record(2)]).unwrap();
    drop(storage);
    // Rot in the middle is no torn tail: cutting there would lose what comes after it.
    let rotten = fs::read_to_string(&path)
        .unwrap()
        .replacen("kept", "kepd", 1);
    fs::write(&path, &rotten).unwrap();
    let error = FileStorage::open(&path).unwrap_err();
    assert!(
        matches!(error, StorageError::Format { line: 2, .. }),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), rotten);
}

#[test]
fn a_folder_in_its_place_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = FileStorage::open(folder.path()).unwrap_err();
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
}

#[test]
fn dead_lines_are_compacted_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.json");
    let mut storage = open(&path);
    storage.save_registration("{}").unwrap();
    storage.append(&[record(0)]).unwrap();
    let mut largest = 0;
    for sequence in 1..=5000 {
        storage.append(&[record(sequence)]).unwrap();
        storage.done(&[id(sequence)]).unwrap();
        largest = largest.max(fs::metadata(&path).unwrap().len());
    }
    // 1,000 dead lines of about 45 bytes, and 1,024 ids of about 9.
    assert!(largest < 100_000, "{largest} bytes");
    let recent: Vec<MessageId> = storage.load().unwrap().recent;
    drop(storage);
    let state = open(&path).load().unwrap();
    assert_eq!(state.inbox, [record(0)]);
    assert_eq!(state.registration.as_deref(), Some("{}"));
    assert_eq!(state.recent, recent);
    assert_eq!(state.recent.last(), Some(&id(5000)));
    assert_eq!(state.recent.len(), RECENT_IDS);
}

#[test]
fn forgetting_leaves_no_secret_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.json");
    let mut storage = open(&path);
    storage.save_registration("{\"secret\":\"hush\"}").unwrap();
    storage.append(&[record(1)]).unwrap();
    storage.forget().unwrap();
    assert_eq!(storage.load().unwrap(), StoredState::default());
    assert!(!fs::read_to_string(&path).unwrap().contains("hush"));
    storage.append(&[record(2)]).unwrap();
    drop(storage);
    assert_eq!(open(&path).load().unwrap().inbox, [record(2)]);
}

#[test]
fn records_that_would_break_the_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = open(&folder.path().join("device.json"));
    for body in ["{\n}", "no json", ""] {
        let bad = InboxRecord {
            id: id(1),
            body: body.into(),
        };
        assert!(storage.append(&[record(2), bad]).is_err(), "{body}");
        assert!(storage.save_registration(body).is_err(), "{body}");
    }
    assert_eq!(storage.load().unwrap(), StoredState::default());
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Done(u64),
    Register(u32),
    Reopen,
    /// The process dies while it appends: so many bytes of the line reach the file.
    Tear(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..20_u8).prop_map(Step::Append),
        6 => (0..600_u64).prop_map(Step::Done),
        1 => any::<u32>().prop_map(Step::Register),
        1 => Just(Step::Reopen),
        1 => any::<u8>().prop_map(Step::Tear),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any history of appends, dones, reopenings and torn writes leaves what a map would hold.
    #[test]
    fn the_file_equals_its_model(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.json");
        let mut storage = Some(open(&path));
        let mut inbox: BTreeMap<u64, InboxRecord> = BTreeMap::new();
        let mut registration = None;
        let mut next = 0_u64;
        for step in steps {
            let file = storage.as_mut().unwrap();
            match step {
                Step::Append(count) => {
                    let records: Vec<_> = (next..next + u64::from(count)).map(record).collect();
                    next += u64::from(count);
                    file.append(&records).unwrap();
                    inbox.extend(records.into_iter().map(|r| (r.id.sequence, r)));
                }
                Step::Done(sequence) => {
                    // One that is there, and its neighbour, which may not be.
                    let sequence = inbox.keys().nth(sequence as usize % inbox.len().max(1)).copied().unwrap_or(sequence);
                    file.done(&[id(sequence), id(sequence + 1)]).unwrap();
                    inbox.remove(&sequence);
                    inbox.remove(&(sequence + 1));
                }
                Step::Register(number) => {
                    registration = Some(format!("{{\"r\":{number}}}"));
                    file.save_registration(registration.as_deref().unwrap()).unwrap();
                }
                Step::Reopen => {
                    drop(storage.take());
                    storage = Some(open(&path));
                }
                Step::Tear(bytes) => {
                    let before = fs::read(&path).unwrap();
                    file.append(&[record(next)]).unwrap();
                    drop(storage.take());
                    let mut after = fs::read(&path).unwrap();
                    // A compaction renames a whole file: there is nothing to tear.
                    if after.starts_with(&before) {
                        let line = after.len() - before.len();
                        after.truncate(before.len() + usize::from(bytes) % line);
                        fs::write(&path, &after).unwrap();
                    } else {
                        inbox.insert(next, record(next));
                        next += 1;
                    }
                    storage = Some(open(&path));
                }
            }
        }
        let state = storage.as_mut().unwrap().load().unwrap();
        prop_assert_eq!(state.registration, registration);
        prop_assert_eq!(state.inbox, inbox.into_values().collect::<Vec<_>>());
        let known = u64::min(next, RECENT_IDS as u64) as usize;
        prop_assert_eq!(state.recent.len(), known);
    }
}
