//! The ordered map on sled 0.34.
//!
//! sled's own periodic flusher is off: it would be a second one. `Db::flush` on Linux hands dirty pages to the disk but
//! promises nothing for a loss of power, so that `sync` follows it with `fdatasync` of sled's file through a handle of
//! its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StoreError;
use super::ordered::{Change, OrderedMap, Pair};

/// How long to wait for sled's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A sled database with one tree: sled's batches are atomic within a tree only.
pub struct SledMap {
    db: sled::Db,
    file: File,
    path: PathBuf,
}

impl SledMap {
    /// Opens or makes the database in a directory. `cache_bytes` bounds sled's page cache.
    ///
    /// # Errors
    /// [`StoreError::Engine`] if sled cannot open it.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Engine {
            path: path.to_owned(),
            source,
        };
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let db = open_unlocked(&config).map_err(|e| failed(e.into()))?;
        let file = File::open(path.join("db")).map_err(|e| failed(e.into()))?;
        Ok(Self {
            db,
            file,
            path: path.to_owned(),
        })
    }

    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Engine {
            path: self.path.clone(),
            source: source.into(),
        }
    }
}

/// Opens the database, waiting a little for its lock. The data directory's own lock keeps other brokers out; what may
/// still hold sled's is the end of the one before: its last thread, or a child that was being forked meanwhile.
fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            Err(error) if is_locked(&error) && Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// sled says so in words only.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"))
}

impl OrderedMap for SledMap {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.db.get(key).map_err(|e| self.failed(e))?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        Box::new(self.db.range(from..to).map(|pair| {
            pair.map(|(k, v)| (k.to_vec(), v.to_vec()))
                .map_err(|e| self.failed(e))
        }))
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        self.db.apply_batch(batch).map_err(|e| self.failed(e))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| self.failed(e))?;
        self.file.sync_data().map_err(|e| self.failed(e))
    }

    fn disk_bytes(&self) -> u64 {
        // Large leaves go into files of their own under `blobs`, which are not counted here.
        self.file.metadata().map_or(0, |m| m.len())
    }

    fn disk_free(&self) -> Option<u64> {
        let room = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(room.f_bavail.saturating_mul(room.f_frsize))
    }
}
