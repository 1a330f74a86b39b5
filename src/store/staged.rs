//! Changes that are not written yet, over an ordered map: reads see both.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::StoreError;
use super::maintenance::{Backup, Seen, Stepped};
use super::ordered::{Change, Durability, OrderedMap};

/// An ordered map with staged changes.
pub(super) struct Staged<M> {
    map: M,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes_written: u64,
    pub(super) backup: Option<Backup>,
}

impl<M: OrderedMap> Staged<M> {
    pub(super) fn new(map: M) -> Self {
        Self {
            map,
            changes: BTreeMap::new(),
            bytes_written: 0,
            backup: None,
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(staged) => Ok(staged.clone()),
            None => self.map.get(key),
        }
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Visits all pairs from `from` up to `to` in order until the visitor breaks.
    pub(super) fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        mut visitor: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut staged = self.changes.range(from.to_vec()..to.to_vec()).peekable();
        let mut stored = self.map.range(from, to);
        let mut next_stored = stored.next().transpose()?;
        loop {
            let flow = match (staged.peek(), &next_stored) {
                (None, None) => return Ok(()),
                (Some((staged_key, _)), Some((stored_key, stored_value)))
                    if stored_key < *staged_key =>
                {
                    let flow = visitor(stored_key, stored_value);
                    next_stored = stored.next().transpose()?;
                    flow
                }
                (None, Some((key, value))) => {
                    let flow = visitor(key, value);
                    next_stored = stored.next().transpose()?;
                    flow
                }
                (Some((key, value)), _) => {
                    // A staged change hides what is stored under the same key.
                    if next_stored.as_ref().is_some_and(|(k, _)| k == *key) {
                        next_stored = stored.next().transpose()?;
                    }
                    let flow = match value {
                        Some(value) => visitor(key, value),
                        None => ControlFlow::Continue(()),
                    };
                    staged.next();
                    flow
                }
            };
            if flow.is_break() {
                return Ok(());
            }
        }
    }

    /// Visits the same pairs in the opposite order until the visitor breaks.
    pub(super) fn visit_back(
        &self,
        from: &[u8],
        to: &[u8],
        mut visitor: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let staged = self.changes.range(from.to_vec()..to.to_vec());
        let mut staged = staged.rev().peekable();
        let mut stored = self.map.range_back(from, to);
        let mut next_stored = stored.next().transpose()?;
        loop {
            let is_stored_next = match (staged.peek(), &next_stored) {
                (None, None) => return Ok(()),
                (Some((staged_key, _)), Some((stored_key, _))) => stored_key > *staged_key,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            let flow = if is_stored_next {
                let pair = next_stored.take();
                next_stored = stored.next().transpose()?;
                pair.map(|(key, value)| visitor(&key, &value))
            } else {
                let pair = staged.next();
                // A staged change hides what is stored under the same key.
                if next_stored.as_ref().map(|(k, _)| k) == pair.map(|(k, _)| k) {
                    next_stored = stored.next().transpose()?;
                }
                pair.and_then(|(key, value)| Some(visitor(key, value.as_ref()?)))
            };
            if flow.is_some_and(|flow| flow.is_break()) {
                return Ok(());
            }
        }
    }

    /// Writes all changes in one batch and waits until they survive what the level says. Keeps them staged if that fails.
    pub(super) fn commit(&mut self, level: Durability) -> Result<(), StoreError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = std::mem::take(&mut self.changes).into_iter().collect();
        let written = self.map.write(&changes).and_then(|()| self.map.sync(level));
        match written {
            Ok(()) => {
                if let Some(backup) = &mut self.backup {
                    backup.note(&changes);
                }
                let length = |(k, v): &Change| (k.len() + v.as_ref().map_or(0, Vec::len)) as u64;
                self.bytes_written += changes.iter().map(length).sum::<u64>();
                Ok(())
            }
            Err(error) => {
                self.changes = changes.into_iter().collect();
                Err(error)
            }
        }
    }

    /// Copies the next pairs of what is committed.
    pub(super) fn step_backup(&mut self, keys_max: usize) -> Result<Stepped, StoreError> {
        match &mut self.backup {
            Some(backup) => backup.step(&self.map, keys_max),
            None => Ok(Stepped::Complete(Seen::default())),
        }
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    pub(super) fn disk_free(&self) -> Option<u64> {
        self.map.disk_free()
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.map.disk_bytes()
    }
}
