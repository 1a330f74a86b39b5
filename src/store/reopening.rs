//! An engine that is opened anew after it failed, so that a disk that was full and has room again needs no restart.
//!
//! Why: after one failed write or sync sled 0.34 and fjall refuse everything for as long as they are open. What is
//! staged is kept by [`Staged`](super::staged) and written again; this makes the next try reach an engine that can
//! take it.
//!
//! A failed `fdatasync` must never be repeated and believed: the kernel drops the mark from pages that it could not
//! write, so that a second one succeeds with nothing written. That is why a failed `sync` counts like a failed `write`:
//! `sync` keeps failing until everything is written again to an engine that was opened anew.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::StoreError;
use super::ordered::{Change, Durability, OrderedMap, Pair, free_bytes};

/// Opens the engine.
type Open<M> = Box<dyn Fn() -> Result<M, StoreError> + Send>;

/// How long between two tries: each writes [`PROBE_BYTES`] and reads what the engine reads at its start.
const PAUSE: Duration = Duration::from_millis(500);

/// What must find room before the failed engine is closed: it may still be readable, and opening one writes some MiB.
const PROBE_BYTES: usize = 8 << 20;

/// An engine that heals by being opened anew.
pub struct Reopening<M> {
    open: Open<M>,
    /// `None` after it was closed and could not be opened again.
    map: Option<M>,
    path: PathBuf,
    /// What it said when it failed, and when to try again.
    failed: Option<(String, Instant)>,
    pause: Duration,
    probe_bytes: usize,
}

impl<M: OrderedMap> Reopening<M> {
    /// Opens the engine whose files lie at `path`. `open` is called again after each failure.
    ///
    /// # Errors
    /// As `open`.
    pub fn new(
        path: PathBuf,
        open: impl Fn() -> Result<M, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let map = open()?;
        Ok(Self {
            open: Box::new(open),
            map: Some(map),
            path,
            failed: None,
            pause: PAUSE,
            probe_bytes: PROBE_BYTES,
        })
    }

    /// Without a probe and a pause, for tests with engines in memory.
    #[cfg(test)]
    pub(super) fn at_once(mut self) -> Self {
        self.pause = Duration::ZERO;
        self.probe_bytes = 0;
        self
    }

    fn opened(&self) -> Result<&M, StoreError> {
        self.map.as_ref().ok_or_else(|| self.refusal())
    }

    fn refusal(&self) -> StoreError {
        let problem = self.failed.as_ref().map_or("closed", |f| f.0.as_str());
        StoreError::Engine {
            path: self.path.clone(),
            source: format!("it failed before ({problem}) and is opened anew when it can be")
                .into(),
        }
    }

    /// Opens the engine anew if it failed and the time has come.
    fn heal(&mut self) -> Result<&mut M, StoreError> {
        if let Some((_, again_at)) = self.failed {
            if Instant::now() < again_at {
                return Err(self.refusal());
            }
            self.postpone();
            self.probe().map_err(|error| StoreError::Engine {
                path: self.path.clone(),
                source: error.into(),
            })?;
            // Closed first: it holds the lock of its files.
            self.map = None;
            self.map = Some((self.open)()?);
            self.failed = None;
            tracing::info!("the store was opened anew after a failure");
        }
        match &mut self.map {
            Some(map) => Ok(map),
            None => Err(StoreError::Engine {
                path: self.path.clone(),
                source: "it is closed".into(),
            }),
        }
    }

    fn postpone(&mut self) {
        if let Some((_, again_at)) = &mut self.failed {
            *again_at = Instant::now() + self.pause;
        }
    }

    /// Whether the disk takes something, in a file beside the engine's.
    fn probe(&self) -> io::Result<()> {
        if self.probe_bytes == 0 {
            return Ok(());
        }
        let path = self.path.with_extension("probe");
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            // Not zeros: some file systems would store nothing.
            file.write_all(&vec![0x5a; self.probe_bytes])?;
            file.sync_data()
        })();
        let _ = std::fs::remove_file(&path);
        written
    }

    fn note<T>(&mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &outcome {
            self.failed = Some((error.to_string(), Instant::now()));
            self.postpone();
        }
        outcome
    }
}

