//! Device queues: what `petrel_core::queue` decides, carried out.

use std::ops::ControlFlow;
use std::sync::Arc;

use petrel_core::queue::{self, Admission, Entry, Limits, Span, Summary};
use petrel_core::{DropReason, Message, UnixMillis, decode_message};
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform, ProjectId};

use super::super::ordered::OrderedMap;
use super::super::records::{self, QueueValue};
use super::super::{
    Enqueued, Expired, GAP_BIT, GapRecord, Queued, Scan, ScanTerms, StoreError, layout,
};
use super::Embedded;
use super::waiting::Waiting;

/// A queued message on its way out.
struct Leaving {
    id: MessageId,
    bytes: u32,
    is_keyed: bool,
    reason: DropReason,
}

impl Leaving {
    fn of(entry: &Entry, reason: DropReason) -> Self {
        Self {
            id: entry.id,
            bytes: entry.bytes,
            is_keyed: entry.collapse_key.is_some(),
            reason,
        }
    }

    /// Of what cannot be read nobody knows whether it had a collapse key.
    fn unreadable(id: MessageId, value: &[u8]) -> Self {
        Self {
            id,
            bytes: records::length(value),
            is_keyed: false,
            reason: DropReason::Unreadable,
        }
    }
}

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
        let summary = self.queues.get(device).map(|w| w.summary);
        let mut leaving = Vec::new();
        if !summary.unwrap_or_default().has_room_for(&entry, limits) {
            let waiting = self.entries(device)?;
            match queue::admit(waiting, &entry, limits, now) {
                Admission::Refused => return Ok(Enqueued::Refused),
                Admission::Queued { dropped } => {
                    for (id, reason) in dropped {
                        let found = waiting.iter().find(|e| e.id == id);
                        leaving.push(Leaving::of(found.unwrap_or(&entry), reason));
                    }
                }
            }
        }
        let dropped = leaving.iter().map(|l| (l.id, l.reason)).collect();
        if leaving.iter().all(|l| l.id != entry.id) {
            self.count_body(entry.bytes.into());
            self.map.put(layout::queue(device, entry.id), value);
            self.queues.add(device, message.project, entry);
        }
        for message_leaving in &leaving {
            self.drop_queued(device, message.project, message_leaving)?;
        }
        Ok(Enqueued::Queued { dropped })
    }

    pub(super) fn collapse_older(
        &mut self,
        device: Ordinal,
        key: &CollapseKey,
        before: MessageId,
    ) -> Result<Vec<MessageId>, StoreError> {
        let Some(&Waiting { project, summary }) = self.queues.get(device) else {
            return Ok(Vec::new());
        };
        if summary.keyed == 0 {
            return Ok(Vec::new());
        }
        let older: Vec<Leaving> = self
            .entries(device)?
            .iter()
            .filter(|e| e.id < before && e.collapse_key.as_ref() == Some(key))
            .map(|e| Leaving::of(e, DropReason::Collapsed))
            .collect();
        for leaving in &older {
            self.drop_queued(device, project, leaving)?;
        }
        Ok(older.into_iter().map(|l| l.id).collect())
    }

    pub(super) fn settle_queued(
        &mut self,
        device: Ordinal,
        id: MessageId,
    ) -> Result<bool, StoreError> {
        let Some(&Waiting { project, .. }) = self.queues.get(device) else {
            return Ok(false);
        };
        let key = layout::queue(device, id);
        let Some(value) = self.map.get(&key)? else {
            return Ok(false);
        };
        self.map.remove(key);
        if id.sequence & GAP_BIT == 0 {
            let is_keyed = matches!(
                records::read_queued(id, &value),
                Some(QueueValue::Message(entry, _)) if entry.collapse_key.is_some()
            );
            self.queues
                .remove(device, id, records::length(&value), is_keyed);
        } else {
            self.queues.change_gaps(device, project, -1);
            if self.open_gaps.get(&device) == Some(&id) {
                self.open_gaps.remove(&device);
            }
        }
        Ok(true)
    }

    pub(super) fn clear_queue(&mut self, device: Ordinal) -> Result<u64, StoreError> {
        let Some(&Waiting { summary, .. }) = self.queues.get(device) else {
            return Ok(0);
        };
        for key in self.keys_of(layout::QUEUE, device)? {
            self.map.remove(key);
        }
        self.queues.forget(device);
        self.open_gaps.remove(&device);
        Ok(u64::from(summary.messages))
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
        let Some(&Waiting { project, .. }) = self.queues.get(device) else {
            return Ok(scan);
        };
        let mut leaving = Vec::new();
        let mut has_any = false;
        let (from, to) = layout::device_range(layout::QUEUE, device);
        self.map.visit(&from, &to, |key, value| {
            has_any = true;
            let Some(id) = layout::id_of(key) else {
                return ControlFlow::Continue(());
            };
            let item = match records::read_queued(id, value) {
                Some(QueueValue::Gap(gap)) => Some(Queued::Gap(id, gap)),
                Some(QueueValue::Message(entry, _)) if entry.deadline <= terms.now => {
                    leaving.push(Leaving::of(&entry, DropReason::Expired));
                    return ControlFlow::Continue(());
                }
                Some(QueueValue::Message(entry, _)) if entry.urgency < terms.minimum_urgency => {
                    return ControlFlow::Continue(());
                }
                Some(QueueValue::Message(_, body)) => decode_message(body)
                    .ok()
                    .map(|message| Queued::Message(Arc::new(message))),
                None => None,
            };
            let Some(item) = item else {
                leaving.push(Leaving::unreadable(id, value));
                return ControlFlow::Continue(());
            };
            if scan.found.len() == terms.limit {
                scan.is_complete = false;
                return ControlFlow::Break(());
            }
            scan.found.push(item);
            ControlFlow::Continue(())
        })?;
        if !has_any {
            // A summary that speaks of what is not there must not be believed again.
            self.queues.forget(device);
        }
        for message in &leaving {
            self.drop_queued(device, project, message)?;
            // The gap that this made stands behind what was found: the next scan tells it.
            scan.is_complete &= !message.reason.is_gap();
        }
        scan.dropped = leaving.iter().map(|l| (l.id, l.reason)).collect();
        // What a session has seen of a gap must not grow behind its back: the next one to go opens a new gap.
        if scan.found.iter().any(|q| matches!(q, Queued::Gap(..))) {
            self.open_gaps.remove(&device);
        }
        Ok(scan)
    }

    /// Drops what has expired, in queues that have something to expire, until so many messages are dropped.
    pub(super) fn expire_queues(
        &mut self,
        now: UnixMillis,
        messages_max: usize,
    ) -> Result<Vec<Expired>, StoreError> {
        let mut expired = Vec::new();
        let mut messages = 0;
        while messages < messages_max {
            let Some(device) = self.queues.take_due(now) else {
                break;
            };
            let Some(&Waiting { project, .. }) = self.queues.get(device) else {
                continue;
            };
            let (mut leaving, mut earliest) = (Vec::new(), Span::NEVER);
            self.visit_queue(device, |id, value, found| match found {
                Some(QueueValue::Message(entry, _)) if entry.deadline <= now => {
                    leaving.push(Leaving::of(&entry, DropReason::Expired));
                }
                Some(QueueValue::Message(entry, _)) => {
                    earliest = earliest.min(Span::of(entry.deadline));
                }
                Some(QueueValue::Gap(_)) => {}
                None => leaving.push(Leaving::unreadable(id, value)),
            })?;
            for message in &leaving {
                self.drop_queued(device, project, message)?;
            }
            self.queues.refile(device, earliest);
            // A queue that was looked at for nothing counts too: very many may be due and have nothing to expire.
            messages += leaving.len().max(1);
            expired.push(Expired {
                device,
                dropped: leaving.iter().map(|l| (l.id, l.reason)).collect(),
                is_empty: !self.queues.has(device),
            });
        }
        Ok(expired)
    }

    /// The entries of a queue, in order. What cannot be read is left out: a scan will find it.
    fn entries(&mut self, device: Ordinal) -> Result<&[Entry], StoreError> {
        if self.queues.entries(device).is_none() {
            let mut entries = Vec::new();
            if self.queues.has(device) {
                self.visit_queue(device, |_, _, found| {
                    if let Some(QueueValue::Message(entry, _)) = found {
                        entries.push(entry);
                    }
                })?;
            }
            self.queues.keep_entries(device, entries);
        }
        Ok(self.queues.entries(device).unwrap_or_default())
    }

    /// What a queue's summary would say, by reading it.
    pub(super) fn summarize(&self, device: Ordinal) -> Result<Summary, StoreError> {
        let mut summary = Summary::default();
        self.visit_queue(device, |id, value, found| match found {
            Some(QueueValue::Message(entry, _)) => summary.add(&entry),
            Some(QueueValue::Gap(_)) => summary.gaps = summary.gaps.saturating_add(1),
            None if id.sequence & GAP_BIT != 0 => summary.gaps = summary.gaps.saturating_add(1),
            None => {
                summary.messages = summary.messages.saturating_add(1);
                summary.bytes = summary.bytes.saturating_add(records::length(value));
            }
        })?;
        Ok(summary)
    }

    /// For tests: of each queue that is known or there, what is said of it and what is true.
    #[cfg(test)]
    pub(in super::super) fn summaries_and_truth(
        &self,
    ) -> Result<Vec<(Ordinal, Summary, Summary)>, StoreError> {
        let (from, to) = layout::kind_range(layout::QUEUE);
        let mut devices = self.queues.devices();
        self.map.visit(&from, &to, |key, _| {
            devices.extend(layout::number_at(key, 1));
            ControlFlow::Continue(())
        })?;
        let both = |device| {
            let said = self.queues.get(device).map(|w| w.summary);
            Ok((device, said.unwrap_or_default(), self.summarize(device)?))
        };
        devices.iter().map(Ordinal).map(both).collect()
    }

    fn visit_queue(
        &self,
        device: Ordinal,
        mut visitor: impl FnMut(MessageId, &[u8], Option<QueueValue<'_>>),
    ) -> Result<(), StoreError> {
        let (from, to) = layout::device_range(layout::QUEUE, device);
        self.map.visit(&from, &to, |key, value| {
            if let Some(id) = layout::id_of(key) {
                visitor(id, value, records::read_queued(id, value));
            }
            ControlFlow::Continue(())
        })
    }

    /// Takes a message out of the queue, if it got there, and tells of it in a gap where that is due.
    fn drop_queued(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        leaving: &Leaving,
    ) -> Result<(), StoreError> {
        let key = layout::queue(device, leaving.id);
        if self.map.get(&key)?.is_some() {
            self.map.remove(key);
            if leaving.id.sequence & GAP_BIT == 0 {
                self.queues
                    .remove(device, leaving.id, leaving.bytes, leaving.is_keyed);
            } else {
                self.queues.change_gaps(device, project, -1);
            }
        }
        if leaving.reason.is_gap() {
            self.count_into_gap(device, project, leaving.id, leaving.reason)?;
        }
        Ok(())
    }

    /// Tells a device of one more message that it will never get, although the publisher still wanted it delivered.
    pub(super) fn count_into_gap(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        id: MessageId,
        reason: DropReason,
    ) -> Result<(), StoreError> {
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
        if stored.is_none() {
            self.queues.change_gaps(device, project, 1);
        }
        *gap.counts.entry(reason.as_str().into()).or_insert(0) += 1;
        self.map.put(key, records::queued_gap(&gap));
        Ok(())
    }
}
