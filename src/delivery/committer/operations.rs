//! Performing one operation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use petrel_core::{DropReason, Happening};
use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};

use super::super::broadcasts::{Broadcast, Stage};
use super::super::durable::trimmed;
use super::super::operation::Operation;
use super::super::pending::{Outcome, Pending, Phase};
use super::{Afterwards, Committer, count, internal};
use crate::store::{Enqueued, GAP_BIT, Queued, Scan, ScanTerms, StoreError, TopicGap};
use crate::telemetry::{self, Metric};

impl Committer {
    pub(super) fn perform(&mut self, operation: Operation, now: Instant) -> Result<(), StoreError> {
        match operation {
            Operation::Enqueue(pending) => {
                if pending.ack_until.is_some_and(|until| until > now) {
                    self.held.push_back(pending);
                    return Ok(());
                }
                self.enqueue(pending)
            }
            Operation::Settle { device, id } => self.settle(device, id),
            Operation::Append { broadcast, reply } => self.append(broadcast, reply),
            Operation::Scan {
                device,
                terms,
                reply,
            } => self.scan(device, terms, reply),
            Operation::Register { new, reply } => match self.store.register(&new) {
                Ok(registration) => {
                    count("register");
                    self.after(move || reply(Ok(registration)));
                    Ok(())
                }
                Err(error) => {
                    reply(Err(internal()));
                    Err(error)
                }
            },
            Operation::Change {
                device,
                change,
                reply,
            } => self.change(device, change, reply),
            Operation::Ask(ask) => {
                ask(&mut *self.store);
                Ok(())
            }
            Operation::History {
                device,
                before,
                limit,
                reply,
            } => self.read_history(device, before, limit, reply),
            Operation::Flush(answer) => {
                self.release_held(now, true);
                self.after(move || {
                    let _ = answer.send(());
                });
                Ok(())
            }
            Operation::Stop => Ok(()),
        }
    }

