//! What the client's task, its handles and its events share, and the queue of what the app has not taken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use petrel_protocol::{DeviceToken, MessageId};
use tokio::sync::Notify;

use crate::error::Cause;
use crate::event::{Delivery, Event};
use crate::inbox::Inbox;
use crate::keep_alive::{NetworkId, NetworkStats};
use crate::message::Kept;

/// An event on its way to the app.
#[derive(Debug)]
pub(crate) struct Item {
    event: Event,
    on_take: OnTake,
}

/// What happens when the app takes an event.
#[derive(Clone, Copy, Debug)]
enum OnTake {
    Nothing,
    /// A gap has no `done`: taken is done.
    Done(MessageId),
    /// The app knows which token died.
    PreviousTold,
}

impl Item {
    pub(super) fn kept(kept: Kept, redelivered: bool, inbox: &Arc<Inbox>) -> Self {
        match kept {
            Kept::Message(message) => Self {
                event: Event::Message(Delivery::new(message, redelivered, Arc::clone(inbox))),
                on_take: OnTake::Nothing,
            },
            Kept::Gap(gap) => Self {
                on_take: OnTake::Done(gap.id),
                event: Event::Gap {
                    topic: gap.topic,
                    count: gap.count,
                    reasons: gap.reasons,
                },
            },
        }
    }

    fn is_status(&self) -> bool {
        matches!(
            self.event,
            Event::Registered { .. } | Event::Disconnected { .. }
        )
    }
}

/// Events that the channel to the app has no room for. Bounded by who fills it: see `Driver::may_read`, and one
/// status at most.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    items: VecDeque<Item>,
}

impl Outbox {
    pub(super) fn push(&mut self, item: Item) {
        self.items.push_back(item);
    }

    pub(super) fn push_event(&mut self, event: Event) {
        self.push(Item {
            event,
            on_take: OnTake::Nothing,
        });
    }

    /// Adds a status, and drops an older one that waits: only the latest is worth knowing.
    pub(super) fn push_status(&mut self, event: Event) {
        self.items.retain(|item| !item.is_status());
        let tells_previous =
            matches!(&event, Event::Registered { previous, .. } if previous.is_some());
        self.push(Item {
            event,
            on_take: if tells_previous {
                OnTake::PreviousTold
            } else {
                OnTake::Nothing
            },
        });
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn into_items(self) -> VecDeque<Item> {
        self.items
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Arc<Inbox>,
    token: Mutex<Option<DeviceToken>>,
    tail: Mutex<VecDeque<Item>>,
    closed: Mutex<Option<Closed>>,
    previous_told: AtomicBool,
    /// The network that the app changed to, until the task takes note.
    entered: Mutex<Option<NetworkId>>,
    /// Wakes the task for it.
    network: Notify,
    stats: Mutex<NetworkStats>,
}

#[derive(Debug)]
struct Closed {
    cause: Cause,
    by_app: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(inbox: Arc<Inbox>, token: Option<DeviceToken>) -> Self {
        Self {
            inbox,
            token: Mutex::new(token),
            tail: Mutex::default(),
            closed: Mutex::default(),
            previous_told: AtomicBool::new(false),
            entered: Mutex::default(),
            network: Notify::new(),
            stats: Mutex::default(),
        }
    }

    /// The network changed, says the app. Changes that the task has not seen yet are one change, to the last.
    pub(crate) fn change_network(&self, network: NetworkId) {
        *lock(&self.entered) = Some(network);
        self.network.notify_one();
    }

    /// Resolves after the network changed; it may also do so for a change that was taken already.
    pub(super) async fn network_changed(&self) {
        self.network.notified().await;
    }

    pub(super) fn take_network(&self) -> Option<NetworkId> {
        lock(&self.entered).take()
    }

    pub(crate) fn stats(&self) -> NetworkStats {
        lock(&self.stats).clone()
    }

    pub(super) fn set_stats(&self, stats: NetworkStats) {
        *lock(&self.stats) = stats;
    }

    pub(crate) fn token(&self) -> Option<DeviceToken> {
        lock(&self.token).clone()
    }

    pub(super) fn set_token(&self, token: Option<DeviceToken>) {
        *lock(&self.token) = token;
    }

    /// Hands an item to the app.
    pub(crate) fn take(&self, item: Item) -> Event {
        match item.on_take {
            OnTake::Nothing => {}
            OnTake::Done(id) => self.inbox.done(id),
            OnTake::PreviousTold => {
                self.previous_told.store(true, Ordering::Release);
                self.inbox.wake();
            }
        }
        item.event
    }

    /// Whether the app took the event that told which token died; asks once.
    pub(super) fn take_previous_told(&self) -> bool {
        self.previous_told.swap(false, Ordering::AcqRel)
    }

    /// The client's task ends. What waits for the app is left to its `Events`, unless the app closed the client: then
    /// the storage is given back, and what was not taken comes again at the next start.
    pub(super) fn finish(&self, cause: Cause, by_app: bool, outbox: Outbox) {
        if by_app {
            self.inbox.release();
        } else {
            *lock(&self.tail) = outbox.into_items();
        }
        *lock(&self.closed) = Some(Closed { cause, by_app });
    }

    pub(crate) fn take_tail(&self) -> VecDeque<Item> {
        std::mem::take(&mut *lock(&self.tail))
    }

    /// Why the client is closed, if the app did it.
    pub(crate) fn closed_by_app(&self) -> Option<Cause> {
        lock(&self.closed)
            .as_ref()
            .filter(|closed| closed.by_app)
            .map(|closed| closed.cause.clone())
    }

    /// Why the client is closed. A task that did not live to say so was ended with its runtime.
    pub(crate) fn closed_cause(&self) -> Cause {
        lock(&self.closed).as_ref().map_or_else(
            || Cause::app("the client's task was ended together with its runtime"),
            |closed| closed.cause.clone(),
        )
    }
}
