//! The store: what must survive the process.
//!
//! What it is: one trait, [`Store`], that speaks in whole operations (register, enqueue, settle, scan, append), so that
//! a distributed engine can stand behind it one day, and [`Embedded`], which performs them over an ordered map of bytes:
//! sled, or memory for tests.
//!
//! What it never does: decide what is delivered (that is `petrel-core` and `delivery`), answer publishers, or run a
//! thread of its own. `delivery` calls it from the one thread that owns it.
//!
//! Every change is staged and visible to later reads at once; [`Store::commit`] makes all staged changes durable in one
//! atomic step.

mod embedded;
mod engines;
#[cfg(test)]
mod faulty;
#[cfg(feature = "fjall")]
mod fjall;
mod history;
mod layout;
pub mod maintenance;
mod memory;
mod ordered;
mod records;
mod reopening;
mod set_aside;
mod sled;
mod staged;
mod witness;

use std::path::PathBuf;
use std::sync::Arc;

use petrel_core::queue::Limits;
use petrel_core::{Day, DropReason, Message, UnixMillis};
use petrel_protocol::session::Attributes;
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform, ProjectId, TopicName, Urgency};
use roaring::RoaringBitmap;

pub use self::embedded::Embedded;
pub use self::engines::open_engine;
#[cfg(feature = "fjall")]
pub use self::fjall::FjallMap;
pub use self::history::{BroadcastHistory, HistoryLimits, HistoryStore};
pub use self::maintenance::{Backup, Stepped};
pub use self::memory::MemoryMap;
pub use self::ordered::{Change, Durability, OrderedMap, Pair};
pub use self::reopening::Reopening;
pub use self::set_aside::{guarded, set_aside};
pub use self::sled::SledMap;
pub use self::witness::{Mark, OnLoss, Witnessed, loss, mark_path};

/// What can go wrong in a store. Logged where it is handled; publishers see an internal error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed: disk full, no permission, broken file.
    #[error("the store at {path} failed: {source}; check disk space and permissions")]
    Engine {
        /// Where the engine keeps its files.
        path: PathBuf,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine's files are not what it wrote, or the engine fails over them in a way that no later try mends.
    #[error(
        "the store at {path} is damaged: {problem}. Keep it, and put a backup in its place or an export back with \
         `petrel store import`"
    )]
    Damaged {
        /// Where the engine keeps its files.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
    /// The store is older than it was: commits that were durable are not in it.
    #[error(
        "the store at {path} has lost what was durable: it holds {found} commits of {known}; it was damaged, deleted, is \
         not mounted, or an older backup took its place"
    )]
    Lost {
        /// Where the engine keeps its files.
        path: PathBuf,
        /// Commits in it.
        found: u64,
        /// Commits that were durable.
        known: u64,
    },
    /// The files are of a newer Petrel.
    #[error(
        "the store has schema version {found}, this Petrel reads up to {known}: use the newer Petrel"
    )]
    NewerSchema {
        /// Version in the files.
        found: u32,
        /// Newest version this program knows.
        known: u32,
    },
    /// A value that serving needs cannot be read.
    #[error("unreadable {what} in the store: {problem}; restore the data directory from a backup")]
    Unreadable {
        /// What kind of value.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Numbers a topic of a project within one broker. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicId(pub u32);

/// SHA-256 of a device secret.
pub type SecretHash = [u8; 32];

/// What a device says when it registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRegistration {
    /// Whose device it is.
    pub project: ProjectId,
    /// Hash of the secret that it made.
    pub secret_hash: SecretHash,
    /// Kind of device.
    pub platform: Platform,
    /// What else it says of itself.
    pub attributes: Attributes,
    /// When.
    pub at: UnixMillis,
}

/// A registration as serving needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registration {
    /// The device.
    pub ordinal: Ordinal,
    /// Whose device it is.
    pub project: ProjectId,
    /// Hash of its secret.
    pub secret_hash: SecretHash,
    /// Kind of device.
    pub platform: Platform,
    /// When it was last seen, as far as that was written.
    pub seen: Day,
}

/// A broadcast as read back.
#[derive(Debug)]
pub struct StoredBroadcast {
    /// The message.
    pub message: Message,
    /// Length of its record, in bytes.
    pub bytes: u64,
    /// Whom it was for.
    pub targeted: RoaringBitmap,
    /// Who has it or will never get it, as last written.
    pub settled: RoaringBitmap,
    /// Whether the log has let go of it: whoever is still owed it gets a gap.
    pub is_trimmed: bool,
    /// What became of it, as last written.
    pub history: Option<BroadcastHistory>,
}