    fn scan(
        &mut self,
        device: Ordinal,
        terms: ScanTerms,
        reply: Box<dyn FnOnce(Option<Scan>) + Send>,
    ) -> Result<(), StoreError> {
        let told = self.tell_of_trimmed(device);
        let scan = told.and_then(|()| self.store.scan(device, terms));
        if let Ok(scan) = &scan {
            self.delivery.drop_unicasts(device, &scan.dropped);
            for &(_, reason) in &scan.dropped {
                if reason == DropReason::Unreadable {
                    telemetry::counter(Metric::StoreUnreadable, 1);
                }
            }
            self.delivery
                .stored_changed(self.store.stats().queued_messages);
        }
        if !self.store.has_queue(device) {
            self.delivery.set_queue(device, false);
        }
        let (scan, error) = match scan {
            Ok(scan) => (Some(scan), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let has_gap = |s: &Scan| s.found.iter().any(|found| matches!(found, Queued::Gap(..)));
        if scan.as_ref().is_some_and(has_gap) {
            // A crash would forget the gap that the device counts, and keep the messages in it.
            self.after(move || reply(scan));
        } else {
            reply(scan);
        }
        error
    }

    /// Puts gaps for what logs have let go of into the queue of a device that is owed it.
    fn tell_of_trimmed(&mut self, device: Ordinal) -> Result<(), StoreError> {
        if !self.is_registered(device) {
            return Ok(());
        }
        let owed = self.delivery.broadcasts.owed_to(device);
        let trimmed = owed.iter().filter(|b| b.stage() == Stage::Trimmed);
        let mut gaps: HashMap<(ProjectId, &TopicName), Vec<&Arc<Broadcast>>> = HashMap::new();
        for broadcast in trimmed {
            if let Some(topic) = broadcast.topic() {
                let log = (broadcast.message.project, topic);
                gaps.entry(log).or_default().push(broadcast);
            }
        }
        for ((project, topic), broadcasts) in gaps {
            let Some(newest) = broadcasts.iter().map(|b| b.message.id).max() else {
                continue;
            };
            // One that is acked meanwhile is settled by whoever comes first.
            let settled = broadcasts.iter().filter(|b| b.settle(device));
            let gap = TopicGap {
                project,
                topic: topic.clone(),
                newest,
                count: settled.count() as u64,
            };
            if gap.count > 0 {
                self.store.put_topic_gap(device, &gap)?;
                // At once, for whoever scans meanwhile; and in the order of operations, because a settlement in this
                // very group may have emptied the queue.
                self.delivery.set_queue(device, true);
                let delivery = Arc::clone(&self.delivery);
                self.after(move || delivery.set_queue(device, true));
            }
        }
        Ok(())
    }

    /// Whether a device will still be registered after the next commit.
    pub(super) fn is_registered(&self, device: Ordinal) -> bool {
        self.delivery.directory.device(device).is_some() && !self.ending.contains(device.0)
    }

    /// Writes what was held back and not acked in time.
    pub(super) fn release_held(&mut self, now: Instant, all: bool) {
        while let Some(pending) = self
            .held
            .pop_front_if(|p| all || p.ack_until.is_none_or(|until| until <= now))
        {
            if let Err(error) = self.enqueue(pending) {
                tracing::error!(%error, "a message could not be queued");
            }
        }
    }

    fn enqueue(&mut self, pending: Arc<Pending>) -> Result<(), StoreError> {
        let delivery = Arc::clone(&self.delivery);
        if !pending.begin_storing() {
            return self.collapse_for(&pending);
        }
        if !self.is_registered(pending.device) {
            delivery.pending.remove(&pending);
            pending.answer(Outcome::Unregistered);
            return Ok(());
        }
        let enqueued = self.store.enqueue(
            pending.device,
            &pending.message,
            pending.platform,
            delivery.limits_of(pending.message.project).queue,
            delivery.now(),
        );
        match enqueued {
            Ok(Enqueued::Queued { dropped }) => {
                count("append");
                self.staged.push(Afterwards::Queued(pending, dropped));
                Ok(())
            }
            Ok(Enqueued::Refused) => {
                delivery.pending.remove(&pending);
                delivery.note(pending.device, pending.message.id, Happening::Refused);
                pending.answer(Outcome::Refused);
                Ok(())
            }
            Err(error) => {
                delivery.pending.remove(&pending);
                pending.answer(Outcome::Failed);
                Err(error)
            }
        }
    }

    /// A message that was acked before it was written still replaces older ones that were.
    fn collapse_for(&mut self, pending: &Pending) -> Result<(), StoreError> {
        let Some(key) = pending.collapse_key() else {
            return Ok(());
        };
        if pending.phase() != Phase::Settled || !self.delivery.has_queue(pending.device) {
            return Ok(());
        }
        let older = self
            .store
            .collapse(pending.device, key, pending.message.id)?;
        if !older.is_empty() {
            let device = pending.device;
            let is_empty = !self.store.has_queue(device);
            let delivery = Arc::clone(&self.delivery);
            self.after(move || {
                let collapsed = |id| (id, DropReason::Collapsed);
                let older: Vec<_> = older.into_iter().map(collapsed).collect();
                delivery.drop_unicasts(device, &older);
                if is_empty {
                    delivery.set_queue(device, false);
                }
            });
        }
        Ok(())
    }

    fn settle(&mut self, device: Ordinal, id: MessageId) -> Result<(), StoreError> {
        if !self.store.settle(device, id)? {
            return Ok(());
        }
        count("settle");
        let is_message = id.sequence & GAP_BIT == 0;
        let is_empty = !self.store.has_queue(device);
        let delivery = Arc::clone(&self.delivery);
        let at = delivery.now();
        // In the order of operations: the message may have been queued in this very group, and its mark comes first.
        self.after(move || {
            if is_message {
                delivery.ledger.ack(1);
                delivery.note_at(device, id, Happening::Acked, at);
            }
            if is_empty {
                delivery.set_queue(device, false);
            }
        });
        Ok(())
    }

    fn append(
        &mut self,
        broadcast: Arc<Broadcast>,
        reply: Box<dyn FnOnce(()) + Send>,
    ) -> Result<(), StoreError> {
        let targeted = broadcast.owed().targeted().clone();
        if let Err(error) = self.store.append(&broadcast.message, &targeted) {
            self.delivery.broadcasts.remove(broadcast.message.id);
            return Err(error);
        }
        count("broadcast");
        for id in self
            .delivery
            .broadcasts
            .log(&broadcast, self.delivery.settings.log)
        {
            // One that is trimmed by its own log's limit would be nowhere: a record is far smaller than a log.
            if id != broadcast.message.id {
                count("trim");
                // The new one is staged: whatever becomes of the old one, its publisher must hear.
                if let Err(error) = self.store.trim(id) {
                    tracing::error!(%error, message = %id, "a trimmed broadcast keeps its body");
                }
                let delivery = Arc::clone(&self.delivery);
                // In the order of operations: it may have been appended in this very group.
                self.after(move || trimmed(&delivery, id));
            }
        }
        self.after(move || reply(()));
        Ok(())
    }
}
