//! The ordered map on sled 0.34.
//!
//! sled's own periodic flusher is off: it would be a second one. `Db::flush` on Linux hands dirty pages to the disk but
//! promises nothing for a loss of power, so that a durable `sync` follows it with `fdatasync` of sled's file through a
//! handle of its own.
//!
//! A page of more than 128 KiB (some 16 values of 8 KiB, or one target set of a million devices) goes into a file of
//! its own below `blobs/`, which neither `flush` nor `fdatasync` of the main file covers: [`Blobs`] syncs those.
//!
//! After an error of input or output sled refuses everything until it is opened anew: see
//! [`Reopening`](super::Reopening).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::StoreError;
use super::ordered::{Change, Durability, OrderedMap, Pair, free_bytes, occupied_bytes};

/// How long to wait for sled's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Garbage is collected once for so many changes. With 32, batches of 1,024 changes all over a tree were measured to
/// stay at one size, where without any they grew by 15 MB/s.
const GARBAGE_CHANGES: usize = 32;

/// A sled database with one tree: sled's batches are atomic within a tree only.
pub struct SledMap {
    db: sled::Db,
    file: File,
    blobs: Blobs,
    path: PathBuf,
}

impl SledMap {
    /// Opens or makes the database in a directory. `cache_bytes` bounds sled's page cache.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the files are not what sled wrote, [`StoreError::Engine`] for everything that may
    /// pass: no permission, no room, a lock that is held.
    ///
    /// # Panics
    /// sled panics over some damaged files; [`guarded`](super::guarded) makes an error of it.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let failed = |source| engine_error(path, source);
        if path.join("keyspaces").exists() {
            return Err(failed(io::Error::other(
                "these files are fjall's; set store.engine to \"fjall\", or export them with it and import here",
            )));
        }
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let db = open_unlocked(&config).map_err(|e| sled_error(path, e))?;
        let file = File::open(path.join("db")).map_err(failed)?;
        make_durable(path).map_err(failed)?;
        Ok(Self {
            db,
            file,
            blobs: Blobs::new(path),
            path: path.to_owned(),
        })
    }

    fn failed(&self, error: sled::Error) -> StoreError {
        sled_error(&self.path, error)
    }
}

/// sled frees the pages that it replaced through `crossbeam-epoch`, which collects a bounded amount each time that a
/// thread pins it, and a batch pins once: without this, memory grows for as long as batches touch many pages.
fn collect_garbage(changes: usize) {
    for _ in 0..=changes / GARBAGE_CHANGES {
        crossbeam_epoch::pin().flush();
    }
}