impl<M: OrderedMap> OrderedMap for Reopening<M> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.opened()?.get(key)
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        match self.opened() {
            Ok(map) => map.range(from, to),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        match self.opened() {
            Ok(map) => map.range_back(from, to),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let written = self.heal()?.write(changes);
        self.note(written)
    }

    fn sync(&mut self, level: Durability) -> Result<(), StoreError> {
        match &mut self.map {
            Some(map) if self.failed.is_none() => {
                let synced = map.sync(level);
                self.note(synced)
            }
            // What was written to it is gone or in doubt: only a new write makes it good.
            _ => Err(self.refusal()),
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.map.as_ref().map_or(0, OrderedMap::disk_bytes)
    }

    fn disk_free(&self) -> Option<u64> {
        // Also while it is closed: that is when it matters.
        free_bytes(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::super::faulty::Disk;
    use super::*;

    fn change(key: &str, value: &str) -> Change {
        (key.into(), Some(value.into()))
    }

    fn over(disk: &Disk) -> Reopening<super::super::faulty::FaultyMap> {
        let disk = disk.clone();
        Reopening::new(PathBuf::from("/nowhere/db"), move || disk.open())
            .unwrap()
            .at_once()
    }

    #[test]
    fn a_sync_that_failed_is_not_believed_when_it_is_repeated() {
        let disk = Disk::default();
        let mut map = over(&disk);
        map.write(&[change("a", "1")]).unwrap();
        disk.fail_syncs(1);
        assert!(map.sync(Durability::Durable).is_err());
        assert!(map.sync(Durability::Durable).is_err());
        map.write(&[change("a", "1")]).unwrap();
        map.sync(Durability::Durable).unwrap();
        assert_eq!(disk.durable(), [(b"a".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn reads_go_on_until_there_is_room_again() {
        let disk = Disk::default();
        let mut map = over(&disk);
        map.write(&[change("a", "1")]).unwrap();
        map.sync(Durability::Durable).unwrap();
        disk.fail_writes(1);
        assert!(map.write(&[change("b", "2")]).is_err());
        assert_eq!(map.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        disk.fail_opens(2);
        for _ in 0..2 {
            assert!(map.write(&[change("b", "2")]).is_err());
            assert!(map.get(b"a").is_err(), "it is closed");
            assert!(map.range(b"a", b"z").next().unwrap().is_err());
        }
        map.write(&[change("b", "2")]).unwrap();
        map.sync(Durability::Durable).unwrap();
        assert_eq!(disk.durable().len(), 2);
    }

    #[test]
    fn a_full_disk_is_asked_before_the_engine_is_closed() {
        let disk = Disk::default();
        let mut map = over(&disk);
        // The folder of the probe does not exist, as on a disk that takes nothing.
        map.probe_bytes = 1;
        disk.fail_writes(1);
        assert!(map.write(&[change("a", "1")]).is_err());
        assert!(map.write(&[change("a", "1")]).is_err());
        assert!(map.map.is_some(), "still open for reading");
        assert_eq!(disk.times_opened(), 1);
    }

    /// A small file system of its own; `None` where this user may mount none.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new() -> Option<Self> {
            let directory = tempfile::tempdir().unwrap();
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"])
                .arg(directory.path())
                .stderr(Stdio::null())
                .status();
            mounted
                .is_ok_and(|status| status.success())
                .then_some(Self(directory))
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    /// Fills the disk, writes until the engine fails, makes room: nothing is lost and no restart is needed.
    fn heals<M: OrderedMap + 'static>(open: fn(&Path, u64) -> Result<M, StoreError>) {
        let Some(mounted) = Mounted::new() else {
            eprintln!("skipped: this user may not mount a small file system");
            return;
        };
        let path = mounted.0.path().join("db");
        let mut map = Reopening::new(path.clone(), move || open(&path, 1 << 20)).unwrap();
        map.pause = Duration::ZERO;
        let batch = |number: u32| -> Vec<Change> {
            let value = |at: u32| vec![u8::try_from(at % 251).unwrap(); 1000];
            (0..100)
                .map(|at| (format!("{number:06} {at:03}").into_bytes(), Some(value(at))))
                .collect()
        };
        let commit = |map: &mut Reopening<M>, number| {
            let changes = batch(number);
            map.write(&changes)
                .and_then(|()| map.sync(Durability::Durable))
        };
        commit(&mut map, 0).unwrap();
        let filler = mounted.0.path().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        // Engines reserve some room of their own.
        let failed_at = (1..1000)
            .find(|number| commit(&mut map, *number).is_err())
            .unwrap();
        for _ in 0..3 {
            assert!(commit(&mut map, failed_at).is_err());
        }
        std::fs::remove_file(&filler).unwrap();
        drop(file);
        for number in failed_at..failed_at + 3 {
            commit(&mut map, number).unwrap();
        }
        let expect: Vec<Change> = (0..failed_at + 3).flat_map(batch).collect();
        let found: Vec<Change> = map
            .range(b"0", b"1")
            .map(|pair| pair.map(|(k, v)| (k, Some(v))).unwrap())
            .collect();
        assert!(found == expect, "{} of {}", found.len(), expect.len());
    }

    #[test]
    fn a_disk_that_was_full_needs_no_restart() {
        heals(super::super::SledMap::open);
        #[cfg(feature = "fjall")]
        heals(super::super::FjallMap::open);
    }

    #[test]
    fn tries_are_spaced() {
        let disk = Disk::default();
        let mut map = over(&disk);
        map.pause = Duration::from_secs(3600);
        disk.fail_writes(1);
        for _ in 0..3 {
            assert!(map.write(&[change("a", "1")]).is_err());
        }
        assert_eq!(disk.times_opened(), 1);
    }
}
