//! The one owner of the store: takes operations, commits in groups, answers.
//!
//! A group is whatever waits when the last commit is done, at most `batch_operations_max`: a lone operation is
//! committed at once, under load many share one flush. Unicasts to attached devices are held back for the ack window
//! first; those acked by then are never written.
//!
//! [`Committer::turn`] does one group and is called by a thread of its own in the broker, step by step in simulations.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petrel_core::DropReason;
use petrel_protocol::{ErrorCode, MessageId, Ordinal};
use roaring::RoaringBitmap;
use tokio::sync::{mpsc, oneshot};

use super::Delivery;
use super::broadcasts::{Broadcast, Stage};
use super::command::Refusal;
use super::durable::trimmed;
use super::operation::{Change, Operation};
use super::pending::{Outcome, Pending, Phase};
use crate::store::{Enqueued, Queued, Scan, Store, StoreError, Subscribed};
use crate::telemetry::{self, Metric};

/// How often settled sets are written behind and deadlines of broadcasts are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// How often the wall time is written, so that no later start is earlier by more than this.
const TIME_INTERVAL: Duration = Duration::from_secs(60);

/// How long to wait before a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(200);

type Callback = Box<dyn FnOnce() + Send>;

/// What is to be said once the staged changes are durable.
enum Afterwards {
    Queued(Arc<Pending>, Vec<(MessageId, DropReason)>),
    Call(Callback),
}

/// Owns the store.
pub struct Committer {
    delivery: Arc<Delivery>,
    store: Box<dyn Store>,
    held: VecDeque<Arc<Pending>>,
    staged: Vec<Afterwards>,
    reserving: Option<u64>,
    /// Registrations whose end is staged: the directory does not know yet, and nothing may be stored for them any more.
    ending: RoaringBitmap,
    housekept_at: Instant,
    time_saved_at: Instant,
    bytes_written: u64,
}

/// How a turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Call again when there is an operation, or at this instant.
    Until(Instant),
    /// Everything is durable and a [`Operation::Stop`] was met.
    Stopped,
}

