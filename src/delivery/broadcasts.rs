//! Broadcasts that somebody may still be owed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use petrel_core::{Address, Message, Owed};
use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::history::Tally;

/// How far a broadcast has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Stage {
    /// Not durable yet: nobody may see it.
    Uncommitted = 0,
    /// In its log.
    Live = 1,
    /// Its log has let go of it: whoever is owed it gets a gap.
    Trimmed = 2,
    /// Now or never: in no log.
    Transient = 3,
}

/// One message to many devices, with the exact sets of who is owed it.
pub struct Broadcast {
    /// The message.
    pub message: Arc<Message>,
    bytes: u64,
    owed: Mutex<Owed>,
    stage: AtomicU8,
    /// The settled set changed since it was last written.
    is_dirty: AtomicBool,
    /// Of a transient one: how many were sent it, and on how many shards it still walks.
    sent: AtomicU64,
    walking: AtomicU64,
    pub(super) tally: Tally,
}

impl Broadcast {
    pub(super) fn new(message: Arc<Message>, bytes: u64, owed: Owed, stage: Stage) -> Self {
        Self {
            message,
            bytes,
            owed: Mutex::new(owed),
            stage: AtomicU8::new(stage as u8),
            is_dirty: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            walking: AtomicU64::new(0),
            tally: Tally::default(),
        }
    }

    pub(super) fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Length of its record, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            1 => Stage::Live,
            2 => Stage::Trimmed,
            3 => Stage::Transient,
            _ => Stage::Uncommitted,
        }
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    /// The topic, if it was sent to one.
    pub(super) fn topic(&self) -> Option<&TopicName> {
        match &self.message.address {
            Address::Topic(topic) => Some(topic),
            Address::Device(_) => None,
        }
    }

    /// Whether it goes now or never.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.stage() == Stage::Transient
    }

    /// Whether a device is owed it.
    #[must_use]
    pub fn is_owed_to(&self, device: Ordinal) -> bool {
        self.owed().contains(device)
    }

    /// Everybody who is owed it.
    #[must_use]
    pub fn owed_set(&self) -> RoaringBitmap {
        self.owed().set()
    }

    pub(super) fn settle(&self, device: Ordinal) -> bool {
        self.settle_at(device).0
    }

    /// Settles one device; whether it was owed, and in which stage, both at the same moment.
    pub(super) fn settle_at(&self, device: Ordinal) -> (bool, Stage) {
        let mut sets = self.owed();
        let was_owed = sets.settle(device);
        if was_owed {
            self.is_dirty.store(true, Ordering::Release);
        }
        (was_owed, self.stage())
    }

    pub(super) fn settle_all(&self, devices: &RoaringBitmap) -> u64 {
        let settled = self.owed().settle_all(devices);
        if settled > 0 {
            self.is_dirty.store(true, Ordering::Release);
        }
        settled
    }

    /// Something is to be written although no device was settled.
    pub(super) fn mark_dirty(&self) {
        self.is_dirty.store(true, Ordering::Release);
    }

    pub(super) fn take_dirty(&self) -> bool {
        self.is_dirty.swap(false, Ordering::AcqRel)
    }

    /// Claims a now-or-never broadcast for the one session of a device that is sent it; whether that was free. A device
    /// that changes its place during the walks is met more than once.
    #[must_use]
    pub fn take(&self, device: Ordinal) -> bool {
        self.owed().settle(device)
    }

    pub(super) fn begin_walks(&self, shards: u64) {
        self.walking.store(shards, Ordering::Release);
    }

    /// A shard has walked it; on how many in all it was sent, once the last one is done.
    pub(super) fn end_walk(&self, sent: u64) -> Option<u64> {
        self.sent.fetch_add(sent, Ordering::AcqRel);
        let was_last = self.walking.fetch_sub(1, Ordering::AcqRel) == 1;
        was_last.then(|| self.sent.load(Ordering::Acquire))
    }
}

/// Bounds of one topic's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLimits {
    /// Most messages.
    pub messages_max: usize,
    /// Most bytes of records.
    pub bytes_max: u64,
    /// How long a message stays.
    pub age_max: Duration,
}

#[derive(Default)]
struct Log {
    ids: VecDeque<(MessageId, u64)>,
    bytes: u64,
}

/// All broadcasts that are not settled for everybody.
#[derive(Default)]
pub(super) struct Broadcasts {
    by_id: RwLock<BTreeMap<MessageId, Arc<Broadcast>>>,
    logs: Mutex<HashMap<(ProjectId, TopicName), Log>>,
}

impl Broadcasts {
    pub(super) fn insert(&self, broadcast: Arc<Broadcast>) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.insert(broadcast.message.id, broadcast);
    }

    pub(super) fn remove(&self, id: MessageId) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.remove(&id);
    }

    pub(super) fn find(&self, id: MessageId) -> Option<Arc<Broadcast>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.get(&id).cloned()
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> Vec<Arc<Broadcast>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.values().cloned().collect()
    }

    /// Those that a device is owed, in order.
    pub(super) fn owed_to(&self, device: Ordinal) -> Vec<Arc<Broadcast>> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id
            .values()
            .filter(|b| matches!(b.stage(), Stage::Live | Stage::Trimmed) && b.is_owed_to(device))
            .cloned()
            .collect()
    }

    /// Adds a broadcast to its topic's log; which older ones the log lets go of for it.
    pub(super) fn log(&self, broadcast: &Broadcast, limits: LogLimits) -> Vec<MessageId> {
        let Some(topic) = broadcast.topic() else {
            return Vec::new();
        };
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (broadcast.message.project, topic.clone());
        let log = logs.entry(key).or_default();
        log.ids.push_back((broadcast.message.id, broadcast.bytes));
        log.bytes += broadcast.bytes;
        let mut trimmed = Vec::new();
        while log.ids.len() > limits.messages_max || log.bytes > limits.bytes_max {
            let Some((id, bytes)) = log.ids.pop_front() else {
                break;
            };
            log.bytes -= bytes;
            trimmed.push(id);
        }
        trimmed
    }

    /// Takes a broadcast out of its topic's log.
    pub(super) fn unlog(&self, broadcast: &Broadcast) {
        let Some(topic) = broadcast.topic() else {
            return;
        };
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (broadcast.message.project, topic.clone());
        if let Some(log) = logs.get_mut(&key) {
            let id = broadcast.message.id;
            if let Ok(at) = log.ids.binary_search_by_key(&id, |(id, _)| *id)
                && let Some((_, bytes)) = log.ids.remove(at)
            {
                log.bytes -= bytes;
            }
            if log.ids.is_empty() {
                logs.remove(&key);
            }
        }
    }

    /// Deliveries that are owed, and bytes of records and sets held.
    pub(super) fn totals(&self) -> (u64, u64) {
        let mut owed = 0;
        let mut bytes = 0;
        for broadcast in self.all() {
            let sets = broadcast.owed();
            let held = sets.targeted().serialized_size() + sets.settled().serialized_size();
            bytes += broadcast.bytes + held as u64;
            // A trimmed one is settled in the books: its gap is no delivery.
            if broadcast.stage() == Stage::Live {
                owed += sets.len();
            }
        }
        (owed, bytes)
    }
}
