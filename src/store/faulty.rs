//! An ordered map on a disk that fails when told to, for tests. It fails as sled does: after one failed write or sync
//! it refuses everything that changes it until it is opened anew, and what was not synced by then may be gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ordered::{Change, Durability, OrderedMap, Pair};
use super::{MemoryMap, StoreError};

/// A disk. Clones are the same disk.
#[derive(Clone, Default)]
pub(super) struct Disk {
    durable: MemoryMap,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    writes: u32,
    syncs: u32,
    opens: u32,
    times_opened: u32,
    /// Whether a write that fails is on the disk nevertheless.
    is_written_anyway: bool,
}

impl Disk {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next writes fail.
    pub(super) fn fail_writes(&self, count: u32) {
        self.plan().writes = count;
    }

    /// The next syncs fail.
    pub(super) fn fail_syncs(&self, count: u32) {
        self.plan().syncs = count;
    }

    /// The next openings fail.
    pub(super) fn fail_opens(&self, count: u32) {
        self.plan().opens = count;
    }

    /// Whether what fails is on the disk nevertheless.
    pub(super) fn write_anyway(&self, is_written_anyway: bool) {
        self.plan().is_written_anyway = is_written_anyway;
    }

    /// How often it was opened.
    pub(super) fn times_opened(&self) -> u32 {
        self.plan().times_opened
    }

    /// What a loss of power would leave.
    pub(super) fn durable(&self) -> Vec<Pair> {
        self.durable.pairs()
    }

    /// Opens it, without what was not synced.
    pub(super) fn open(&self) -> Result<FaultyMap, StoreError> {
        let mut plan = self.plan();
        plan.times_opened += 1;
        if take(&mut plan.opens) {
            return Err(full());
        }
        let current = MemoryMap::default();
        let pairs: Vec<Change> = self
            .durable
            .pairs()
            .into_iter()
            .map(|(k, v)| (k, Some(v)))
            .collect();
        current.clone().write(&pairs)?;
        Ok(FaultyMap {
            disk: self.clone(),
            current,
            unsynced: Vec::new(),
            is_poisoned: false,
        })
    }
}

/// Whether this time is one of those that fail.
fn take(left: &mut u32) -> bool {
    let fails = *left > 0;
    *left = left.saturating_sub(1);
    fails
}

fn full() -> StoreError {
    StoreError::Engine {
        path: "/faulty".into(),
        source: std::io::Error::from(std::io::ErrorKind::StorageFull).into(),
    }
}

/// The disk, opened.
pub(super) struct FaultyMap {
    disk: Disk,
    current: MemoryMap,
    unsynced: Vec<Change>,
    is_poisoned: bool,
}

impl FaultyMap {
    fn fail(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.is_poisoned = true;
        if self.disk.plan().is_written_anyway {
            self.disk.durable.write(changes)?;
        }
        Err(full())
    }
}

impl OrderedMap for FaultyMap {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.current.get(key)
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        self.current.range(from, to)
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        self.current.range_back(from, to)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let fails = take(&mut self.disk.plan().writes);
        if self.is_poisoned || fails {
            return self.fail(changes);
        }
        self.current.write(changes)?;
        self.unsynced.extend_from_slice(changes);
        Ok(())
    }

    fn sync(&mut self, _: Durability) -> Result<(), StoreError> {
        let fails = take(&mut self.disk.plan().syncs);
        let unsynced = std::mem::take(&mut self.unsynced);
        if self.is_poisoned || fails {
            return self.fail(&unsynced);
        }
        self.disk.durable.write(&unsynced)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn disk_free(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use petrel_core::UnixMillis;
    use petrel_protocol::session::Attributes;
    use petrel_protocol::{Platform, ProjectId, TopicName};
    use proptest::prelude::*;

    use super::super::{Embedded, NewRegistration, Reopening, Store};
    use super::*;

    fn over(disk: &Disk) -> Embedded<Reopening<FaultyMap>> {
        let disk = disk.clone();
        let map = Reopening::new("/faulty/db".into(), move || disk.open()).unwrap();
        Embedded::new(map.at_once(), 7)
    }

    fn register(store: &mut dyn Store, secret: u8) -> u32 {
        let new = NewRegistration {
            project: ProjectId(0),
            secret_hash: [secret; 32],
            platform: Platform::Android,
            attributes: Attributes::default(),
            at: UnixMillis(0),
        };
        store.register(&new).unwrap().ordinal.0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// A disk that is full for a while: nothing is lost, nothing is there twice, whatever of it reached the disk.
        #[test]
        fn a_disk_that_recovers_has_what_one_that_never_failed_has(
            steps in proptest::collection::vec((0_u8..20, 0_u32..4, 0_u32..4, 0_u32..3, any::<bool>()), 1..40)
        ) {
            let (disk, sound) = (Disk::default(), MemoryMap::default());
            let mut store = over(&disk);
            let mut expect = Embedded::new(sound.clone(), 7);
            store.load().unwrap();
            expect.load().unwrap();
            for (number, writes, syncs, opens, is_written_anyway) in steps {
                disk.fail_writes(writes);
                disk.fail_syncs(syncs);
                disk.fail_opens(opens);
                disk.write_anyway(is_written_anyway);
                let device = register(&mut expect, number);
                let topic = TopicName::parse(&format!("t{}", number % 3)).unwrap();
                expect.subscribe(petrel_protocol::Ordinal(device), ProjectId(0), &topic, 9).unwrap();
                expect.commit().unwrap();
                prop_assert_eq!(register(&mut store, number), device);
                store.subscribe(petrel_protocol::Ordinal(device), ProjectId(0), &topic, 9).unwrap();
                let failures = (0..20).take_while(|_| store.commit().is_err()).count();
                prop_assert!(failures < 20, "it never recovered");
                prop_assert_eq!(disk.durable(), sound.pairs());
            }
            // And so it is after a loss of power.
            drop(store);
            disk.fail_opens(0);
            let (left, right) = (over(&disk).load().unwrap(), expect.load().unwrap());
            prop_assert_eq!(left.registrations, right.registrations);
            prop_assert_eq!(left.subscriptions, right.subscriptions);
        }
    }
}