impl Committer {
    /// Takes the store over and reserves the first block of the sequence.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub fn new(
        delivery: Arc<Delivery>,
        mut store: Box<dyn Store>,
        now: Instant,
    ) -> Result<Self, StoreError> {
        if let Some(end) = delivery.sequence.wanted_end() {
            store.reserve(end)?;
            store.save_time(delivery.now())?;
            store.commit()?;
            delivery.sequence.extend(end);
        }
        Ok(Self {
            delivery,
            store,
            held: VecDeque::new(),
            staged: Vec::new(),
            reserving: None,
            ending: RoaringBitmap::new(),
            housekept_at: now,
            time_saved_at: now,
            bytes_written: 0,
        })
    }

    /// Runs on the current thread until it meets [`Operation::Stop`]. The thread's own: store calls block it.
    pub async fn run(mut self, mut operations: mpsc::Receiver<Operation>) {
        let mut group = Vec::new();
        let mut wake_at = Instant::now();
        loop {
            let most = self.delivery.settings.batch_operations_max;
            let _ = tokio::time::timeout_at(wake_at.into(), operations.recv_many(&mut group, most))
                .await;
            match self.turn(&mut group, Instant::now()) {
                Turn::Until(next) => wake_at = next,
                Turn::Stopped => return,
            }
            while !self.staged.is_empty() {
                // The commit failed. Nothing is forgotten and nothing more is taken until it succeeds.
                tokio::time::sleep(RETRY).await;
                self.commit();
            }
        }
    }

    /// Performs and commits a group of operations; leaves `group` empty.
    pub fn turn(&mut self, group: &mut Vec<Operation>, now: Instant) -> Turn {
        let mut is_stopped = false;
        for operation in group.drain(..) {
            is_stopped |= matches!(operation, Operation::Stop);
            if let Err(error) = self.perform(operation, now) {
                tracing::error!(%error, "an operation on the store failed");
            }
        }
        self.release_held(now, is_stopped);
        if now.saturating_duration_since(self.housekept_at) >= HOUSEKEEPING || is_stopped {
            self.housekept_at = now;
            self.save_time(now);
            if let Err(error) = self.housekeep() {
                tracing::error!(%error, "housekeeping of the store failed");
            }
        }
        self.reserve();
        self.commit();
        if is_stopped {
            return Turn::Stopped;
        }
        let housekeeping = self.housekept_at + HOUSEKEEPING;
        let due = self.held.front().and_then(|p| p.ack_until);
        Turn::Until(due.map_or(housekeeping, |due| due.min(housekeeping)))
    }

    fn perform(&mut self, operation: Operation, now: Instant) -> Result<(), StoreError> {
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
            } => {
                let scan = self.store.scan(device, terms);
                if let Ok(scan) = &scan {
                    for &(_, reason) in &scan.dropped {
                        self.delivery.ledger.drop(reason, 1);
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
                let has_gap =
                    |s: &Scan| s.found.iter().any(|found| matches!(found, Queued::Gap(..)));
                if scan.as_ref().is_some_and(has_gap) {
                    // A crash would forget the gap that the device counts, and keep the messages in it.
                    self.after(move || reply(scan));
                } else {
                    reply(scan);
                }
                error
            }
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

    /// Whether a device will still be registered after the next commit.
    fn is_registered(&self, device: Ordinal) -> bool {
        self.delivery.directory.device(device).is_some() && !self.ending.contains(device.0)
    }

    fn after(&mut self, callback: impl FnOnce() + Send + 'static) {
        self.staged.push(Afterwards::Call(Box::new(callback)));
    }

    /// Writes what was held back and not acked in time.
    fn release_held(&mut self, now: Instant, all: bool) {
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
            delivery.settings.queue,
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
                delivery
                    .ledger
                    .drop(DropReason::Collapsed, older.len() as u64);
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
        let is_message = id.sequence & crate::store::GAP_BIT == 0;
        let is_empty = !self.store.has_queue(device);
        let delivery = Arc::clone(&self.delivery);
        // In the order of operations: the message may have been queued in this very group, and its mark comes first.
        self.after(move || {
            if is_message {
                delivery.ledger.ack(1);
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
                self.store.trim(id)?;
                let delivery = Arc::clone(&self.delivery);
                // In the order of operations: it may have been appended in this very group.
                self.after(move || trimmed(&delivery, id));
            }
        }
        self.after(move || reply(()));
        Ok(())
    }

    fn change(
        &mut self,
        device: Ordinal,
        change: Change,
        reply: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    ) -> Result<(), StoreError> {
        match self.stage_change(device, change) {
            Ok(Ok(callback)) => {
                self.after(move || {
                    callback();
                    reply(Ok(()));
                });
                Ok(())
            }
            Ok(Err(refusal)) => {
                reply(Err(refusal));
                Ok(())
            }
            Err(error) => {
                reply(Err(internal()));
                Err(error)
            }
        }
    }

    /// Stages a change; what to do once it is durable, or why it is refused.
    fn stage_change(
        &mut self,
        device: Ordinal,
        change: Change,
    ) -> Result<Result<Callback, Refusal>, StoreError> {
        let delivery = Arc::clone(&self.delivery);
        Ok(Ok(match change {
            Change::Rotate(hash) => {
                self.store.rotate(device, hash)?;
                count("register");
                Box::new(move || delivery.directory.rotated(device, &hash))
            }
            Change::SetAttributes(attributes) => {
                self.store.set_attributes(device, &attributes)?;
                count("register");
                Box::new(|| {})
            }
            Change::Subscribe(..) if !self.is_registered(device) => {
                let message = "the registration has ended; register anew";
                return Ok(Err(Refusal::new(ErrorCode::Unregistered, message)));
            }
            Change::Subscribe(project, topic) => {
                let most = delivery.settings.topics_max;
                match self.store.subscribe(device, project, &topic, most)? {
                    Subscribed::Done(id) => {
                        count("subscribe");
                        Box::new(move || delivery.directory.subscribed(id, project, &topic, device))
                    }
                    Subscribed::TooMany => {
                        let message = format!(
                            "a registration may have {most} topics; unsubscribe from one first"
                        );
                        return Ok(Err(Refusal::new(ErrorCode::TooManyTopics, message)));
                    }
                }
            }
            Change::Unsubscribe(project, topic) => {
                match self.store.unsubscribe(device, project, &topic)? {
                    Some(id) => {
                        count("unsubscribe");
                        Box::new(move || delivery.directory.unsubscribed(id, device))
                    }
                    None => Box::new(|| {}),
                }
            }
            Change::Unregister => {
                let gone = self.store.unregister(device)?;
                self.ending.insert(device.0);
                count("unregister");
                Box::new(move || {
                    delivery.directory.unregistered(device, &gone.topics);
                    delivery.set_queue(device, false);
                    delivery.gaps.forget(device);
                    delivery.ledger.drop(DropReason::Unregistered, gone.queued);
                    for broadcast in delivery.broadcasts.all() {
                        let reason = Some(DropReason::Unregistered);
                        delivery.settle_broadcast(&broadcast, device, reason);
                    }
                })
            }
        }))
    }

    fn save_time(&mut self, now: Instant) {
        if now.saturating_duration_since(self.time_saved_at) >= TIME_INTERVAL {
            self.time_saved_at = now;
            match self.store.save_time(self.delivery.now()) {
                Ok(()) => count("meta"),
                Err(error) => tracing::error!(%error, "the time could not be saved"),
            }
        }
    }

    /// Writes settled sets behind, lets go of broadcasts that are settled for everybody or worthless by now.
    fn housekeep(&mut self) -> Result<(), StoreError> {
        let delivery = Arc::clone(&self.delivery);
        let now = delivery.now();
        for broadcast in delivery.broadcasts.all() {
            let id = broadcast.message.id;
            let stage = broadcast.stage();
            if stage == Stage::Uncommitted {
                continue;
            }
            let is_worthless = broadcast.message.last_deadline() <= now;
            if is_worthless && stage == Stage::Live {
                let owed = broadcast.owed_set();
                let settled = broadcast.settle_all(&owed);
                delivery.ledger.drop(DropReason::Expired, settled);
            }
            let is_over = is_worthless || broadcast.owed().is_empty();
            if is_over {
                self.store.remove_broadcast(id)?;
                count("trim");
                delivery.broadcasts.unlog(&broadcast);
                delivery.broadcasts.remove(id);
            } else if broadcast.take_dirty() {
                self.store.save_settled(id, broadcast.owed().settled())?;
                count("settle");
            }
        }
        Ok(())
    }

    fn reserve(&mut self) {
        if self.reserving.is_some() {
            return;
        }
        if let Some(end) = self.delivery.sequence.wanted_end() {
            let staged = self
                .store
                .reserve(end)
                .and_then(|()| self.store.save_time(self.delivery.now()));
            match staged {
                Ok(()) => {
                    count("reserve");
                    self.reserving = Some(end);
                }
                Err(error) => tracing::error!(%error, "the sequence could not be reserved"),
            }
        }
    }

    /// Makes what is staged durable and says so. After a failure everything stays staged, publishers are told.
    fn commit(&mut self) {
        let started = Instant::now();
        if let Err(error) = self.store.commit() {
            tracing::error!(%error, "a commit failed and will be tried again");
            for afterwards in &self.staged {
                if let Afterwards::Queued(pending, _) = afterwards {
                    // It stays staged: a later commit may still succeed.
                    pending.answer(Outcome::Unsure);
                }
            }
            return;
        }
        let stats = self.store.stats();
        let written = stats.bytes_written - self.bytes_written;
        if written > 0 {
            self.bytes_written = stats.bytes_written;
            telemetry::counter(Metric::StoreCommits, 1);
            telemetry::counter(Metric::StoreBytesWritten, written);
            telemetry::seconds(Metric::StoreCommitSeconds, started.elapsed());
            telemetry::gauge(Metric::StoreDiskBytes, stats.disk_bytes);
        }
        self.delivery.stored_changed(stats.queued_messages);
        if let Some(end) = self.reserving.take() {
            self.delivery.sequence.extend(end);
        }
        for afterwards in self.staged.drain(..) {
            match afterwards {
                Afterwards::Queued(pending, dropped) => queued(&self.delivery, &pending, &dropped),
                Afterwards::Call(callback) => callback(),
            }
        }
        self.ending.clear();
    }
}

/// A unicast is durable.
fn queued(delivery: &Delivery, pending: &Pending, dropped: &[(MessageId, DropReason)]) {
    // The mark first: whoever no longer finds the message among the pending must look into the queue.
    delivery.set_queue(pending.device, true);
    delivery.pending.remove(pending);
    delivery.ledger.accept(1);
    for &(_, reason) in dropped {
        delivery.ledger.drop(reason, 1);
    }
    pending.answer(Outcome::Safe);
}

fn count(kind: &'static str) {
    telemetry::counter_with(Metric::StoreOperations, kind, 1);
}

fn internal() -> Refusal {
    Refusal::new(
        ErrorCode::Internal,
        "the broker's store failed; its log says why",
    )
}

/// Asks the committer to make everything before this durable, and waits.
impl Delivery {
    /// Returns once everything that was accepted before is durable. Messages held back for an ack are written too.
    ///
    /// # Cancel safety
    /// The flush goes on.
    pub async fn flush(&self) {
        let (answer, answered) = oneshot::channel();
        if self.operations.send(Operation::Flush(answer)).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// Ends the committer after one more commit.
    pub async fn stop_committer(&self) {
        let _ = self.operations.send(Operation::Stop).await;
    }
}