/// Everything that serving keeps in memory.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Which life of the store this is.
    pub epoch: u32,
    /// End of what was ever reserved of the sequence.
    pub reserved_end: u64,
    /// Last wall time that was written.
    pub last_time: UnixMillis,
    /// Until when no registration ends for the absence of its device.
    pub patient_until: UnixMillis,
    /// All projects that ever were.
    pub projects: Vec<(ProjectId, String)>,
    /// All live registrations.
    pub registrations: Vec<Registration>,
    /// All topics.
    pub topics: Vec<(TopicId, ProjectId, TopicName)>,
    /// All subscriptions.
    pub subscriptions: Vec<(Ordinal, TopicId)>,
    /// All broadcasts that somebody may still be owed, in order.
    pub broadcasts: Vec<StoredBroadcast>,
    /// Devices with something in their queue.
    pub queued: RoaringBitmap,
    /// Messages in all queues.
    pub queued_messages: u64,
    /// Up to which broadcast of a topic a device was told of gaps, where settled sets may not say so yet.
    pub told: Vec<(Ordinal, ProjectId, TopicName, MessageId)>,
    /// Values that could not be read and were left out.
    pub unreadable: u64,
}

/// What became of a message for a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Enqueued {
    /// Staged; these older or lesser ones went for it, the new one itself may be among them.
    Queued {
        /// Which, and why.
        dropped: Vec<(MessageId, DropReason)>,
    },
    /// The queue is full and refuses.
    Refused,
}

/// What became of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subscribed {
    /// Staged, or it was there already.
    Done(TopicId),
    /// The registration has as many topics as it may have.
    TooMany,
}

/// What went with a registration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unregistered {
    /// Topics that it was subscribed to.
    pub topics: Vec<TopicId>,
    /// Messages that were in its queue.
    pub queued: u64,
}

/// What expired in a queue that nobody had to ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Whose queue.
    pub device: Ordinal,
    /// What went, and why: what could not be read goes with what expired.
    pub dropped: Vec<(MessageId, DropReason)>,
    /// Whether nothing is left in it.
    pub is_empty: bool,
}

/// Messages that a device will never get.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GapRecord {
    /// The topic that they were sent to; empty for messages of the device alone.
    pub topic: String,
    /// How many, by reason.
    pub counts: std::collections::BTreeMap<String, u64>,
}

/// Broadcasts of one topic that a device was owed when their log let go of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicGap {
    /// Whose device it is.
    pub project: ProjectId,
    /// The topic.
    pub topic: TopicName,
    /// The newest of them.
    pub newest: MessageId,
    /// How many there are.
    pub count: u64,
}

/// One thing in a device's queue.
#[derive(Clone, Debug)]
pub enum Queued {
    /// A message.
    Message(Arc<Message>),
    /// Told once, acked like a message.
    Gap(MessageId, GapRecord),
}

impl Queued {
    /// What an ack names it by.
    #[must_use]
    pub fn id(&self) -> MessageId {
        match self {
            Self::Message(message) => message.id,
            Self::Gap(id, _) => *id,
        }
    }
}

/// What a scan of a queue found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// In order, at most as many as asked for.
    pub found: Vec<Queued>,
    /// Whether nothing more waits that the device wants.
    pub is_complete: bool,
    /// What was dropped on the way.
    pub dropped: Vec<(MessageId, DropReason)>,
}

/// What an attached device wants to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanTerms {
    /// Kind of device: chooses the platform block.
    pub platform: Platform,
    /// Messages below are held back.
    pub minimum_urgency: Urgency,
    /// Most things to find.
    pub limit: usize,
    /// Now.
    pub now: UnixMillis,
}

/// Sizes, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreStats {
    /// Messages in all queues, staged changes included.
    pub queued_messages: u64,
    /// Bytes that they take.
    pub queued_bytes: u64,
    /// Bytes of keys and values written since the start.
    pub bytes_written: u64,
    /// Messages that were put into queues and logs since the start.
    pub bodies_written: u64,
    /// Bytes that they took.
    pub body_bytes_written: u64,
    /// Bytes of memory that the store holds beside the engine's cache.
    pub memory_bytes: u64,
    /// Bytes of keys and values that the history takes.
    pub history_bytes: u64,
    /// Bytes of keys and values of the history that were staged since the start.
    pub history_bytes_written: u64,
}

/// Room on the disk of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskUse {
    /// Bytes that the store's files occupy.
    pub occupied: u64,
    /// Bytes that are free; `None` for an engine without files, or where nobody can tell.
    pub free: Option<u64>,
}

/// The bit that tells the id of a gap from the id of the message that made it. Gaps sort behind all messages.
pub const GAP_BIT: u64 = 1 << 63;

/// What the broker keeps. Reads see what is staged; nothing staged survives a crash before [`Store::commit`] returns.
///
/// # Errors
/// Every operation fails with [`StoreError`] when the engine fails. What was staged before stays staged: a later commit
/// tries again.
pub trait Store: HistoryStore {
    /// Reads everything that serving keeps in memory. Called once, first.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// The number of a project, a new one where the name is new.
    fn project(&mut self, name: &str) -> Result<ProjectId, StoreError>;

