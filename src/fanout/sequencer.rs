//! One order of walks for all shards.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::delivery::{Broadcast, Command};
use crate::presence::{Mailbox, ShardId};
use crate::telemetry::{self, Metric};

/// Most walks that one shard has been given and not finished. When a shard has that many the sequencer waits for it: it
/// never reorders and never skips. What waits is already durable in its log, or was answered as now-or-never.
pub const SHARD_WALKS_MAX: usize = 16;

/// Most broadcasts that are being accepted or wait for their walk; further publishes to topics are put off.
pub const WALKS_WAITING_MAX: usize = 1024;

struct Inner {
    waiting: VecDeque<(Arc<Broadcast>, OwnedSemaphorePermit)>,
    unfinished: Vec<usize>,
}

/// Hands broadcasts to all shards, in order. Each takes its place before it is accepted and gives it back when it is
/// handed out.
pub struct Sequencer {
    mailboxes: Vec<Arc<Mailbox<Command>>>,
    inner: Mutex<Inner>,
    room: Arc<Semaphore>,
}

impl Sequencer {
    /// Feeds these mailboxes.
    #[must_use]
    pub fn new(mailboxes: Vec<Arc<Mailbox<Command>>>) -> Self {
        let unfinished = vec![0; mailboxes.len()];
        Self {
            mailboxes,
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                unfinished,
            }),
            room: Arc::new(Semaphore::new(WALKS_WAITING_MAX)),
        }
    }

    /// A place for a broadcast that is about to be accepted; `None` when there is none.
    #[must_use]
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Has a broadcast walked on every shard, after all that were given before.
    pub fn walk(&self, broadcast: Arc<Broadcast>, room: OwnedSemaphorePermit) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.waiting.push_back((broadcast, room));
        self.hand_out(&mut inner);
    }

    /// A shard has finished a walk.
    pub fn finished(&self, shard: ShardId) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inner.unfinished.get_mut(usize::from(shard.0)) {
            *count = count.saturating_sub(1);
        }
        self.hand_out(&mut inner);
    }

    fn hand_out(&self, inner: &mut Inner) {
        while inner.unfinished.iter().all(|&n| n < SHARD_WALKS_MAX) {
            let Some((broadcast, _room)) = inner.waiting.pop_front() else {
                break;
            };
            for (mailbox, unfinished) in self.mailboxes.iter().zip(&mut inner.unfinished) {
                *unfinished += 1;
                mailbox.push_bounded_elsewhere(Command::Walk(Arc::clone(&broadcast)));
            }
        }
        telemetry::gauge(Metric::FanoutWaiting, inner.waiting.len() as u64);
    }
}
