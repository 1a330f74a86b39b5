//! The one place that decides: send now, queue, or drop with a reason.
//!
//! What it is: publishing to one device ([`Delivery::publish_to_device`]) and to many ([`Delivery::publish_to_many`]),
//! attaching a device and finding what it is owed, acks, requests that change the store, and the thread that owns the
//! store and commits in groups ([`Committer`]).
//!
//! What it never does: speak a protocol, walk a broadcast (that is `fanout`), or touch a connection (that is `shard`).
//!
//! # Why nothing is lost between publish, commit and attach
//! A unicast is *pending* from the moment it has an id until it is durable; only then it leaves the pending. A publish
//! makes its message pending and then looks at presence; an attach sets presence and then scans pending, queue and
//! logs. So either the publish sees the session and pushes to its shard, or the scan sees the message. A push that a
//! shard cannot take becomes a nudge: scan again. A session that gets both sends the message once, because it knows
//! what it has in flight.

mod attach;
mod broadcasts;
mod command;
mod committer;
mod durable;
mod gate;
mod history;
mod ledger;
mod operation;
mod pending;
mod publish;
mod registrations;
mod requests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use petrel_core::{DropReason, Owed, Sequence, UnixMillis, WallClock, Window};
use petrel_protocol::{Ordinal, ProjectId};
use roaring::RoaringBitmap;
use tokio::sync::{Semaphore, mpsc};

pub use self::attach::{Busy, Wants};
pub use self::broadcasts::{Broadcast, LogLimits};
pub use self::command::{Batch, Command, Granted, Item, Refusal, Returns};
pub use self::committer::Committer;
pub use self::history::{DeviceHistory, HistorySettings};
pub use self::ledger::{Balance, Ledger};
pub use self::operation::Operation;
pub use self::pending::Pending;
pub use self::publish::{PublishError, Target};

use self::broadcasts::{Broadcasts, Stage};
use self::gate::Gate;
use self::history::Recorder;
use self::pending::PendingMap;
use crate::directory::{Directory, ProjectLimits};
use crate::presence::{Mailbox, Presence};
use crate::store::Loaded;

/// Most operations that wait for the store. A publish beyond waits for room; a shard keeps its acks meanwhile.
pub const OPERATIONS_MAX: usize = 8192;

/// Most publishes that wait for the store; further ones wait until one is answered.
pub const PUBLISHES_MAX: usize = OPERATIONS_MAX / 4 * 3;

/// What delivery is told by the configuration.
#[derive(Clone, Copy, Debug)]
pub struct DeliverySettings {
    /// How long the commit of a unicast to an attached device waits for its ack.
    pub ack_window: Duration,
    /// How long a publisher waits for its answer.
    pub publish_timeout: Duration,
    /// Most operations in one commit.
    pub batch_operations_max: usize,
    /// Whether publishers are answered before the commit.
    pub answers_from_memory: bool,
    /// Bounds of what waits, for projects without their own.
    pub limits: ProjectLimits,
    /// Bytes of the disk that are kept free: below, publishers are refused.
    pub disk_reserve: u64,
    /// Bounds of a topic's log.
    pub log: LogLimits,
    /// Most topics of a registration.
    pub topics_max: usize,
    /// How long a registration outlives the last sight of its device.
    pub registration_expiry: Duration,
    /// What is kept of what became of messages.
    pub history: HistorySettings,
    /// Most in flight to a device.
    pub window: Window,
}

/// Decides about every delivery. Shared by publishers, shards and the committer.
pub struct Delivery {
    settings: DeliverySettings,
    clock: RwLock<WallClock>,
    sequence: Sequence,
    directory: Arc<Directory>,
    presence: Arc<Presence>,
    mailboxes: Vec<Arc<Mailbox<Command>>>,
    pending: PendingMap,
    broadcasts: Broadcasts,
    gate: Gate,
    /// Devices whose last day was not written yet.
    seen: Mutex<RoaringBitmap>,
    /// Until when no registration ends for the absence of its device, and whether that is to be written.
    patient_until: (UnixMillis, bool),
    /// Held while a broadcast gets its id, its audience and its place among the operations: their order is one.
    broadcast_order: Mutex<()>,
    /// Devices with something in their stored queue.
    queued: RwLock<RoaringBitmap>,
    /// Messages in all stored queues, as of the last commit.
    stored: std::sync::atomic::AtomicU64,
    ledger: Ledger,
    recorder: Recorder,
    operations: mpsc::Sender<Operation>,
    /// Publishes that may wait for the store: fewer than operations, so that shards always find a place.
    publish_room: Semaphore,
}

