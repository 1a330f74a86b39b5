//! What became of each message, on its way to the store: written behind, and never waited for.
//!
//! Whoever decides about a delivery says so here ([`Recorder::record`]); the committer takes what was said twice a
//! second. Events of one device meet in one stripe, so they stay in order, and shards and publishers hardly ever meet:
//! an uncontended lock and 32 bytes for each event. A full stripe drops and counts, because history may never slow a
//! delivery down. A crash forgets what was not written: the last second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use petrel_core::{DropReason, Event, Happening, Route, Timeline, UnixMillis};
use petrel_protocol::{MessageId, Ordinal, ProjectId};
use tokio::sync::oneshot;

use super::Delivery;
use super::broadcasts::Broadcast;
use super::operation::Operation;
use super::publish::PublishError;
use crate::store::{BroadcastHistory, HistoryLimits};
use crate::telemetry::{self, Metric};

/// Events that wait to be written: 2 MiB here, and as much again at the committer.
const EVENTS_MAX: usize = 65_536;

/// Locks that these are dealt over, by device.
const STRIPES: usize = 16;

const STRIPE_EVENTS_MAX: usize = EVENTS_MAX / STRIPES;

/// What is kept of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistorySettings {
    /// Whether anything is recorded. What was recorded before is kept within the limits either way.
    pub is_recorded: bool,
    /// Bounds of what is kept.
    pub limits: HistoryLimits,
}

/// What became of a device's messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceHistory {
    /// Whether the device is attached now.
    pub is_online: bool,
    /// Whether anything waits in its stored queue.
    pub has_queue: bool,
    /// Newest first.
    pub timelines: Vec<Timeline>,
}

/// Events that are not written yet.
pub(super) struct Recorder {
    is_on: bool,
    stripes: [Mutex<Vec<Event>>; STRIPES],
    /// A stripe is more than half full.
    is_pressed: AtomicBool,
}

impl Recorder {
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            stripes: Default::default(),
            is_pressed: AtomicBool::new(false),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    fn stripe(&self, device: Ordinal) -> MutexGuard<'_, Vec<Event>> {
        let stripe = &self.stripes[device.0 as usize % STRIPES];
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, event: Event) {
        if !self.is_on {
            return;
        }
        let mut stripe = self.stripe(event.device);
        if stripe.len() >= STRIPE_EVENTS_MAX {
            drop(stripe);
            telemetry::counter(Metric::HistoryDropped, 1);
            return;
        }
        stripe.push(event);
        if stripe.len() == STRIPE_EVENTS_MAX / 2 {
            self.is_pressed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether to take before the time comes.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_pressed.load(Ordering::Relaxed)
    }

    /// Moves all events to the end of `events`.
    pub(super) fn take(&self, events: &mut Vec<Event>) {
        self.is_pressed.store(false, Ordering::Relaxed);
        for stripe in &self.stripes {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            events.append(&mut stripe);
        }
    }

    /// What waits of a device.
    pub(super) fn of(&self, device: Ordinal) -> Vec<Event> {
        let stripe = self.stripe(device);
        let its = stripe.iter().filter(|e| e.device == device);
        its.copied().collect()
    }
}

/// What became of a broadcast, in counts. Nothing of it is on the way of a delivery but an addition.
#[derive(Default)]
pub(super) struct Tally {
    acked: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    first_ack: AtomicU64,
    /// The rest is written by the committer alone. Zero: not yet.
    committed_at: AtomicU64,
    targeted: AtomicU64,
    acked_when_written: AtomicU64,
    last_ack: AtomicU64,
}

impl Tally {
    pub(super) fn ack(&self, now: impl FnOnce() -> UnixMillis) {
        if self.acked.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_ack.store(now().0, Ordering::Relaxed);
        }
    }

    pub(super) fn drop(&self, reason: DropReason, devices: u64) {
        self.dropped[reason.index()].fetch_add(devices, Ordering::Relaxed);
    }

    /// Whether it was never written.
    pub(super) fn is_new(&self) -> bool {
        self.committed_at.load(Ordering::Relaxed) == 0
    }

    /// Goes on from what was written in an earlier life.
    pub(super) fn restore(&self, history: &BroadcastHistory) {
        let set = |to: &AtomicU64, value| to.store(value, Ordering::Relaxed);
        set(&self.acked, history.acked);
        set(&self.acked_when_written, history.acked);
        for (count, stored) in self.dropped.iter().zip(history.dropped) {
            set(count, stored);
        }
        set(&self.committed_at, history.committed_at.0);
        set(&self.targeted, history.targeted);
        if let Some((first, last)) = history.acks {
            set(&self.first_ack, first.0);
            set(&self.last_ack, last.0);
        }
    }

    /// What there is to write. The committer's.
    fn read(&self, broadcast: &Broadcast, now: UnixMillis) -> BroadcastHistory {
        let get = |from: &AtomicU64| from.load(Ordering::Relaxed);
        if self.is_new() {
            self.committed_at.store(now.0, Ordering::Relaxed);
            let targeted = broadcast.owed().targeted().len();
            self.targeted.store(targeted, Ordering::Relaxed);
        }
        let acked = get(&self.acked);
        if self.acked_when_written.swap(acked, Ordering::Relaxed) != acked {
            self.last_ack.store(now.0, Ordering::Relaxed);
        }
        let message = &broadcast.message;
        let (first, last) = (get(&self.first_ack), get(&self.last_ack));
        BroadcastHistory {
            id: message.id,
            project: message.project,
            topic: broadcast.topic().map_or("", |t| t.as_str()).to_owned(),
            accepted_at: message.accepted_at,
            committed_at: UnixMillis(get(&self.committed_at)),
            targeted: get(&self.targeted),
            acked,
            dropped: std::array::from_fn(|reason| get(&self.dropped[reason])),
            acks: (acked > 0).then_some((UnixMillis(first), UnixMillis(last))),
        }
    }
}