/// sled makes its files and renames its snapshots without syncing their folder.
fn make_durable(path: &Path) -> io::Result<()> {
    File::open(path.join("conf"))?.sync_all()?;
    File::open(path)?.sync_all()?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
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

fn engine_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Engine {
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Tells damage from what may pass. Only what the content of the files brings about is damage; a doubtful cause is
/// none, because a store that is taken for damaged can be given up by an operator.
fn sled_error(path: &Path, error: sled::Error) -> StoreError {
    let is_damage = match &error {
        sled::Error::Io(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => true,
            // A file below `blobs/` that a page points to; without the main file all of it may just not be mounted.
            io::ErrorKind::NotFound => path.join("db").exists(),
            _ => false,
        },
        sled::Error::Corruption { .. }
        | sled::Error::ReportableBug(_)
        | sled::Error::Unsupported(_)
        | sled::Error::CollectionNotFound(_) => true,
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

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        Box::new(self.db.range(from..to).rev().map(|pair| {
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
        let applied = self.db.apply_batch(batch).map_err(|e| self.failed(e));
        collect_garbage(changes.len());
        applied
    }

    fn sync(&mut self, level: Durability) -> Result<(), StoreError> {
        let is_durable = level == Durability::Durable;
        if is_durable {
            // Before the pages that point to them.
            self.blobs.sync().map_err(|e| engine_error(&self.path, e))?;
        }
        self.db.flush().map_err(|e| self.failed(e))?;
        if is_durable {
            self.file
                .sync_data()
                .map_err(|e| engine_error(&self.path, e))?;
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        occupied_bytes(&self.path)
    }

    fn disk_free(&self) -> Option<u64> {
        free_bytes(&self.path)
    }
}

/// sled's large pages, a file each. They are made while a batch is applied, written once, and removed when their page is
/// rewritten.
struct Blobs {
    folder: PathBuf,
    synced: HashSet<OsString>,
    /// The folder's time of change when everything in it was known to be synced.
    settled_at: Option<SystemTime>,
}

impl Blobs {
    /// A file system may give two changes the same time when they are as close as its clock ticks, so that a listing
    /// stands for a time only when that is over. Ticks are 1 to 10 ms; some file systems know whole seconds.
    const TICK: Duration = Duration::from_secs(2);

    fn new(path: &Path) -> Self {
        Self {
            folder: path.join("blobs"),
            synced: HashSet::new(),
            settled_at: None,
        }
    }

    /// Has the disk keep every file that is new. One `stat` where none is.
    fn sync(&mut self) -> io::Result<()> {
        let changed_at = std::fs::metadata(&self.folder)?.modified()?;
        if self.settled_at == Some(changed_at) {
            return Ok(());
        }
        let listed_at = SystemTime::now();
        let mut present = HashSet::new();
        let mut is_changed = false;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !self.synced.contains(&name) {
                match File::open(entry.path()).and_then(|file| file.sync_all()) {
                    // sled needs it no more.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    synced => synced?,
                }
                is_changed = true;
            }
            present.insert(name);
        }
        if is_changed {
            File::open(&self.folder)?.sync_all()?;
        }
        self.synced = present;
        let age = listed_at.duration_since(changed_at).unwrap_or_default();
        self.settled_at = (age > Self::TICK).then_some(changed_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(map: &mut SledMap, key: &[u8], bytes: usize) {
        map.write(&[(key.to_vec(), Some(vec![7; bytes]))]).unwrap();
        map.sync(Durability::Durable).unwrap();
    }

    /// What `fdatasync` of the main file would not cover.
    #[test]
    fn large_values_are_files_of_their_own_and_are_synced_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut map = SledMap::open(directory.path(), 1 << 20).unwrap();
        put(&mut map, b"small", 1000);
        assert_eq!(map.blobs.synced.len(), 0);
        let before = map.disk_bytes();
        put(&mut map, b"large", 300_000);
        assert!(!map.blobs.synced.is_empty());
        assert!(map.disk_bytes() >= before + 300_000);
        drop(map);
        let map = SledMap::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(map.get(b"large").unwrap().unwrap().len(), 300_000);
    }

    #[test]
    fn the_files_of_another_engine_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("keyspaces")).unwrap();
        let error = SledMap::open(directory.path(), 1 << 20).err().unwrap();
        assert!(error.to_string().contains("fjall"), "{error}");
        assert!(matches!(error, StoreError::Engine { .. }));
        assert!(!directory.path().join("db").exists());
    }

    #[test]
    fn only_what_the_files_say_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let is_damage = |error| {
            let error = sled_error(directory.path(), error);
            matches!(error, StoreError::Damaged { .. })
        };
        let io = |kind: io::ErrorKind| sled::Error::Io(kind.into());
        for kind in [
            io::ErrorKind::PermissionDenied,
            io::ErrorKind::StorageFull,
            io::ErrorKind::ReadOnlyFilesystem,
            io::ErrorKind::OutOfMemory,
            io::ErrorKind::NotFound,
            io::ErrorKind::Other,
        ] {
            assert!(!is_damage(io(kind)), "{kind:?}");
        }
        assert!(is_damage(io(io::ErrorKind::UnexpectedEof)));
        assert!(is_damage(sled::Error::ReportableBug("x".into())));
        File::create(directory.path().join("db")).unwrap();
        assert!(is_damage(io(io::ErrorKind::NotFound)));
    }
}
