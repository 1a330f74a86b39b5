//! The history: leaves that are only ever added, and dropped whole.
//!
//! A key for each message of each device would cost sled some 20 µs when it is written and as much when it goes. So
//! devices are dealt over 256 buckets by the low byte of their ordinal, and what is written behind makes one leaf for
//! each bucket that has something, under the bucket and the time of writing: the busier the broker, the more events
//! share a key, and nothing is read before it is written. Whoever asks for a device reads its bucket from the newest
//! leaf back, at the worst a 256th of `history.bytes_max`.
//!
//! Retention drops the leaf that was written first, in whichever bucket it is. A device that is gone leaves a mark, and
//! is taken out of its bucket in slices; a crash begins that anew.

mod erasure;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use petrel_core::{Event, Timeline, UnixMillis, decode_events, encode_events};
use petrel_protocol::{MessageId, Ordinal};

use super::super::history::{BroadcastHistory, HistoryLimits, HistoryStore};
use super::super::ordered::OrderedMap;
use super::super::{StoreError, layout, records};
use super::Embedded;

use self::erasure::Erasure;

/// Most events of one leaf: some 4 KiB.
const LEAF_EVENTS_MAX: usize = 1024;

/// How long between two looks for broadcasts that are too old, in milliseconds.
const BROADCASTS_INTERVAL_MILLIS: u64 = 60_000;

/// What is known of the history without reading it.
#[derive(Default)]
pub(super) struct History {
    /// Of keys and values.
    pub(super) bytes: u64,
    pub(super) bytes_written: u64,
    /// Whether `bytes` changed since it was last staged.
    is_changed: bool,
    /// When the oldest leaf of each bucket was written, if it has one. `None`: not looked at yet.
    oldest: Option<Vec<Option<UnixMillis>>>,
    /// Devices whose history is to be erased.
    erasing: BTreeSet<Ordinal>,
    erasure: Option<Erasure>,
    /// Where the look for old broadcasts goes on, and not before when.
    broadcasts_from: Vec<u8>,
    broadcasts_at: UnixMillis,
}

impl History {
    /// The size, if it is to be written.
    pub(super) fn take_changed(&mut self) -> Option<u64> {
        std::mem::take(&mut self.is_changed).then_some(self.bytes)
    }
}

impl<M: OrderedMap> HistoryStore for Embedded<M> {
    fn record_history(
        &mut self,
        events: &mut Vec<Event>,
        now: UnixMillis,
        keys_max: usize,
    ) -> Result<(), StoreError> {
        // Descending, so that what comes next is at the end. Stable: events of one moment stay in their order.
        let place = |e: &Event| (layout::bucket(e.device), e.id, e.device);
        events.sort_by_key(|e| Reverse(place(e)));
        for _ in 0..keys_max {
            let Some(last) = events.last() else {
                break;
            };
            let bucket = layout::bucket(last.device);
            let of_bucket = events.partition_point(|e| layout::bucket(e.device) != bucket);
            let mut start = of_bucket.max(events.len().saturating_sub(LEAF_EVENTS_MAX));
            if start > of_bucket {
                // What is together stays together: a timeline begins in the oldest leaf that speaks of it.
                let cut = place(&events[start - 1]);
                let rest = events[start..].iter().position(|e| place(e) != cut);
                start += rest.unwrap_or(0);
            }
            let mut leaf = events.split_off(start);
            leaf.sort_by_key(|e| (e.id, e.device));
            let value = layout::seal(&encode_events(&leaf, now));
            let mut counter = 0;
            let mut key = layout::history(bucket, now, counter);
            while counter < u16::MAX && self.map.get(&key)?.is_some() {
                counter += 1;
                key = layout::history(bucket, now, counter);
            }
            self.history.bytes_written += (key.len() + value.len()) as u64;
            self.put_history(key, value)?;
            if let Some(oldest) = &mut self.history.oldest {
                oldest[usize::from(bucket)].get_or_insert(now);
            }
        }
        Ok(())
    }

    fn record_broadcast(&mut self, history: &BroadcastHistory) -> Result<(), StoreError> {
        let key = layout::broadcast_history(history.id);
        let value = records::write_broadcast_history(history);
        self.history.bytes_written += (key.len() + value.len()) as u64;
        self.put_history(key, value)
    }

