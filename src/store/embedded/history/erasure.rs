//! Taking devices that are gone out of the history, in slices.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use petrel_core::encode_events;
use petrel_protocol::Ordinal;

use super::super::super::ordered::OrderedMap;
use super::super::super::{StoreError, layout};
use super::super::Embedded;
use super::read_leaf;

/// A walk over a bucket that takes devices out of it.
pub(super) struct Erasure {
    bucket: u8,
    devices: BTreeSet<Ordinal>,
    next: Vec<u8>,
}

impl<M: OrderedMap> Embedded<M> {
    /// Marks a device whose history is to be erased, if its bucket has anything.
    pub(in super::super) fn erase_history(&mut self, device: Ordinal) -> Result<(), StoreError> {
        if self.first_leaf(layout::bucket(device))?.is_some() {
            self.map.put(layout::erasing(device), layout::seal(&[]));
            self.history.erasing.insert(device);
        }
        Ok(())
    }

    /// Takes devices that are gone out of the next leaves of their bucket; how many leaves were looked at.
    pub(super) fn erase_slice(&mut self, keys_max: usize) -> Result<usize, StoreError> {
        let Some(&first) = self.history.erasing.first() else {
            return Ok(0);
        };
        let erasure = self.history.erasure.take().unwrap_or_else(|| {
            let bucket = layout::bucket(first);
            let all = self.history.erasing.iter();
            Erasure {
                bucket,
                devices: all
                    .copied()
                    .filter(|d| layout::bucket(*d) == bucket)
                    .collect(),
                next: layout::history_range(bucket).0,
            }
        });
        let Erasure {
            bucket,
            devices,
            mut next,
        } = erasure;
        let mut looks = 0;
        let mut changes = Vec::new();
        let (_, to) = layout::history_range(bucket);
        self.map.visit(&next.clone(), &to, |key, value| {
            looks += 1;
            next = key.to_vec();
            next.push(0);
            // One that cannot be read may speak of them: it goes as a whole.
            let events = read_leaf(key, value).unwrap_or_default();
            let is_hit = events.is_empty() || events.iter().any(|e| devices.contains(&e.device));
            if is_hit {
                changes.push((key.to_vec(), value.len(), events));
            }
            if looks < keys_max {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        for (key, value_bytes, mut events) in changes {
            events.retain(|e| !devices.contains(&e.device));
            if events.is_empty() {
                self.remove_history(key, value_bytes);
            } else {
                let written = layout::written_at(&key).unwrap_or_default();
                let value = layout::seal(&encode_events(&events, written));
                self.put_history(key, value)?;
            }
        }
        if looks < keys_max {
            for device in devices {
                self.history.erasing.remove(&device);
                self.map.remove(layout::erasing(device));
            }
            let first = self.first_written(bucket)?;
            if let Some(oldest) = &mut self.history.oldest {
                oldest[usize::from(bucket)] = first;
            }
        } else {
            self.history.erasure = Some(Erasure {
                bucket,
                devices,
                next,
            });
        }
        Ok(looks)
    }
}
