//! A backup of a store that goes on being written, made by the thread that owns it, a slice at a time.
//!
//! The copy grows in order of keys, up to a cursor. What changes behind the cursor is changed in the copy too
//! ([`Backup::note`]); what changes before it will be seen when the cursor gets there. So the copy always equals the
//! part of the store behind the cursor, and once the cursor is at the end it equals the store: as of the last commit
//! that was noted, however long the copying took.
//!
//! A target that fails (its disk is full) must not fail the store: the failure is kept, and told by the next step.

use std::collections::BTreeMap;

use super::life;
use super::walk::{self, Most, SLICE, Seen};
use crate::store::{Change, Durability, OrderedMap, StoreError};

/// How many bytes of changes behind the cursor wait to be written together.
const BEHIND_BYTES_MAX: usize = 1024 * 1024;

/// How much is copied between two syncs of the copy. sled's flush holds up every batch of the process, those of the
/// store too, so none may have much to do.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// A copy in the making.
pub struct Backup {
    target: Box<dyn OrderedMap>,
    /// Everything below is copied; `None` once everything is.
    cursor: Option<Vec<u8>>,
    /// Changes of what is copied, the last one of each key.
    behind: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    behind_bytes: usize,
    seen: Seen,
    synced_bytes: u64,
    failure: Option<StoreError>,
}

/// How far a backup is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// There is more to copy.
    Copying(Seen),
    /// The copy equals the store, and stays so for as long as commits are noted.
    Complete(Seen),
}

/// A finished copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Copied {
    /// What was copied.
    #[serde(flatten)]
    pub seen: Seen,
    /// The epoch of the copy, which is another than that of the store.
    pub epoch: u32,
}

impl Backup {
    /// Begins a copy into an empty map.
    #[must_use]
    pub fn begin(target: Box<dyn OrderedMap>) -> Self {
        Self {
            target,
            cursor: Some(walk::FIRST.to_vec()),
            behind: BTreeMap::new(),
            behind_bytes: 0,
            seen: Seen::default(),
            synced_bytes: 0,
            failure: None,
        }
    }

    /// Copies the next pairs of the store: at most `keys_max` of them, and at most about 1 MiB. `map` is what was
    /// written, without what is staged.
    ///
    /// # Errors
    /// The store cannot be read or the copy not be written, now or when a commit was noted. The backup is over then.
    pub fn step(&mut self, map: &dyn OrderedMap, keys_max: usize) -> Result<Stepped, StoreError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.write_behind()?;
        let Some(cursor) = &self.cursor else {
            return Ok(Stepped::Complete(self.seen));
        };
        let most = Most {
            pairs: keys_max.max(1),
            bytes: SLICE.bytes,
        };
        let slice = walk::slice(map, cursor, most)?;
        let changes: Vec<Change> = slice
            .pairs
            .into_iter()
            .map(|(key, value)| {
                self.seen.add(&key, &value);
                (key, Some(value))
            })
            .collect();
        if !changes.is_empty() {
            self.target.write(&changes)?;
        }
        self.cursor = slice.next;
        if self.seen.bytes - self.synced_bytes >= SYNC_BYTES {
            self.synced_bytes = self.seen.bytes;
            self.target.sync(Durability::Durable)?;
        }
        Ok(match self.cursor {
            Some(_) => Stepped::Copying(self.seen),
            None => Stepped::Complete(self.seen),
        })
    }

    /// Tells what a commit changed: after it was written to the store, before the next step.
    pub fn note(&mut self, changes: &[Change]) {
        for (key, value) in changes {
            if self.cursor.as_ref().is_some_and(|cursor| key >= cursor) {
                continue;
            }
            self.behind_bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            self.behind.insert(key.clone(), value.clone());
        }
        if self.behind_bytes > BEHIND_BYTES_MAX
            && let Err(error) = self.write_behind()
        {
            self.failure.get_or_insert(error);
        }
    }

    /// Makes the complete copy durable and marks it as one, with an epoch of its own that is at least `at_least`. Needs
    /// the store no more: call it on another thread than the store's.
    ///
    /// # Errors
    /// The copy cannot be written, or is not complete.
    pub fn finish(mut self, at_least: u32) -> Result<Copied, StoreError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.cursor.is_some() {
            return Err(StoreError::Unreadable {
                what: "backup",
                problem: "it was ended before it was complete".into(),
            });
        }
        self.write_behind()?;
        let epoch = life::mark_restored(&mut *self.target, at_least)?;
        self.target.sync(Durability::Durable)?;
        Ok(Copied {
            seen: self.seen,
            epoch,
        })
    }

    fn write_behind(&mut self) -> Result<(), StoreError> {
        if self.behind.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = std::mem::take(&mut self.behind).into_iter().collect();
        self.behind_bytes = 0;
        changes
            .chunks(SLICE.pairs)
            .try_for_each(|chunk| self.target.write(chunk))
    }
}