    /// Makes a registration, or finds the one that was made with the same project and secret.
    fn register(&mut self, new: &NewRegistration) -> Result<Registration, StoreError>;

    /// Replaces the secret of a registration.
    fn rotate(&mut self, device: Ordinal, secret_hash: SecretHash) -> Result<(), StoreError>;

    /// Replaces what is known of a device.
    fn set_attributes(&mut self, device: Ordinal, new: &Attributes) -> Result<(), StoreError>;

    /// Remembers when a device was last seen.
    fn save_seen(&mut self, device: Ordinal, day: Day) -> Result<(), StoreError>;

    /// Ends a registration with everything that belongs to it. Sets of broadcasts forget the device at the next load,
    /// [`HistoryStore::trim_history`] erases its history.
    fn unregister(&mut self, device: Ordinal) -> Result<Unregistered, StoreError>;

    /// Adds a subscription. A repeat changes nothing.
    fn subscribe(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        topic: &TopicName,
        topics_max: usize,
    ) -> Result<Subscribed, StoreError>;

    /// Ends a subscription; the topic, if there was one to end.
    fn unsubscribe(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        topic: &TopicName,
    ) -> Result<Option<TopicId>, StoreError>;

    /// Puts a message into a device's queue, within its limits.
    fn enqueue(
        &mut self,
        device: Ordinal,
        message: &Message,
        platform: Platform,
        limits: Limits,
        now: UnixMillis,
    ) -> Result<Enqueued, StoreError>;

    /// Drops queued messages with a collapse key that are older than `before`; which.
    fn collapse(
        &mut self,
        device: Ordinal,
        key: &CollapseKey,
        before: MessageId,
    ) -> Result<Vec<MessageId>, StoreError>;

    /// Takes a message or gap out of a device's queue; whether it was there.
    fn settle(&mut self, device: Ordinal, id: MessageId) -> Result<bool, StoreError>;

    /// Whether a device has anything queued, a message or a gap. Reads nothing.
    fn has_queue(&self, device: Ordinal) -> bool;

    /// Bytes queued for the devices of each project that has any. Reads nothing.
    fn queued_bytes(&self) -> Vec<(ProjectId, u64)>;

    /// Drops what expired, queue by queue, without looking at those that have nothing to expire, until so many messages
    /// are dropped or nothing more is due. What expired less than 18 minutes ago may stay: a scan never hands it out.
    fn expire(&mut self, now: UnixMillis, messages_max: usize) -> Result<Vec<Expired>, StoreError>;

    /// The first things in a device's queue that it wants. Drops what expired on the way.
    fn scan(&mut self, device: Ordinal, terms: ScanTerms) -> Result<Scan, StoreError>;

    /// Puts a gap in a topic into a device's queue, and remembers that it stands for everything up to its newest message.
    fn put_topic_gap(&mut self, device: Ordinal, gap: &TopicGap) -> Result<(), StoreError>;

    /// Forgets what topic gaps stand for. To be called once the settled sets of all broadcasts were saved since.
    fn forget_told(&mut self) -> Result<(), StoreError>;

    /// Writes a broadcast with its target set; the length of its record, in bytes.
    fn append(&mut self, message: &Message, targeted: &RoaringBitmap) -> Result<u64, StoreError>;

    /// Replaces the settled set of a broadcast.
    fn save_settled(&mut self, id: MessageId, settled: &RoaringBitmap) -> Result<(), StoreError>;

    /// Lets go of what a broadcast says but keeps who was owed it.
    fn trim(&mut self, id: MessageId) -> Result<(), StoreError>;

    /// Lets go of a broadcast wholly.
    fn remove_broadcast(&mut self, id: MessageId) -> Result<(), StoreError>;

    /// Reserves the sequence up to here.
    fn reserve(&mut self, end: u64) -> Result<(), StoreError>;

    /// Remembers the wall time, so that no later start is earlier.
    fn save_time(&mut self, now: UnixMillis) -> Result<(), StoreError>;

    /// Remembers until when no registration ends for the absence of its device.
    fn save_patience(&mut self, until: UnixMillis) -> Result<(), StoreError>;

    /// Makes everything staged durable, atomically.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Room on the disk. Looks at files: for now and then.
    fn disk_use(&self) -> DiskUse;

    /// Sizes. Cheap.
    fn stats(&self) -> StoreStats;

    /// Begins to copy what is committed; commits are noted in the copy until it is taken.
    fn begin_backup(&mut self, backup: Backup);

    /// Copies the next pairs, at most so many. Without a backup there is nothing to copy.
    fn step_backup(&mut self, keys_max: usize) -> Result<Stepped, StoreError>;

    /// Gives the copy back, as of the last commit.
    fn take_backup(&mut self) -> Option<Backup>;
}

#[cfg(test)]
mod tests;