    fn history_of_broadcast(&self, id: MessageId) -> Result<Option<BroadcastHistory>, StoreError> {
        let value = self.map.get(&layout::broadcast_history(id))?;
        Ok(value.and_then(|value| records::read_broadcast_history(id, &value)))
    }

    fn trim_history(
        &mut self,
        now: UnixMillis,
        limits: HistoryLimits,
        keys_max: usize,
    ) -> Result<bool, StoreError> {
        let mut left = keys_max.saturating_sub(self.erase_slice(keys_max)?);
        while left > 0 {
            let Some((written, bucket)) = self.oldest_leaf()? else {
                break;
            };
            let is_over = self.history.bytes > limits.bytes_max;
            if !is_over && written.after(limits.age_max) > now {
                break;
            }
            self.drop_oldest_of(bucket)?;
            left -= 1;
        }
        if left > 0 {
            left = self.trim_broadcasts(now, limits, left)?;
        }
        Ok(left == 0 || !self.history.erasing.is_empty())
    }

    fn history_of(&self, device: Ordinal, id: MessageId) -> Result<Option<Timeline>, StoreError> {
        let mut timeline = Timeline::new(id);
        self.visit_leaves_back(device, |events| {
            for event in events.iter().filter(|e| e.device == device && e.id == id) {
                timeline.add(event.happening, event.at);
            }
            !timeline.has_beginning()
        })?;
        Ok((!timeline.steps().is_empty()).then_some(timeline))
    }

    fn history_of_device(
        &self,
        device: Ordinal,
        before: MessageId,
        limit: usize,
    ) -> Result<Vec<Timeline>, StoreError> {
        let mut timelines: BTreeMap<MessageId, Timeline> = BTreeMap::new();
        let mut begun = 0;
        self.visit_leaves_back(device, |events| {
            for event in events {
                if event.device != device || event.id >= before {
                    continue;
                }
                let timeline = timelines.entry(event.id);
                let timeline = timeline.or_insert_with(|| Timeline::new(event.id));
                let had_beginning = timeline.has_beginning();
                timeline.add(event.happening, event.at);
                begun += usize::from(timeline.has_beginning() != had_beginning);
            }
            // Ids and beginnings are in one order: whatever is older has an older id than all of these.
            begun < limit
        })?;
        Ok(timelines.into_values().rev().take(limit).collect())
    }
}

impl<M: OrderedMap> Embedded<M> {
    /// Takes in what was stored, or counts it where that cannot be read.
    pub(super) fn load_history(&mut self) -> Result<(), StoreError> {
        self.history.bytes = match self.number(&layout::meta("history_bytes"), "history bytes") {
            Ok(bytes) => bytes.unwrap_or(0),
            Err(StoreError::Unreadable { .. }) => self.count_history()?,
            Err(error) => return Err(error),
        };
        let mut erasing = BTreeSet::new();
        let (from, to) = layout::kind_range(layout::ERASING);
        self.map.visit(&from, &to, |key, _| {
            erasing.extend(layout::number_at(key, 1).map(Ordinal));
            ControlFlow::Continue(())
        })?;
        self.history.erasing = erasing;
        Ok(())
    }

    /// Bytes of all keys and values of the history, by reading it.
    pub(in super::super) fn count_history(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for kind in [layout::HISTORY, layout::BROADCAST_HISTORY] {
            let (from, to) = layout::kind_range(kind);
            self.map.visit(&from, &to, |key, value| {
                bytes += (key.len() + value.len()) as u64;
                ControlFlow::Continue(())
            })?;
        }
        Ok(bytes)
    }

    fn put_history(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        let before = self.map.get(&key)?;
        let before = before.map_or(0, |old| (key.len() + old.len()) as u64);
        let after = (key.len() + value.len()) as u64;
        self.history.bytes = (self.history.bytes + after).saturating_sub(before);
        self.history.is_changed = true;
        self.map.put(key, value);
        Ok(())
    }

    fn remove_history(&mut self, key: Vec<u8>, value_bytes: usize) {
        let bytes = (key.len() + value_bytes) as u64;
        self.history.bytes = self.history.bytes.saturating_sub(bytes);
        self.history.is_changed = true;
        self.map.remove(key);
    }

