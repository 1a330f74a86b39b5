//! A copy made while the store goes on equals the store at its end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{Change, layout};

#[derive(Clone, Debug)]
enum Act {
    /// Keys of one letter become a value or go.
    Commit(Vec<(u8, Option<u8>)>),
    Step(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let change = (0..40_u8, proptest::option::of(any::<u8>()));
    prop_oneof![
        proptest::collection::vec(change, 1..6).prop_map(Act::Commit),
        (1..6_usize).prop_map(Act::Step),
    ]
}

proptest! {
    #[test]
    fn whatever_is_committed_between_steps_is_in_the_copy(
        before in proptest::collection::btree_map(0..40_u8, any::<u8>(), 0..40),
        acts in proptest::collection::vec(act(), 0..60),
        large in any::<bool>(),
    ) {
        let mut store = MemoryMap::default();
        // Large values cross the bound of what waits behind the cursor.
        let value = |v: u8| vec![v; if large { 200_000 } else { 3 }];
        let initial: Vec<Change> = before.iter().map(|(k, v)| (vec![*k], Some(value(*v)))).collect();
        store.write(&initial).unwrap();
        let copy = MemoryMap::default();
        let mut backup = Backup::begin(Box::new(copy.clone()));
        let mut model: BTreeMap<u8, u8> = before;
        for act in acts {
            match act {
                Act::Commit(changes) => {
                    let changes: BTreeMap<u8, Option<u8>> = changes.into_iter().collect();
                    for (key, v) in &changes {
                        match v {
                            Some(v) => model.insert(*key, *v),
                            None => model.remove(key),
                        };
                    }
                    let changes: Vec<Change> =
                        changes.into_iter().map(|(k, v)| (vec![k], v.map(value))).collect();
                    store.write(&changes).unwrap();
                    backup.note(&changes);
                }
                Act::Step(most) => drop(backup.step(&store, most).unwrap()),
            }
        }
        while !matches!(backup.step(&store, 3).unwrap(), Stepped::Complete(_)) {}
        let copied = backup.finish(5).unwrap();
        prop_assert_eq!(copied.epoch, 5);
        let expect: Vec<Pair> = model.into_iter().map(|(k, v)| (vec![k], value(v))).collect();
        prop_assert_eq!(store.pairs(), expect.clone());
        prop_assert_eq!(pairs_beside_life(&copy), expect);
    }
}

/// A map that fails.
struct Full;

impl OrderedMap for Full {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn range<'a>(
        &'a self,
        _: &[u8],
        _: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        Box::new(std::iter::empty())
    }

