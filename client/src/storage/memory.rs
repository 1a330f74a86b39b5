//! State that ends with its process.

use std::collections::VecDeque;

use petrel_protocol::MessageId;

use super::{InboxRecord, RECENT_IDS, Storage, StorageError, StoredState};

/// Keeps state in memory: for tests, load and devices that live as long as their process.
///
/// Weaker than a file: an acknowledged message is lost when the process ends before the app handled it, and each
/// start makes a new registration with a new token.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    registration: Option<String>,
    inbox: Vec<InboxRecord>,
    recent: VecDeque<MessageId>,
}

impl Storage for MemoryStorage {
    fn load(&mut self) -> Result<StoredState, StorageError> {
        Ok(StoredState {
            registration: self.registration.clone(),
            inbox: self.inbox.clone(),
            recent: self.recent.iter().copied().collect(),
        })
    }

    fn save_registration(&mut self, registration: &str) -> Result<(), StorageError> {
        self.registration = Some(registration.to_owned());
        Ok(())
    }

    fn append(&mut self, records: &[InboxRecord]) -> Result<(), StorageError> {
        self.inbox.extend_from_slice(records);
        self.recent.extend(records.iter().map(|r| r.id));
        let surplus = self.recent.len().saturating_sub(RECENT_IDS);
        self.recent.drain(..surplus);
        Ok(())
    }

    fn done(&mut self, ids: &[MessageId]) -> Result<(), StorageError> {
        self.inbox.retain(|record| !ids.contains(&record.id));
        Ok(())
    }

    fn forget(&mut self) -> Result<(), StorageError> {
        *self = Self::default();
        Ok(())
    }

    fn blocks(&self) -> bool {
        false
    }
}
