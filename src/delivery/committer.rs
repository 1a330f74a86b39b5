//! The one owner of the store: takes operations, commits in groups, answers.
//!
//! A group is whatever waits when the last commit is done, at most `batch_operations_max`: a lone operation is
//! committed at once, under load many share one flush. Unicasts to attached devices are held back for the ack window
//! first; those acked by then are never written.
//!
//! A commit that fails is tried again until it succeeds. Meanwhile publishers are refused at the gate; what devices ask
//! for goes on over the staged changes, until those are too many.
//!
//! [`Committer::turn`] does one group and is called by a thread of its own in the broker, step by step in simulations.
//!
//! | file | idea |
//! |---|---|
//! | `operations` | performing one operation |
//! | `changes` | those that change a registration |
//! | `history` | the history, written behind |
//! | `chores` | what nobody asked for: write-behind, expiry, retention, room on the disk |

mod changes;
mod chores;
mod history;
mod operations;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petrel_core::{DropReason, Happening};
use petrel_protocol::{ErrorCode, MessageId};
use roaring::RoaringBitmap;
use tokio::sync::{mpsc, oneshot};

use self::chores::Chores;
use self::history::Writing;
use super::Delivery;
use super::command::Refusal;
use super::gate::Closed;
use super::operation::Operation;
use super::pending::{Outcome, Pending};
use crate::store::{Store, StoreError, StoreStats};
use crate::telemetry::{self, Metric};

/// How long to wait before a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Most operations that are staged while commits fail; then nothing more is taken until one succeeds.
const STAGED_MAX: usize = 1 << 16;

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
    chores: Chores,
    writing: Writing,
    /// When the commit that failed is tried again.
    retry_at: Option<Instant>,
    reported: StoreStats,
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
        if let (until, true) = delivery.patient_until {
            store.save_patience(until)?;
        }
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
            chores: Chores::new(now),
            writing: Writing::new(now),
            retry_at: None,
            reported: StoreStats::default(),
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
            let turn = self.turn(&mut group, Instant::now());
            let is_stopped = turn == Turn::Stopped;
            while self.staged.len() > STAGED_MAX || is_stopped && self.retry_at.is_some() {
                tokio::time::sleep(RETRY).await;
                self.commit(Instant::now());
            }
            match turn {
                Turn::Until(next) => wake_at = next,
                Turn::Stopped => return,
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
        let next_chore = self.do_chores(now, is_stopped);
        let next_chore = next_chore.min(self.write_history(now, is_stopped));
        self.reserve();
        if is_stopped || self.retry_at.is_none_or(|at| at <= now) {
            self.commit(now);
        }
        if is_stopped {
            return Turn::Stopped;
        }
        let due = self.held.front().and_then(|p| p.ack_until);
        let next = [due, self.retry_at].into_iter().flatten().min();
        Turn::Until(next.map_or(next_chore, |next| next.min(next_chore)))
    }

    /// Makes what is staged durable and says so. After a failure everything stays staged, publishers are told.
    fn commit(&mut self, now: Instant) {
        let started = Instant::now();
        self.delivery.gate.begin_commit(started);
        let committed = self.store.commit();
        self.delivery.gate.end_commit();
        if let Err(error) = committed {
            self.retry_at = Some(now + RETRY);
            self.delivery.gate.set_closed(Some(Closed::Failing));
            telemetry::gauge(Metric::StoreFailing, 1);
            tracing::error!(%error, "a commit failed and will be tried again: publishers are refused");
            for afterwards in &self.staged {
                if let Afterwards::Queued(pending, _) = afterwards {
                    // It stays staged: a later commit may still succeed.
                    pending.answer(Outcome::Unsure);
                }
            }
            return;
        }
        if self.retry_at.take().is_some() {
            self.delivery.gate.set_closed(None);
            telemetry::gauge(Metric::StoreFailing, 0);
            tracing::info!("the store takes commits again: publishers are let in");
        }
        self.report(started.elapsed());
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

    fn report(&mut self, took: Duration) {
        let stats = self.store.stats();
        self.delivery.stored_changed(stats.queued_messages);
        let before = std::mem::replace(&mut self.reported, stats);
        let written = stats.bytes_written - before.bytes_written;
        if written == 0 {
            return;
        }
        telemetry::counter(Metric::StoreCommits, 1);
        telemetry::counter(Metric::StoreBytesWritten, written);
        let bodies = stats.bodies_written - before.bodies_written;
        telemetry::counter(Metric::StoreBodiesWritten, bodies);
        let body_bytes = stats.body_bytes_written - before.body_bytes_written;
        telemetry::counter(Metric::StoreBodyBytesWritten, body_bytes);
        telemetry::seconds(Metric::StoreCommitSeconds, took);
        telemetry::gauge(Metric::StoreQueuedBytes, stats.queued_bytes);
        let history = stats.history_bytes_written - before.history_bytes_written;
        telemetry::counter(Metric::HistoryBytesWritten, history);
        telemetry::gauge(Metric::HistoryBytes, stats.history_bytes);
        telemetry::gauge_with(Metric::MemoryBytes, "store", stats.memory_bytes);
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

    fn after(&mut self, callback: impl FnOnce() + Send + 'static) {
        self.staged.push(Afterwards::Call(Box::new(callback)));
    }
}

/// A unicast is durable.
fn queued(delivery: &Delivery, pending: &Pending, dropped: &[(MessageId, DropReason)]) {
    // The mark first: whoever no longer finds the message among the pending must look into the queue.
    delivery.set_queue(pending.device, true);
    delivery.pending.remove(pending);
    delivery.ledger.accept(1);
    let id = pending.message.id;
    if dropped.iter().all(|(dropped, _)| *dropped != id) {
        delivery.note(pending.device, id, Happening::Queued);
    }
    delivery.drop_unicasts(pending.device, dropped);
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

    /// Has the owner of the store do something between two operations; `None` if there is no owner any more.
    ///
    /// # Cancel safety
    /// It may still be done.
    pub async fn ask_store<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut dyn Store) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let ask = Box::new(move |store: &mut dyn Store| {
            let _ = answer.send(ask(store));
        });
        self.operations.send(Operation::Ask(ask)).await.ok()?;
        answered.await.ok()
    }

    /// Ends the committer after one more commit.
    pub async fn stop_committer(&self) {
        let _ = self.operations.send(Operation::Stop).await;
    }
}
