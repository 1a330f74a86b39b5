//! Unicast messages between acceptance and commit.
//!
//! A message stands here from the moment it has an id until it is durable or settled. Whoever scans for what a device
//! is owed looks here as well as into its queue, so the message is never nowhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use petrel_core::{DropReason, Message};
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform};
use tokio::sync::oneshot;

/// How a publish ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It cannot be lost any more: durable, acked, or handed over as far as now-or-never goes.
    Safe,
    /// The device's queue is full and refuses.
    Refused,
    /// The registration ended meanwhile.
    Unregistered,
    /// The store failed before it took the message.
    Failed,
    /// The commit failed; it will be tried again.
    Unsure,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nowhere but here.
    Open,
    /// In the batch that is being committed.
    Storing,
    /// Acked: nobody needs to be sent it. The store need not see it either, unless it is in the batch that is being
    /// committed; then the store settles it.
    Settled,
    /// A newer one stands for it, and replaces in the store what this one would have: it may yet be refused or lost.
    Replaced,
}

struct State {
    phase: Phase,
    /// The publisher's, and those of the messages that this one replaced.
    answers: Vec<oneshot::Sender<Outcome>>,
}

/// One unicast message on its way to the store or its device, whichever comes first.
pub struct Pending {
    /// The message.
    pub message: Arc<Message>,
    /// For whom.
    pub device: Ordinal,
    /// What kind of device that is.
    pub platform: Platform,
    /// Until when an ack may make the write needless; `None` for a device that is not attached.
    pub(super) ack_until: Option<Instant>,
    state: Mutex<State>,
}

impl Pending {
    pub(super) fn new(
        message: Arc<Message>,
        device: Ordinal,
        platform: Platform,
        ack_until: Option<Instant>,
        answer: oneshot::Sender<Outcome>,
    ) -> Self {
        Self {
            message,
            device,
            platform,
            ack_until,
            state: Mutex::new(State {
                phase: Phase::Open,
                answers: vec![answer],
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn collapse_key(&self) -> Option<&CollapseKey> {
        self.message.options(self.platform).collapse_key.as_ref()
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Tells the publisher, and those whose messages this one replaced. A second call finds nobody.
    pub(crate) fn answer(&self, outcome: Outcome) {
        let answers = std::mem::take(&mut self.lock().answers);
        for answer in answers {
            // A publisher that no longer listens is answered by nobody's fault.
            let _ = answer.send(outcome);
        }
    }

    /// Takes it for the next commit; whether it was still open.
    pub(super) fn begin_storing(&self) -> bool {
        let mut state = self.lock();
        let was_open = state.phase == Phase::Open;
        if was_open {
            state.phase = Phase::Storing;
        }
        was_open
    }

    /// Lets a newer one stand for it if nothing of it is on its way to the store; whether it did.
    fn replace(&self) -> bool {
        let mut state = self.lock();
        let was_open = state.phase == Phase::Open;
        if was_open {
            state.phase = Phase::Replaced;
        }
        was_open
    }

    /// Its device has it: no scan finds it among the pending any more. Whether nothing of it is on its way to the store.
    fn ack(&self) -> bool {
        let before = std::mem::replace(&mut self.lock().phase, Phase::Settled);
        before == Phase::Open
    }
}

/// Messages that a newer one stands for, each collapsed.
type Replaced = Vec<(MessageId, DropReason)>;

/// What an ack for a pending message found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acked {
    /// It was here and is settled: it will never be written.
    Elided,
    /// It is being written; the store must settle it.
    Storing,
    /// It is not here.
    Unknown,
}

/// All pending messages, by device.
#[derive(Default)]
pub(super) struct PendingMap {
    by_device: DashMap<Ordinal, Vec<Arc<Pending>>>,
}

impl PendingMap {
    /// Adds what `make` makes, while nobody else touches this device: ids are in the order of insertion. Messages of the
    /// same collapse key that are still open are replaced: their publishers wait for the new one. Returns which.
    /// `then` runs before anybody else may add, so pushes to the shard are in the same order.
    pub(super) fn insert<E>(
        &self,
        device: Ordinal,
        make: impl FnOnce() -> Result<Arc<Pending>, E>,
        then: impl FnOnce(&Arc<Pending>),
    ) -> Result<(Arc<Pending>, Replaced), E> {
        let mut entry = self.by_device.entry(device).or_default();
        let pending = match make() {
            Ok(pending) => pending,
            Err(error) => {
                let is_empty = entry.is_empty();
                drop(entry);
                if is_empty {
                    self.by_device.remove_if(&device, |_, list| list.is_empty());
                }
                return Err(error);
            }
        };
        let mut replaced = Vec::new();
        if let Some(key) = pending.collapse_key() {
            entry.retain(|old| {
                let is_replaced = old.collapse_key() == Some(key) && old.replace();
                if is_replaced {
                    let answers = std::mem::take(&mut old.lock().answers);
                    pending.lock().answers.extend(answers);
                    replaced.push((old.message.id, DropReason::Collapsed));
                }
                !is_replaced
            });
        }
        entry.push(Arc::clone(&pending));
        then(&pending);
        Ok((pending, replaced))
    }

    /// An ack came. The publisher is answered at once.
    pub(super) fn ack(&self, device: Ordinal, id: MessageId) -> Acked {
        let Entry::Occupied(mut entry) = self.by_device.entry(device) else {
            return Acked::Unknown;
        };
        let list = entry.get_mut();
        let Some(at) = list.iter().position(|p| p.message.id == id) else {
            return Acked::Unknown;
        };
        let acked = if list[at].ack() {
            let pending = list.remove(at);
            pending.answer(Outcome::Safe);
            Acked::Elided
        } else {
            list[at].answer(Outcome::Safe);
            Acked::Storing
        };
        if entry.get().is_empty() {
            entry.remove();
        }
        acked
    }

    /// Takes a message out: it is durable, refused, or its device is gone.
    pub(super) fn remove(&self, pending: &Pending) {
        if let Entry::Occupied(mut entry) = self.by_device.entry(pending.device) {
            entry
                .get_mut()
                .retain(|p| p.message.id != pending.message.id);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    /// What is pending for a device, in order.
    pub(super) fn of(&self, device: Ordinal) -> Vec<Arc<Pending>> {
        self.by_device
            .get(&device)
            .map_or_else(Vec::new, |list| list.value().clone())
    }

    /// How many devices have something pending.
    pub(super) fn devices(&self) -> usize {
        self.by_device.len()
    }
}
