//! What was received and is not done: the storage, and beside it the ids needed to know repeats.
//!
//! Shared by the client's task, which adds, and by every `Delivery` in the app's hands, which says `done`. A `done`
//! writes the storage itself when nobody else does; otherwise whoever does will write it, too. So it survives the end
//! of the process at once and the app never waits for a disk sync.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use petrel_protocol::MessageId;
use tokio::sync::Notify;

use crate::storage::{InboxRecord, RECENT_IDS, Storage, StorageError};

/// Lock order: `storage` before `ledger`. The ledger is held for map operations only, never over I/O.
pub(crate) struct Inbox {
    /// `None` once the client is closed.
    storage: Mutex<Option<Box<dyn Storage>>>,
    ledger: Mutex<Ledger>,
    /// Told when a message is done: there is room again.
    settled: Notify,
    blocks: bool,
}

#[derive(Default)]
struct Ledger {
    /// Kept and not done.
    in_hand: HashSet<MessageId>,
    /// The last ids received, oldest first, and the same as a set.
    recent: VecDeque<MessageId>,
    recent_set: HashSet<MessageId>,
    /// Done, and not yet written.
    done: Vec<MessageId>,
}

impl Ledger {
    fn remember(&mut self, id: MessageId) {
        if self.recent_set.insert(id) {
            self.recent.push_back(id);
        }
        if self.recent.len() > RECENT_IDS {
            let oldest = self.recent.pop_front();
            oldest.map(|id| self.recent_set.remove(&id));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of the app inside a storage of its own must not end the client.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    pub(crate) fn new(
        storage: Box<dyn Storage>,
        in_hand: impl IntoIterator<Item = MessageId>,
        recent: impl IntoIterator<Item = MessageId>,
    ) -> Self {
        let mut ledger = Ledger {
            in_hand: in_hand.into_iter().collect(),
            ..Ledger::default()
        };
        recent.into_iter().for_each(|id| ledger.remember(id));
        Self {
            blocks: storage.blocks(),
            storage: Mutex::new(Some(storage)),
            ledger: Mutex::new(ledger),
            settled: Notify::new(),
        }
    }

    /// Whether storage calls belong on a thread that may block.
    pub(crate) fn blocks(&self) -> bool {
        self.blocks
    }

    /// Whether this id was received before.
    pub(crate) fn knows(&self, id: MessageId) -> bool {
        let ledger = lock(&self.ledger);
        ledger.recent_set.contains(&id) || ledger.in_hand.contains(&id)
    }

    /// How many messages are kept and not done.
    pub(crate) fn in_hand(&self) -> usize {
        lock(&self.ledger).in_hand.len()
    }

    /// Resolves after a message was done.
    pub(crate) async fn settled(&self) {
        self.settled.notified().await;
    }

    /// Wakes whoever waits for [`Inbox::settled`].
    pub(crate) fn wake(&self) {
        self.settled.notify_one();
    }

    /// Keeps records. Only then may they be acked.
    pub(crate) fn append(&self, records: &[InboxRecord]) -> Result<(), StorageError> {
        self.with_storage(|storage| storage.append(records))?;
        let mut ledger = lock(&self.ledger);
        for record in records {
            ledger.in_hand.insert(record.id);
            ledger.remember(record.id);
        }
        Ok(())
    }

    pub(crate) fn save_registration(&self, registration: &str) -> Result<(), StorageError> {
        self.with_storage(|storage| storage.save_registration(registration))
    }

    pub(crate) fn forget(&self) -> Result<(), StorageError> {
        self.with_storage(|storage| storage.forget())
    }

    /// The app is finished with a message. Repeats do nothing.
    pub(crate) fn done(&self, id: MessageId) {
        {
            let mut ledger = lock(&self.ledger);
            if !ledger.in_hand.remove(&id) {
                return;
            }
            ledger.done.push(id);
        }
        self.write_done();
        self.settled.notify_one();
    }

    /// Gives the storage back: what is not done by now comes again at the next start.
    pub(crate) fn release(&self) {
        let mut storage = lock(&self.storage);
        let ids = std::mem::take(&mut lock(&self.ledger).done);
        if let Some(storage) = storage.as_deref_mut().filter(|_| !ids.is_empty())
            && let Err(error) = storage.done(&ids)
        {
            tracing::debug!(%error, "done was not written before the storage was released");
        }
        *storage = None;
    }

    fn with_storage<T>(
        &self,
        call: impl FnOnce(&mut dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let result = match lock(&self.storage).as_deref_mut() {
            Some(storage) => call(storage),
            None => Err(StorageError::Other("the client is closed".into())),
        };
        // Whoever found the storage busy meanwhile left its ids in the ledger and relies on this.
        self.write_done();
        result
    }

    fn write_done(&self) {
        loop {
            {
                let mut storage = match self.storage.try_lock() {
                    Ok(storage) => storage,
                    Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                    Err(TryLockError::WouldBlock) => return,
                };
                let Some(storage) = storage.as_deref_mut() else {
                    return;
                };
                let ids = std::mem::take(&mut lock(&self.ledger).done);
                if !ids.is_empty()
                    && let Err(error) = storage.done(&ids)
                {
                    tracing::debug!(%error, "done was not written; the next write tries again");
                    lock(&self.ledger).done.extend(ids);
                    return;
                }
            }
            // Looked at after unlocking: whoever found the storage locked until then left its ids here.
            if lock(&self.ledger).done.is_empty() {
                return;
            }
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 1, sequence }
    }

    fn record(sequence: u64) -> InboxRecord {
        InboxRecord {
            id: id(sequence),
            body: "{}".into(),
        }
    }

    #[test]
    fn the_last_1024_ids_are_known_and_so_is_everything_not_done() {
        let inbox = Inbox::new(Box::new(MemoryStorage::default()), [], []);
        inbox.append(&[record(1), record(2)]).unwrap();
        inbox.done(id(1));
        for sequence in 3..=RECENT_IDS as u64 + 2 {
            inbox.append(&[record(sequence)]).unwrap();
            inbox.done(id(sequence));
        }
        // 1 and 2 were pushed out of the ring, but 2 is still in hand; 3 is the oldest in the ring.
        assert!(!inbox.knows(id(1)));
        assert!(inbox.knows(id(2)) && inbox.knows(id(3)));
        assert_eq!(inbox.in_hand(), 1);
    }

    struct Failing(MemoryStorage);

    impl Storage for Failing {
        fn load(&mut self) -> Result<crate::storage::StoredState, StorageError> {
            self.0.load()
        }
        fn save_registration(&mut self, _: &str) -> Result<(), StorageError> {
            Ok(())
        }
        fn append(&mut self, _: &[InboxRecord]) -> Result<(), StorageError> {
            Err(StorageError::Other("full".into()))
        }
        fn done(&mut self, _: &[MessageId]) -> Result<(), StorageError> {
            Ok(())
        }
        fn forget(&mut self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    #[test]
    fn what_could_not_be_kept_is_not_known_afterwards() {
        let inbox = Inbox::new(Box::new(Failing(MemoryStorage::default())), [], []);
        assert!(inbox.append(&[record(1)]).is_err());
        assert!(!inbox.knows(id(1)));
        assert_eq!(inbox.in_hand(), 0);
    }

    /// Threads that say done while another keeps: every done reaches the storage.
    #[test]
    fn no_done_is_lost_to_a_busy_storage() {
        let path = tempfile::tempdir().unwrap();
        let file = path.path().join("state");
        let storage = crate::storage::FileStorage::open(&file).unwrap();
        let inbox = Inbox::new(Box::new(storage), [], []);
        for sequence in 0..200 {
            inbox.append(&[record(sequence)]).unwrap();
        }
        std::thread::scope(|scope| {
            for lane in 0..4 {
                let inbox = &inbox;
                scope.spawn(move || (0..50).for_each(|n| inbox.done(id(n * 4 + lane))));
            }
            (200..250).for_each(|sequence| inbox.append(&[record(sequence)]).unwrap());
        });
        inbox.release();
        let mut storage = crate::storage::FileStorage::open(&file).unwrap();
        let left: Vec<u64> = storage
            .load()
            .unwrap()
            .inbox
            .iter()
            .map(|r| r.id.sequence)
            .collect();
        assert_eq!(left, (200..250).collect::<Vec<_>>());
    }
}
