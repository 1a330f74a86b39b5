//! Where a client keeps what must survive its app: the registration, and messages until they are done.
//!
//! The trait is small and speaks in text, so that an app can put it on whatever its platform offers. [`FileStorage`]
//! is the one to use; [`MemoryStorage`] is for tests and for devices that live as long as their process.

mod file;
mod index;
mod journal;
mod memory;

use std::io;
use std::path::PathBuf;

use petrel_protocol::MessageId;

pub use self::file::{Durability, FileStorage};
pub use self::memory::MemoryStorage;

/// How many ids of received messages are remembered, so that repeats are known after the message is done.
pub const RECENT_IDS: usize = 1024;

/// Something received and not done yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxRecord {
    /// Its id.
    pub id: MessageId,
    /// One JSON text without line breaks, to be given back as it was.
    pub body: String,
}

/// What a storage holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoredState {
    /// What [`Storage::save_registration`] was given last. Holds the device's secret.
    pub registration: Option<String>,
    /// What was appended and is not done, in the order of appending.
    pub inbox: Vec<InboxRecord>,
    /// Ids of the last [`RECENT_IDS`] records appended, done or not, oldest first.
    pub recent: Vec<MessageId>,
}

/// Keeps a client's state. One client uses it at a time.
///
/// Each call is atomic: after a crash it has happened or it has not. `append` and `save_registration` return once
/// what they were given survives what the storage promises to survive; `done` may be lost in a crash, whose worst
/// effect is a message handed over again and marked so.
///
/// The SDK calls on a thread that may block ([`Storage::blocks`]), but for `done`, which it also calls on threads of
/// the app: that one should be quick.
pub trait Storage: Send + 'static {
    /// Everything that is kept. Called once, at start.
    ///
    /// # Errors
    /// Whatever keeps the state from being read: the client then does not start.
    fn load(&mut self) -> Result<StoredState, StorageError>;

    /// Replaces the registration. The text holds the device's secret: keep it from other users of the machine.
    ///
    /// # Errors
    /// The former registration is still there; the SDK ends its session and tries again later.
    fn save_registration(&mut self, registration: &str) -> Result<(), StorageError>;

    /// Adds to the inbox. Only after this are messages acknowledged to the broker.
    ///
    /// # Errors
    /// None of the records may count as kept; the SDK acknowledges none and the broker sends them again.
    fn append(&mut self, records: &[InboxRecord]) -> Result<(), StorageError>;

    /// Removes from the inbox; ids that are not there are ignored. The ids stay among the recent ones.
    ///
    /// # Errors
    /// The records are still there; the SDK tries again at its next write.
    fn done(&mut self, ids: &[MessageId]) -> Result<(), StorageError>;

    /// Removes everything: the registration has ended.
    ///
    /// # Errors
    /// What was there may be there still.
    fn forget(&mut self) -> Result<(), StorageError>;

    /// Whether calls may take long enough to need a thread of their own: yes for whatever writes to a disk.
    fn blocks(&self) -> bool {
        true
    }
}

/// Why a storage could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another client uses the file.
    #[error(
        "{} is in use by another client: stop that one, or name another state file", path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what this SDK wrote.
    #[error(
        "{} is not a state file of this SDK (line {line}: {problem}). Name another file, or remove this one: the \
         device then registers anew and gets another token",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The first line that is wrong, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A storage of the app's own failed.
    #[error("{0}")]
    Other(String),
}

impl StorageError {
    /// Whether the same call may succeed later without a human.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::Other(_) => true,
            Self::Format { .. } => false,
            Self::Io { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ),
        }
    }
}
