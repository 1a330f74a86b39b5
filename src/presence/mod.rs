//! Where each device is attached, and the mailbox of its shard.
//!
//! What it is: an array by ordinal of one atomic word (shard, slot, generation), 8 bytes a device and no lock, and the
//! bounded mailboxes through which other threads reach a shard.
//!
//! What it never does: know what a mailbox carries, or look into a session.

mod mailbox;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use petrel_protocol::Ordinal;
use petrel_quic::ConnId;

pub use self::mailbox::{Mailbox, MailboxFull, MailboxStats};

/// Numbers a shard, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u8);

/// Where a device is attached: a shard and a connection of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which shard.
    pub shard: ShardId,
    /// Which of its connections.
    pub conn: ConnId,
}

const SLOT_BITS: u32 = 24;
const PAGE: usize = 1 << 16;
const PAGES: usize = 1 << 16;

impl Place {
    /// 8 bits of shard, 24 of slot, 32 of generation, which starts at 1: the word 0 means "not attached".
    fn word(self) -> u64 {
        let slot = u64::from(self.conn.slot) & ((1 << SLOT_BITS) - 1);
        u64::from(self.shard.0) << 56 | slot << 32 | u64::from(self.conn.generation)
    }

    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            shard: ShardId((word >> 56) as u8),
            conn: ConnId {
                slot: (word >> 32) as u32 & ((1 << SLOT_BITS) - 1),
                generation: word as u32,
            },
        })
    }
}

type Page = Box<[AtomicU64]>;

/// Who is attached where. Pages of 65,536 devices come into being when the first of them attaches.
pub struct Presence {
    pages: Box<[OnceLock<Page>]>,
    online: AtomicU64,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            pages: (0..PAGES).map(|_| OnceLock::new()).collect(),
            online: AtomicU64::new(0),
        }
    }
}

impl Presence {
    fn entry(&self, device: Ordinal) -> Option<&AtomicU64> {
        self.pages[device.0 as usize / PAGE]
            .get()
            .map(|page| &page[device.0 as usize % PAGE])
    }

    /// Where a device is attached.
    #[must_use]
    pub fn find(&self, device: Ordinal) -> Option<Place> {
        // Sequentially consistent, as is `attach`: either a publish sees the session, or the session's scan sees the
        // message that the publish made pending before it looked here.
        self.entry(device)
            .and_then(|entry| Place::from_word(entry.load(Ordering::SeqCst)))
    }

    /// Attaches a device; where it was attached before.
    pub fn attach(&self, device: Ordinal, place: Place) -> Option<Place> {
        let page = self.pages[device.0 as usize / PAGE]
            .get_or_init(|| (0..PAGE).map(|_| AtomicU64::new(0)).collect());
        let old = page[device.0 as usize % PAGE].swap(place.word(), Ordering::SeqCst);
        if old == 0 {
            self.online.fetch_add(1, Ordering::Relaxed);
        }
        Place::from_word(old)
    }

    /// Detaches a device if it is still attached there, so that an old session cannot evict its successor; whether it
    /// was.
    pub fn detach(&self, device: Ordinal, place: Place) -> bool {
        let is_detached = self.entry(device).is_some_and(|entry| {
            entry
                .compare_exchange(place.word(), 0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        });
        if is_detached {
            self.online.fetch_sub(1, Ordering::Relaxed);
        }
        is_detached
    }

    /// How many devices are attached.
    #[must_use]
    pub fn online(&self) -> u64 {
        self.online.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: u32, generation: u32) -> Place {
        Place {
            shard: ShardId(3),
            conn: ConnId { slot, generation },
        }
    }

    #[test]
    fn the_word_keeps_everything() {
        for place in [place(0, 1), place((1 << SLOT_BITS) - 1, u32::MAX)] {
            assert_eq!(Place::from_word(place.word()), Some(place));
        }
    }

    #[test]
    fn an_old_session_cannot_evict_its_successor() {
        let presence = Presence::default();
        let device = Ordinal(70_000);
        assert_eq!(presence.find(device), None);
        assert_eq!(presence.attach(device, place(1, 1)), None);
        assert_eq!(presence.attach(device, place(2, 9)), Some(place(1, 1)));
        assert!(!presence.detach(device, place(1, 1)));
        assert_eq!(presence.find(device), Some(place(2, 9)));
        assert_eq!(presence.online(), 1);
        assert!(presence.detach(device, place(2, 9)));
        assert_eq!((presence.find(device), presence.online()), (None, 0));
        assert!(presence.attach(Ordinal(u32::MAX), place(1, 1)).is_none());
    }
}
