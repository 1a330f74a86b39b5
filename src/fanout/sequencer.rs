//! One order of walks for all shards.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::delivery::{Broadcast, Command};
use crate::presence::{Mailbox, ShardId};
use crate::telemetry::{self, Metric};

/// Most walks that one shard has been given and not finished. When a shard has that many the sequencer waits for it: it
/// never reorders and never skips. What waits is already durable in its log, or was answered as now-or-never.
pub const SHARD_WALKS_MAX: usize = 16;

struct Inner {
    waiting: VecDeque<Arc<Broadcast>>,
    unfinished: Vec<usize>,
}

/// Hands broadcasts to all shards, in order. `waiting` is bounded by the publishes in progress: a broadcast waits here
/// at most until the walks before it are done.
pub struct Sequencer {
    mailboxes: Vec<Arc<Mailbox<Command>>>,
    inner: Mutex<Inner>,
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
        }
    }

    /// Has a broadcast walked on every shard, after all that were given before.
    pub fn walk(&self, broadcast: Arc<Broadcast>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.waiting.push_back(broadcast);
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
            let Some(broadcast) = inner.waiting.pop_front() else {
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
