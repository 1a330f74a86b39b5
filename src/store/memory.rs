//! The ordered map in memory: what tests compare sled with, and `store.engine = "memory"`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use super::ordered::{Change, Durability, OrderedMap, Pair};

/// An ordered map in memory. Clones share it: dropping a store and opening another one over a clone is what a crash
/// looks like, because only whole commits ever get here.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    pairs: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
}

impl MemoryMap {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        // A panic between two inserts of a batch would leave half of it, but `BTreeMap::insert` does not panic.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pairs, for comparing two stores.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        self.lock()
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

impl OrderedMap for MemoryMap {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().get(key).cloned())
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        let (mut from, to) = (Bound::Included(from.to_vec()), Bound::Excluded(to.to_vec()));
        // A pair at a time: most visitors stop after a few.
        Box::new(std::iter::from_fn(move || {
            let pairs = self.lock();
            let (key, value) = pairs.range((from.clone(), to.clone())).next()?;
            from = Bound::Excluded(key.clone());
            Some(Ok((key.clone(), value.clone())))
        }))
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        let (from, mut to) = (from.to_vec(), to.to_vec());
        Box::new(std::iter::from_fn(move || {
            let pairs = self.lock();
            let range = (Bound::Included(&from), Bound::Excluded(&to));
            let (key, value) = pairs.range::<Vec<u8>, _>(range).next_back()?;
            let pair = (key.clone(), value.clone());
            to.clone_from(key);
            Some(Ok(pair))
        }))
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut pairs = self.lock();
        for (key, value) in changes {
            match value {
                Some(value) => pairs.insert(key.clone(), value.clone()),
                None => pairs.remove(key),
            };
        }
        Ok(())
    }

    fn sync(&mut self, _: Durability) -> Result<(), StoreError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }

    fn disk_free(&self) -> Option<u64> {
        None
    }
}
