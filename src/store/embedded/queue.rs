//! Device queues: what `petrel_core::queue` decides, carried out.

use std::ops::ControlFlow;
use std::sync::Arc;

use petrel_core::queue::{self, Admission, Entry, Limits};
use petrel_core::{DropReason, Message, UnixMillis, decode_message};
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform};

use super::super::ordered::OrderedMap;
use super::super::records::{self, QueueValue};
use super::super::{Enqueued, GAP_BIT, GapRecord, Queued, Scan, ScanTerms, StoreError, layout};
use super::Embedded;

impl<M: OrderedMap> Embedded<M> {
    pub(super) fn enqueue_message(
        &mut self,
        device: Ordinal,
        message: &Message,
        platform: Platform,
        limits: Limits,
        now: UnixMillis,
    ) -> Result<Enqueued, StoreError> {
        let (entry, value) = records::queued_message(message, platform);
        let waiting = self.entries(device)?;
        let dropped = match queue::admit(&waiting, &entry, limits, now) {
            Admission::Refused => return Ok(Enqueued::Refused),
            Admission::Queued { dropped } => dropped,
        };
        self.map.put(layout::queue(device, entry.id), value);
        self.queued_messages += 1;
        for &(id, reason) in &dropped {
            self.drop_queued(device, id, reason)?;
        }
        Ok(Enqueued::Queued { dropped })
    }

    pub(super) fn collapse_older(
        &mut self,
        device: Ordinal,
        key: &CollapseKey,
        before: MessageId,
    ) -> Result<Vec<MessageId>, StoreError> {
        let older: Vec<MessageId> = self
            .entries(device)?
            .into_iter()
            .filter(|e| e.id < before && e.collapse_key.as_ref() == Some(key))
            .map(|e| e.id)
            .collect();
        for &id in &older {
            self.drop_queued(device, id, DropReason::Collapsed)?;
        }
        Ok(older)
    }

    pub(super) fn settle_queued(
        &mut self,
        device: Ordinal,
        id: MessageId,
    ) -> Result<bool, StoreError> {
        let key = layout::queue(device, id);
        if self.map.get(&key)?.is_none() {
            return Ok(false);
        }
        self.map.remove(key);
        if id.sequence & GAP_BIT == 0 {
            self.queued_messages = self.queued_messages.saturating_sub(1);
        } else if self.open_gaps.get(&device) == Some(&id) {
            self.open_gaps.remove(&device);
        }
        Ok(true)
    }

    pub(super) fn clear_queue(&mut self, device: Ordinal) -> Result<u64, StoreError> {
        let keys = self.keys_of(layout::QUEUE, device)?;
        let mut messages = 0;
        for key in keys {
            let is_gap = layout::id_of(&key).is_some_and(|id| id.sequence & GAP_BIT != 0);
            messages += u64::from(!is_gap);
            self.map.remove(key);
        }
        self.queued_messages = self.queued_messages.saturating_sub(messages);
        self.open_gaps.remove(&device);
        Ok(messages)
    }

    pub(super) fn scan_queue(
        &mut self,
        device: Ordinal,
        terms: ScanTerms,
    ) -> Result<Scan, StoreError> {
        let mut scan = Scan {
            is_complete: true,
            ..Scan::default()
        };
        let (from, to) = layout::device_range(layout::QUEUE, device);
        self.map.visit(&from, &to, |key, value| {
            let Some(id) = layout::id_of(key) else {
                return ControlFlow::Continue(());
            };
            let item = match records::read_queued(id, value) {
                Some(QueueValue::Gap(gap)) => Queued::Gap(id, gap),
                Some(QueueValue::Message(entry, _)) if entry.deadline <= terms.now => {
                    scan.dropped.push((id, DropReason::Expired));
                    return ControlFlow::Continue(());
                }
                Some(QueueValue::Message(entry, _)) if entry.urgency < terms.minimum_urgency => {
                    return ControlFlow::Continue(());
                }
                Some(QueueValue::Message(_, body)) => match decode_message(body) {
                    Ok(message) => Queued::Message(Arc::new(message)),
                    Err(_) => {
                        scan.dropped.push((id, DropReason::Unreadable));
                        return ControlFlow::Continue(());
                    }
                },
                None => {
                    scan.dropped.push((id, DropReason::Unreadable));
                    return ControlFlow::Continue(());
                }
            };
            if scan.found.len() == terms.limit {
                scan.is_complete = false;
                return ControlFlow::Break(());
            }
            scan.found.push(item);
            ControlFlow::Continue(())
        })?;
        for &(id, reason) in &scan.dropped {
            self.drop_queued(device, id, reason)?;
            // The gap that this made stands behind what was found: the next scan tells it.
            scan.is_complete &= !reason.is_gap();
        }
        // What a session has seen of a gap must not grow behind its back: the next one to go opens a new gap.
        if scan.found.iter().any(|q| matches!(q, Queued::Gap(..))) {
            self.open_gaps.remove(&device);
        }
        Ok(scan)
    }

    fn entries(&self, device: Ordinal) -> Result<Vec<Entry>, StoreError> {
        let (from, to) = layout::device_range(layout::QUEUE, device);
        let mut entries = Vec::new();
        self.map.visit(&from, &to, |key, value| {
            let id = layout::id_of(key);
            if let Some(QueueValue::Message(entry, _)) =
                id.and_then(|id| records::read_queued(id, value))
            {
                entries.push(entry);
            }
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    }

    /// Takes a message out of the queue and, where the publisher still wanted it delivered, counts it into a gap.
    fn drop_queued(
        &mut self,
        device: Ordinal,
        id: MessageId,
        reason: DropReason,
    ) -> Result<(), StoreError> {
        self.map.remove(layout::queue(device, id));
        self.queued_messages = self.queued_messages.saturating_sub(1);
        if !reason.is_gap() {
            return Ok(());
        }
        let gap_id = *self.open_gaps.entry(device).or_insert(MessageId {
            sequence: id.sequence | GAP_BIT,
            ..id
        });
        let key = layout::queue(device, gap_id);
        let stored = self.map.get(&key)?;
        let mut gap = match stored
            .as_deref()
            .and_then(|value| records::read_queued(gap_id, value))
        {
            Some(QueueValue::Gap(gap)) => gap,
            _ => GapRecord::default(),
        };
        *gap.counts.entry(reason.as_str().into()).or_insert(0) += 1;
        self.map.put(key, records::queued_gap(&gap));
        Ok(())
    }
}