impl Delivery {
    /// Takes what the store had. The receiver belongs to the [`Committer`].
    #[must_use]
    pub fn new(
        settings: DeliverySettings,
        clock: WallClock,
        directory: Arc<Directory>,
        presence: Arc<Presence>,
        mailboxes: Vec<Arc<Mailbox<Command>>>,
        loaded: Loaded,
    ) -> (Arc<Self>, mpsc::Receiver<Operation>) {
        let (operations, receiver) = mpsc::channel(OPERATIONS_MAX);
        let now = clock.now(Instant::now());
        let patient_until = registrations::patience(now, loaded.last_time, loaded.patient_until);
        let delivery = Self {
            settings,
            clock: RwLock::new(clock),
            sequence: Sequence::starting_at(loaded.epoch, loaded.reserved_end),
            directory,
            presence,
            mailboxes,
            pending: PendingMap::default(),
            broadcasts: Broadcasts::default(),
            gate: Gate::default(),
            seen: Mutex::default(),
            patient_until,
            broadcast_order: Mutex::new(()),
            queued: RwLock::new(loaded.queued),
            stored: loaded.queued_messages.into(),
            ledger: Ledger::default(),
            recorder: Recorder::new(settings.history.is_recorded),
            operations,
            publish_room: Semaphore::new(PUBLISHES_MAX),
        };
        for stored in loaded.broadcasts {
            let stage = if stored.is_trimmed {
                Stage::Trimmed
            } else {
                Stage::Live
            };
            let owed = Owed::restored(stored.targeted, stored.settled);
            let message = Arc::new(stored.message);
            let broadcast = Broadcast::new(message, stored.bytes, owed, stage);
            if let Some(history) = &stored.history {
                broadcast.tally.restore(history);
            }
            if stage == Stage::Live {
                // Within its limits when it was written; a smaller limit bites with the next broadcast.
                let all = LogLimits {
                    messages_max: usize::MAX,
                    bytes_max: u64::MAX,
                    age_max: Duration::MAX,
                };
                delivery.broadcasts.log(&broadcast, all);
            }
            delivery.broadcasts.insert(Arc::new(broadcast));
        }
        durable::tell_loaded(&delivery, &loaded.told);
        durable::collapse_loaded(&delivery);
        delivery.ledger.start(delivery.stored_deliveries());
        (Arc::new(delivery), receiver)
    }

    /// The wall clock's time.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        let clock = self.clock.read().unwrap_or_else(PoisonError::into_inner);
        clock.now(Instant::now())
    }

    /// Compares the clock with the operating system's; the difference in milliseconds of a jump seen for the first time.
    pub fn observe_wall_clock(&self, wall: UnixMillis) -> Option<i64> {
        let mut clock = self.clock.write().unwrap_or_else(PoisonError::into_inner);
        clock.observe(wall, Instant::now())
    }

    /// Who there is.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Who is where.
    #[must_use]
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// The mailboxes of all shards, by number.
    #[must_use]
    pub fn mailboxes(&self) -> &[Arc<Mailbox<Command>>] {
        &self.mailboxes
    }

    /// What this room was told.
    #[must_use]
    pub fn settings(&self) -> &DeliverySettings {
        &self.settings
    }

    /// The books. True at rest; see [`Balance::is_even`].
    #[must_use]
    pub fn balance(&self) -> Balance {
        self.ledger.balance(self.stored_deliveries())
    }

    /// How many deliveries were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.ledger.dropped(reason)
    }

    /// Devices with a pending message, and bytes that broadcasts hold.
    #[must_use]
    pub fn held(&self) -> (usize, u64) {
        (self.pending.devices(), self.broadcasts.totals().1)
    }

    /// Operations that wait for the store.
    #[must_use]
    pub fn operations_waiting(&self) -> usize {
        self.operations.max_capacity() - self.operations.capacity()
    }

    fn stored_deliveries(&self) -> u64 {
        let stored = self.stored.load(std::sync::atomic::Ordering::Acquire);
        stored + self.broadcasts.totals().0
    }

    /// Settles a broadcast for whoever is not registered any more. Nobody is left to ack it.
    fn settle_for_dead(&self, broadcast: &Broadcast) {
        let owed = broadcast.owed_set();
        let project = broadcast.message.project;
        let alive = self.directory.by_variant(project, &owed);
        let dead = alive.iter().fold(owed, |dead, alive| dead - alive);
        let settled = broadcast.settle_all(&dead);
        broadcast.tally.drop(DropReason::Unregistered, settled);
    }

    fn limits_of(&self, project: ProjectId) -> ProjectLimits {
        let own = self.directory.limits(project);
        own.unwrap_or(self.settings.limits)
    }

    fn has_queue(&self, device: Ordinal) -> bool {
        let queued = self.queued.read().unwrap_or_else(PoisonError::into_inner);
        queued.contains(device.0)
    }

    fn set_queue(&self, device: Ordinal, is_queued: bool) {
        let mut queued = self.queued.write().unwrap_or_else(PoisonError::into_inner);
        if is_queued {
            queued.insert(device.0);
        } else {
            queued.remove(device.0);
        }
    }
}