impl Broadcast {
    /// What became of it so far. The committer's.
    pub(super) fn history(&self, now: UnixMillis) -> BroadcastHistory {
        self.tally.read(self, now)
    }
}

impl Delivery {
    /// Notes what happens to a message now.
    pub(super) fn note(&self, device: Ordinal, id: MessageId, happening: Happening) {
        if self.recorder.is_on() {
            self.note_at(device, id, happening, self.now());
        }
    }

    pub(super) fn note_at(
        &self,
        device: Ordinal,
        id: MessageId,
        happening: Happening,
        at: UnixMillis,
    ) {
        self.recorder.record(Event {
            device,
            id,
            happening,
            at,
        });
    }

    /// Messages for one device will not be delivered any more: counts and notes them.
    pub(super) fn drop_unicasts(&self, device: Ordinal, dropped: &[(MessageId, DropReason)]) {
        for &(id, reason) in dropped {
            self.ledger.drop(reason, 1);
            self.note(device, id, Happening::Dropped(reason));
        }
    }

    /// A shard has handed a message to a device's connection.
    pub fn sent(&self, device: Ordinal, id: MessageId, route: Route) {
        if matches!(route, Route::Queue | Route::Transient) {
            self.note(device, id, Happening::Sent);
        }
    }

    /// What became of the messages that were sent to a token alone, with ids below `before`, newest first. What was
    /// broadcast is not among them.
    ///
    /// # Errors
    /// [`PublishError`], as for a publish to this token; [`PublishError::Store`] if the store failed.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn history(
        &self,
        project: ProjectId,
        token: &str,
        before: MessageId,
        limit: usize,
    ) -> Result<DeviceHistory, PublishError> {
        let device = self.resolve(project, token)?.ordinal;
        let place = self.operations.reserve().await;
        let place = place.map_err(|_| PublishError::Store)?;
        let (answer, answered) = oneshot::channel();
        place.send(Operation::History {
            device,
            before,
            limit,
            reply: Box::new(move |timelines| {
                // Whoever asked may have gone.
                let _ = answer.send(timelines);
            }),
        });
        match answered.await {
            Ok(Some(timelines)) => Ok(DeviceHistory {
                is_online: self.presence.find(device).is_some(),
                has_queue: self.has_queue(device),
                timelines,
            }),
            Ok(None) | Err(_) => Err(PublishError::Store),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(device: u32, sequence: u64) -> Event {
        Event {
            device: Ordinal(device),
            id: MessageId { epoch: 1, sequence },
            happening: Happening::Sent,
            at: UnixMillis(5),
        }
    }

    #[test]
    fn a_full_stripe_drops_and_the_others_go_on() {
        let recorder = Recorder::new(true);
        let full = STRIPE_EVENTS_MAX as u64;
        for sequence in 0..full + 3 {
            assert_eq!(recorder.is_pressed(), sequence >= full / 2);
            recorder.record(event(0, sequence));
        }
        recorder.record(event(1, 9));
        assert_eq!(recorder.of(Ordinal(0)).len(), STRIPE_EVENTS_MAX);
        assert_eq!(recorder.of(Ordinal(1)), [event(1, 9)]);
        let mut taken = Vec::new();
        recorder.take(&mut taken);
        assert_eq!(taken.len(), STRIPE_EVENTS_MAX + 1);
        assert!(!recorder.is_pressed() && recorder.of(Ordinal(0)).is_empty());
        recorder.record(event(0, 1));
        assert_eq!(recorder.of(Ordinal(0)), [event(0, 1)]);
    }

    #[test]
    fn switched_off_nothing_is_kept() {
        let recorder = Recorder::new(false);
        recorder.record(event(0, 1));
        assert!(recorder.of(Ordinal(0)).is_empty());
    }

    #[test]
    fn an_event_takes_what_the_budget_says() {
        assert_eq!(size_of::<Event>() * EVENTS_MAX, 2 << 20);
    }
}
