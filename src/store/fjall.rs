//! The ordered map on fjall 3, a log-structured merge tree: cargo feature `fjall`.
//!
//! Its journal is written by [`OrderedMap::sync`] only, so that a commit is one write and, where asked for, one
//! `fdatasync`. After an error of input or output it refuses everything until it is opened anew, as sled does: see
//! [`Reopening`](super::Reopening).

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::StoreError;
use super::ordered::{Change, Durability, OrderedMap, Pair, free_bytes, occupied_bytes};

/// The one keyspace: a batch would span several, but one order of keys is what [`OrderedMap`] is.
const KEYSPACE: &str = "petrel";

/// How long to wait for fjall's lock: threads of a database that was just dropped may hold it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A fjall database with one keyspace.
pub struct FjallMap {
    // Before the database: it holds a handle of it.
    keyspace: Keyspace,
    db: Database,
    path: PathBuf,
}

impl FjallMap {
    /// Opens or makes the database in a directory. `cache_bytes` bounds its cache of blocks; what is written and not
    /// yet in tables takes up to 64 MiB beside it.
    ///
    /// # Errors
    /// As [`SledMap::open`](super::SledMap::open).
    ///
    /// # Panics
    /// As [`SledMap::open`](super::SledMap::open).
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        if path.join("conf").exists() {
            return Err(StoreError::Engine {
                path: path.to_owned(),
                source: "these files are sled's; set store.engine to \"sled\", or export them with it and import here"
                    .into(),
            });
        }
        let open = || -> fjall::Result<Self> {
            let db = Database::builder(path)
                .cache_size(cache_bytes)
                .manual_journal_persist(true)
                .open()?;
            let keyspace = db.keyspace(KEYSPACE, KeyspaceCreateOptions::default)?;
            Ok(Self {
                keyspace,
                db,
                path: path.to_owned(),
            })
        };
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match open() {
                Err(fjall::Error::Locked) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                opened => return opened.map_err(|e| fjall_error(path, e)),
            }
        }
    }

    fn failed(&self, error: fjall::Error) -> StoreError {
        fjall_error(&self.path, error)
    }
}

/// Tells damage from what may pass, as sled's counterpart does.
fn fjall_error(path: &Path, error: fjall::Error) -> StoreError {
    let is_damage = match io_kind(&error) {
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => true,
        // A table that the list of tables names.
        Some(io::ErrorKind::NotFound) => path.join("version").exists(),
        Some(_) => false,
        None => !matches!(
            error,
            fjall::Error::Poisoned | fjall::Error::Locked | fjall::Error::KeyspaceDeleted
        ),
    };
    if is_damage {
        StoreError::Damaged {
            path: path.to_owned(),
            problem: error.to_string(),
        }
    } else {
        StoreError::Engine {
            path: path.to_owned(),
            source: error.into(),
        }
    }
}

/// The kind of the input or output error at the bottom, if there is one.
fn io_kind(error: &fjall::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = inner.source();
    }
    None
}

impl OrderedMap for FjallMap {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.keyspace.get(key).map_err(|e| self.failed(e))?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        Box::new(self.keyspace.range(from..to).map(|pair| {
            pair.into_inner()
                .map(|(k, v)| (k.to_vec(), v.to_vec()))
                .map_err(|e| self.failed(e))
        }))
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        Box::new(self.keyspace.range(from..to).rev().map(|pair| {
            pair.into_inner()
                .map(|(k, v)| (k.to_vec(), v.to_vec()))
                .map_err(|e| self.failed(e))
        }))
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = self.db.batch();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, key.as_slice(), value.as_slice()),
                None => batch.remove(&self.keyspace, key.as_slice()),
            }
        }
        batch.commit().map_err(|e| self.failed(e))
    }

    fn sync(&mut self, level: Durability) -> Result<(), StoreError> {
        let mode = match level {
            Durability::Durable => PersistMode::SyncData,
            Durability::Process | Durability::Fast => PersistMode::Buffer,
        };
        self.db.persist(mode).map_err(|e| self.failed(e))
    }

    fn disk_bytes(&self) -> u64 {
        occupied_bytes(&self.path)
    }

    fn disk_free(&self) -> Option<u64> {
        free_bytes(&self.path)
    }
}