    /// Shows the events of each leaf of a device's bucket, newest leaf first, while the visitor wants more.
    fn visit_leaves_back(
        &self,
        device: Ordinal,
        mut visitor: impl FnMut(&[Event]) -> bool,
    ) -> Result<(), StoreError> {
        let (from, to) = layout::history_range(layout::bucket(device));
        self.map.visit_back(&from, &to, |key, value| {
            let Some(events) = read_leaf(key, value) else {
                tracing::warn!("a leaf of history is unreadable and is left out");
                return ControlFlow::Continue(());
            };
            if visitor(&events) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
    }

    /// The key of a bucket's oldest leaf, and the length of its value.
    fn first_leaf(&self, bucket: u8) -> Result<Option<(Vec<u8>, usize)>, StoreError> {
        let (from, to) = layout::history_range(bucket);
        let mut first = None;
        self.map.visit(&from, &to, |key, value| {
            first = Some((key.to_vec(), value.len()));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    fn oldest_leaf(&mut self) -> Result<Option<(UnixMillis, u8)>, StoreError> {
        if self.history.oldest.is_none() {
            let buckets = 0..=u8::MAX;
            let looked: Result<_, _> = buckets.map(|bucket| self.first_written(bucket)).collect();
            self.history.oldest = Some(looked?);
        }
        let oldest = self.history.oldest.iter().flatten().zip(0..=u8::MAX);
        Ok(oldest
            .filter_map(|(at, bucket)| Some(((*at)?, bucket)))
            .min())
    }

    fn first_written(&self, bucket: u8) -> Result<Option<UnixMillis>, StoreError> {
        let first = self.first_leaf(bucket)?;
        Ok(first.map(|(key, _)| layout::written_at(&key).unwrap_or_default()))
    }

    /// Drops a bucket's oldest leaf, and notes which is the oldest then.
    fn drop_oldest_of(&mut self, bucket: u8) -> Result<(), StoreError> {
        if let Some((key, value_bytes)) = self.first_leaf(bucket)? {
            self.remove_history(key, value_bytes);
        }
        let next = self.first_written(bucket)?;
        if let Some(oldest) = &mut self.history.oldest {
            oldest[usize::from(bucket)] = next;
        }
        Ok(())
    }

    /// Drops records of broadcasts that did not change for long, or are too much; how many keys may still be looked at.
    fn trim_broadcasts(
        &mut self,
        now: UnixMillis,
        limits: HistoryLimits,
        keys_max: usize,
    ) -> Result<usize, StoreError> {
        let is_over = self.history.bytes > limits.bytes_max;
        if now < self.history.broadcasts_at && !is_over {
            return Ok(keys_max);
        }
        let (first, to) = layout::kind_range(layout::BROADCAST_HISTORY);
        let from = std::mem::take(&mut self.history.broadcasts_from);
        let (mut left, mut next) = (keys_max, None);
        let mut old = Vec::new();
        self.map.visit(&from.max(first), &to, |key, value| {
            let history =
                layout::id_of(key).and_then(|id| records::read_broadcast_history(id, value));
            let is_young = |at: UnixMillis| at.after(limits.age_max) > now;
            if !is_over && history.as_ref().is_some_and(|h| is_young(h.accepted_at)) {
                return ControlFlow::Break(());
            }
            if left == 0 {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            left -= 1;
            let last = history.map(|h| h.acks.map_or(h.committed_at, |(_, last)| last));
            if is_over || last.is_none_or(|last| !is_young(last)) {
                old.push((key.to_vec(), value.len()));
            }
            ControlFlow::Continue(())
        })?;
        for (key, value_bytes) in old {
            let id = layout::id_of(&key).unwrap_or(MessageId::ZERO);
            let is_logged = self.map.get(&layout::broadcast(id))?.is_some();
            if !is_logged && (!is_over || self.history.bytes > limits.bytes_max) {
                self.remove_history(key, value_bytes);
            }
        }
        match next {
            Some(key) => self.history.broadcasts_from = key,
            None => self.history.broadcasts_at = UnixMillis(now.0 + BROADCASTS_INTERVAL_MILLIS),
        }
        Ok(left)
    }
}

fn read_leaf(key: &[u8], value: &[u8]) -> Option<Vec<Event>> {
    decode_events(layout::open(value)?, layout::written_at(key)?).ok()
}