    fn range_back<'a>(
        &'a self,
        _: &[u8],
        _: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        Box::new(std::iter::empty())
    }

    fn write(&mut self, _: &[Change]) -> Result<(), StoreError> {
        Err(StoreError::Engine {
            path: "full".into(),
            source: "no space left".into(),
        })
    }

    fn sync(&mut self, _level: crate::store::Durability) -> Result<(), StoreError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn disk_free(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_full_target_fails_the_backup_and_not_the_store() {
    let store = MemoryMap::default();
    let mut backup = Backup::begin(Box::new(Full));
    assert!(matches!(
        backup.step(&store, 9).unwrap(),
        Stepped::Complete(_)
    ));
    // Everything is behind the cursor by now. Noting cannot fail; the next step tells.
    for n in 0..20 {
        backup.note(&[(vec![n], Some(vec![0; 200_000]))]);
    }
    assert!(backup.step(&store, 9).is_err());
}

#[test]
fn a_copy_that_is_not_complete_is_none() {
    let map = MemoryMap::default();
    fill(map.clone());
    let mut backup = Backup::begin(Box::new(MemoryMap::default()));
    assert!(matches!(backup.step(&map, 2).unwrap(), Stepped::Copying(seen) if seen.pairs == 2));
    assert!(backup.finish(9).is_err());
}

/// Of the store behind the trait, as the committer drives it.
#[test]
fn a_store_is_copied_between_its_operations() {
    let map = MemoryMap::default();
    fill(map.clone());
    let mut store = Embedded::new(map.clone(), EPOCH);
    store.load().unwrap();
    let copy = MemoryMap::default();
    store.begin_backup(Backup::begin(Box::new(copy.clone())));
    let mut settled = false;
    while matches!(store.step_backup(2).unwrap(), Stepped::Copying(_)) {
        // Staged at first, in the middle of it committed.
        if !settled {
            settled = store.settle(Ordinal(1), id(10)).unwrap();
        } else {
            store.commit().unwrap();
        }
    }
    store.save_time(UnixMillis(NOW.0 + 1)).unwrap();
    store.commit().unwrap();
    store.take_backup().unwrap().finish(9).unwrap();
    assert_eq!(pairs_beside_life(&copy), pairs_beside_life(&map));
    assert!(
        copy.get(&layout::queue(Ordinal(1), id(10)))
            .unwrap()
            .is_none()
    );
    assert!(store.take_backup().is_none());
}

#[test]
fn a_copy_restored_twice_begins_two_lives() {
    let map = MemoryMap::default();
    fill(map.clone());
    let pristine = MemoryMap::default();
    let mut backup = Backup::begin(Box::new(pristine.clone()));
    while !matches!(backup.step(&map, 100).unwrap(), Stepped::Complete(_)) {}
    let copied = backup.finish(3).unwrap();
    assert_eq!(
        copied.epoch,
        EPOCH + 1,
        "above all that were, whatever the clock says"
    );

    let mut epochs = Vec::new();
    for now in [1_000, 2_000] {
        let mut restored = MemoryMap::default();
        let changes: Vec<Change> = pristine
            .pairs()
            .into_iter()
            .map(|(k, v)| (k, Some(v)))
            .collect();
        restored.write(&changes).unwrap();
        let epoch = begin_life_if_restored(&mut restored, now).unwrap();
        assert_eq!(
            begin_life_if_restored(&mut restored, now + 1).unwrap(),
            None
        );
        let mut store = Embedded::new(restored, 1);
        let loaded = store.load().unwrap();
        assert_eq!(Some(loaded.epoch), epoch);
        epochs.push(loaded.epoch);
        // Tokens that were given out after the copy was made name nobody.
        let new = NewRegistration {
            project: petrel_protocol::ProjectId(0),
            secret_hash: [99; 32],
            platform: Platform::Ios,
            attributes: Attributes::default(),
            at: NOW,
        };
        assert!(store.register(&new).unwrap().ordinal.0 > 60_000);
    }
    assert_eq!(epochs, [1_000, 2_000]);
    // What was never a backup goes on with its life.
    assert_eq!(
        begin_life_if_restored(&mut map.clone(), 5_000).unwrap(),
        None
    );
}

#[test]
fn a_backup_is_a_data_directory_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = filled();
    std::fs::create_dir(directory.path().join("keys")).unwrap();
    std::fs::write(directory.path().join("keys/token.key"), "secret").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("copy");
    let map = sled(&directory.path().join("db")).unwrap();
    let make =
        |target: &Path| copy_stopped(directory.path(), &*map, target, 9, &sled, &mut silent());
    make(&target).unwrap();
    let key = target.join("keys/token.key");
    assert_eq!(std::fs::read(&key).unwrap(), b"secret");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&target)), (0o600, 0o700));
    assert_eq!(
        pairs_beside_life(&*sled(&target.join("db")).unwrap()),
        pairs_beside_life(&*map)
    );

    for (target, expect) in [
        (target.as_path(), "not empty"),
        (Path::new("relative"), "absolute"),
        (
            &directory.path().join("inside"),
            "lies in the data directory",
        ),
        (&elsewhere.path().join("no/such"), "no/such"),
    ] {
        let error = make(target).unwrap_err().to_string();
        let expect_or_parent = error.contains(expect) || error.contains("/no cannot be");
        assert!(expect_or_parent, "{error}");
    }
    // One that is being made, or was cut off.
    let cut_off = elsewhere.path().join("other.partial");
    std::fs::create_dir(&cut_off).unwrap();
    let error = make(&elsewhere.path().join("other"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("other.partial") && error.contains("deleted"),
        "{error}"
    );
    assert!(cut_off.exists());
}
