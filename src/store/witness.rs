//! A witness beside the database that says how far it had come, so that a database that opens but has lost its end, or
//! all of it, is noticed.
//!
//! Why: sled takes the first unreadable place of its log for the torn end of it, drops what follows and opens without a
//! word; a flipped bit can so undo what was answered 200. The same looks like a backup put back over newer data, a
//! folder that was deleted, or a volume that is not mounted.
//!
//! How: every batch counts up a number inside the database; after each durable sync the number goes into the file
//! `db.mark`. It is written without a sync of its own and so may lag behind, but never runs ahead of the database, and
//! costs one `pwrite` per commit. Commits of level `process` and `fast` are not witnessed: a loss of power may take
//! them by rights.
//!
//! The file also holds an ordinal above all that were ever given out, reserved in blocks and synced before the first
//! of a block is used, and the epoch. A store that goes on after a loss starts with both beyond what was lost: tokens
//! live on in the hands of apps, and the token of a lost device must name no other device (it is then answered
//! UNREGISTERED, and the app's server forgets it); no message id is used twice.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::ordered::{Change, Durability, OrderedMap, Pair};
use super::{StoreError, layout};

/// Ordinals reserved with one sync of the witness: after a loss at most this many are skipped.
const ORDINALS_BLOCK: u32 = 1024;

/// What [`Mark::write`] writes: version, epoch, end of the ordinals, commits, checksum.
const MARK_BYTES: usize = 4 + 4 + 4 + 8 + 4;

const MARK_VERSION: u32 = 1;

/// Where the witness of a database lies.
#[must_use]
pub fn mark_path(db: &Path) -> PathBuf {
    db.with_extension("mark")
}

/// What the witness says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// The epoch of the store.
    pub epoch: u32,
    /// No device ever got this ordinal or a higher one.
    pub ordinals_end: u32,
    /// Batches that were durable, at least.
    pub commits: u64,
}

impl Mark {
    /// Reads the witness of a database; `None` where there is none, or none that can be read.
    ///
    /// # Errors
    /// It is there but the system does not give it.
    pub fn read(db: &Path) -> io::Result<Option<Self>> {
        let path = mark_path(db);
        match std::fs::read(&path) {
            Ok(content) => {
                let mark = Self::parse(&content);
                if mark.is_none() {
                    tracing::warn!(path = %path.display(), "the witness of the store is damaged; it is made anew");
                }
                Ok(mark)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let (body, sum) = content.split_last_chunk::<4>()?;
        let (version, body) = body.split_first_chunk::<4>()?;
        let (epoch, body) = body.split_first_chunk::<4>()?;
        let (ordinals_end, body) = body.split_first_chunk::<4>()?;
        let commits = body.try_into().ok()?;
        let is_sound = crc32fast::hash(&content[..MARK_BYTES - 4]).to_be_bytes() == *sum
            && u32::from_be_bytes(*version) == MARK_VERSION;
        is_sound.then(|| Self {
            epoch: u32::from_be_bytes(*epoch),
            ordinals_end: u32::from_be_bytes(*ordinals_end),
            commits: u64::from_be_bytes(commits),
        })
    }

    /// In one write within one sector, which a loss of power leaves old or new.
    fn write(&self, file: &File) -> io::Result<()> {
        let mut content = Vec::with_capacity(MARK_BYTES);
        content.extend_from_slice(&MARK_VERSION.to_be_bytes());
        content.extend_from_slice(&self.epoch.to_be_bytes());
        content.extend_from_slice(&self.ordinals_end.to_be_bytes());
        content.extend_from_slice(&self.commits.to_be_bytes());
        content.extend_from_slice(&crc32fast::hash(&content).to_be_bytes());
        file.write_all_at(&content, 0)
    }
}

/// What to do with a database that has lost what the witness saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnLoss {
    /// Refuse it with [`StoreError::Lost`].
    Refuse,
    /// Go on with what is left, if anything, in this epoch and beyond every ordinal that was given out.
    Accept {
        /// Choose one above that of the [`Mark`].
        epoch: u32,
    },
}

/// What a database has lost, by its witness; `None` for one that is whole.
///
/// # Errors
/// As [`Witnessed::new`], [`StoreError::Lost`] excepted.
pub fn loss(map: &dyn OrderedMap, db: &Path) -> Result<Option<StoreError>, StoreError> {
    let (known, found) = compare(map, db)?;
    Ok(loss_of(&known, &found, db))
}

/// What the witness knows, and what is found.
fn compare(map: &dyn OrderedMap, db: &Path) -> Result<(Mark, Mark), StoreError> {
    let number = |name| -> Result<Option<u64>, StoreError> {
        let value = map.get(&layout::meta(name))?;
        Ok(value.as_deref().and_then(sealed))
    };
    let small = |number: Option<u64>| u32::try_from(number.unwrap_or(0)).unwrap_or(u32::MAX);
    let schema = small(number("schema")?);
    if schema > layout::SCHEMA {
        return Err(StoreError::NewerSchema {
            found: schema,
            known: layout::SCHEMA,
        });
    }
    let found = Mark {
        epoch: small(number("epoch")?),
        ordinals_end: small(number("next_ordinal")?),
        commits: number("commits")?.unwrap_or(0),
    };
    let known = Mark::read(db).map_err(|source| StoreError::Engine {
        path: mark_path(db),
        source: source.into(),
    })?;
    Ok((known.unwrap_or_default(), found))
}

fn loss_of(known: &Mark, found: &Mark, db: &Path) -> Option<StoreError> {
    // The second where no commit was witnessed: there were devices, and there is not even an epoch.
    let has_lost = found.commits < known.commits
        || (found.epoch == 0 && found.ordinals_end < known.ordinals_end);
    has_lost.then(|| StoreError::Lost {
        path: db.to_owned(),
        found: found.commits,
        known: known.commits,
    })
}

/// An engine with its witness.
pub struct Witnessed<M> {
    map: M,
    file: File,
    mark: Mark,
    /// Batches in the database, the last of them perhaps not durable.
    commits: u64,
    path: PathBuf,
}

impl<M: OrderedMap> Witnessed<M> {
    /// Compares a database that was just opened with its witness.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if it lost commits, [`StoreError::NewerSchema`] as loading it says it, and
    /// [`StoreError::Engine`] if the witness cannot be read or written. Nothing was changed then.
    pub fn new(map: M, db: &Path, on_loss: OnLoss) -> Result<Self, StoreError> {
        let (known, found) = compare(&map, db)?;
        let commits = found.commits;
        if on_loss == OnLoss::Refuse
            && let Some(lost) = loss_of(&known, &found, db)
        {
            return Err(lost);
        }
        let failed = |source: io::Error| StoreError::Engine {
            path: mark_path(db),
            source: source.into(),
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(mark_path(db))
            .map_err(failed)?;
        let mut witnessed = Self {
            map,
            file,
            mark: Mark {
                epoch: known.epoch.max(found.epoch),
                ordinals_end: known.ordinals_end.max(found.ordinals_end),
                commits: known.commits,
            },
            commits,
            path: db.to_owned(),
        };
        if let OnLoss::Accept { epoch } = on_loss {
            witnessed.go_on(epoch)?;
        }
        Ok(witnessed)
    }

    /// Begins anew beyond what was lost.
    fn go_on(&mut self, epoch: u32) -> Result<(), StoreError> {
        let numbers = [("epoch", epoch), ("next_ordinal", self.mark.ordinals_end)];
        let changes: Vec<Change> = numbers
            .iter()
            .map(|(name, number)| {
                let value = layout::seal(&u64::from(*number).to_be_bytes());
                (layout::meta(name), Some(value))
            })
            .collect();
        // From here on the old number of commits is reached by none: until the mark is written, the next start still
        // finds a loss.
        self.write(&changes)?;
        self.map.sync(Durability::Durable)?;
        self.mark.commits = self.commits;
        self.save(true)
    }

    fn save(&self, is_synced: bool) -> Result<(), StoreError> {
        let saved = self.mark.write(&self.file).and_then(|()| {
            if is_synced {
                self.file.sync_all()
            } else {
                Ok(())
            }
        });
        saved.map_err(|error| StoreError::Engine {
            path: mark_path(&self.path),
            source: error.into(),
        })
    }

    /// Sees to it that the witness knows of ordinals and epoch before the database does.
    fn foresee(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let number = |name| {
            let key = layout::meta(name);
            let value = changes
                .iter()
                .rev()
                .find(|(k, _)| *k == key)?
                .1
                .as_deref()?;
            u32::try_from(sealed(value)?).ok()
        };
        let before = self.mark;
        if let Some(epoch) = number("epoch") {
            self.mark.epoch = epoch;
        }
        if let Some(next) = number("next_ordinal")
            && next > self.mark.ordinals_end
        {
            self.mark.ordinals_end = next.saturating_add(ORDINALS_BLOCK);
        }
        if self.mark == before {
            return Ok(());
        }
        self.save(true).inspect_err(|_| self.mark = before)
    }
}

/// The number in a sealed value.
fn sealed(value: &[u8]) -> Option<u64> {
    let payload = layout::open(value)?.try_into().ok()?;
    Some(u64::from_be_bytes(payload))
}

impl<M: OrderedMap> OrderedMap for Witnessed<M> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.map.get(key)
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        self.map.range(from, to)
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        self.map.range_back(from, to)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.foresee(changes)?;
        let mut counted = Vec::with_capacity(changes.len() + 1);
        counted.extend_from_slice(changes);
        let commits = self.commits + 1;
        counted.push((
            layout::meta("commits"),
            Some(layout::seal(&commits.to_be_bytes())),
        ));
        self.map.write(&counted)?;
        self.commits = commits;
        Ok(())
    }

    fn sync(&mut self, level: Durability) -> Result<(), StoreError> {
        self.map.sync(level)?;
        if level == Durability::Durable && self.mark.commits != self.commits {
            let before = self.mark;
            self.mark.commits = self.commits;
            // What was asked for is durable. A witness that lags sees less, but nothing that is not so.
            if let Err(error) = self.save(false) {
                tracing::warn!(%error, "the witness of the store could not be written");
                self.mark = before;
            }
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.map.disk_bytes()
    }

    fn disk_free(&self) -> Option<u64> {
        self.map.disk_free()
    }
}

#[cfg(test)]
mod tests {
    use petrel_core::UnixMillis;
    use petrel_protocol::session::Attributes;
    use petrel_protocol::{Platform, ProjectId};

    use super::super::{Embedded, Loaded, MemoryMap, NewRegistration, Store as _};
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
            }
        }

        fn db(&self) -> PathBuf {
            self.directory.path().join("db")
        }

        fn open(
            &self,
            map: &MemoryMap,
            on_loss: OnLoss,
        ) -> Result<Embedded<Witnessed<MemoryMap>>, StoreError> {
            let epoch = match on_loss {
                OnLoss::Refuse => 7,
                OnLoss::Accept { epoch } => epoch,
            };
            let witnessed = Witnessed::new(map.clone(), &self.db(), on_loss)?;
            Ok(Embedded::new(witnessed, epoch))
        }
    }

    fn register(store: &mut Embedded<Witnessed<MemoryMap>>, secret: u8) -> u32 {
        let new = NewRegistration {
            project: ProjectId(0),
            secret_hash: [secret; 32],
            platform: Platform::Android,
            attributes: Attributes::default(),
            at: UnixMillis(0),
        };
        let ordinal = store.register(&new).unwrap().ordinal.0;
        store.commit().unwrap();
        ordinal
    }

    fn copy(map: &MemoryMap) -> MemoryMap {
        let copy = MemoryMap::default();
        let pairs: Vec<Change> = map.pairs().into_iter().map(|(k, v)| (k, Some(v))).collect();
        copy.clone().write(&pairs).unwrap();
        copy
    }

    fn load(store: &mut Embedded<Witnessed<MemoryMap>>) -> Loaded {
        let loaded = store.load().unwrap();
        store.commit().unwrap();
        loaded
    }

    #[test]
    fn a_store_that_lost_its_end_is_refused_until_the_loss_is_accepted() {
        let scene = Scene::new();
        let map = MemoryMap::default();
        let mut store = scene.open(&map, OnLoss::Refuse).unwrap();
        load(&mut store);
        assert_eq!(register(&mut store, 1), 0);
        let backup = copy(&map);
        assert_eq!(register(&mut store, 2), 1);
        drop(store);

        for _ in 0..2 {
            let before = backup.pairs();
            let error = scene.open(&backup, OnLoss::Refuse).err().unwrap();
            assert!(matches!(error, StoreError::Lost { .. }), "{error}");
            assert_eq!(backup.pairs(), before);
        }
        let mut store = scene.open(&backup, OnLoss::Accept { epoch: 9 }).unwrap();
        let loaded = load(&mut store);
        assert_eq!((loaded.epoch, loaded.registrations.len()), (9, 1));
        assert_eq!(register(&mut store, 1), 0, "what is left is left");
        assert_eq!(register(&mut store, 3), 1 + ORDINALS_BLOCK);
        drop(store);
        scene.open(&backup, OnLoss::Refuse).unwrap();
    }

    #[test]
    fn a_store_that_is_gone_is_refused_and_its_ordinals_are_never_given_out_again() {
        let scene = Scene::new();
        let mut store = scene.open(&MemoryMap::default(), OnLoss::Refuse).unwrap();
        load(&mut store);
        let mut given: Vec<u32> = (0..3).map(|secret| register(&mut store, secret)).collect();
        drop(store);
        for life in 1..=3 {
            let map = MemoryMap::default();
            assert!(scene.open(&map, OnLoss::Refuse).is_err());
            let epoch = 7 + life;
            assert!(Mark::read(&scene.db()).unwrap().unwrap().epoch < epoch);
            // As the broker does: what accepts is not what goes on.
            drop(scene.open(&map, OnLoss::Accept { epoch }).unwrap());
            let witnessed = Witnessed::new(map.clone(), &scene.db(), OnLoss::Refuse).unwrap();
            let mut store = Embedded::new(witnessed, epoch);
            assert_eq!(load(&mut store).epoch, epoch);
            for secret in 0..3 {
                let ordinal = register(&mut store, secret);
                assert!(!given.contains(&ordinal), "{ordinal}");
                given.push(ordinal);
            }
        }
        assert!(*given.iter().max().unwrap() < 3 * (ORDINALS_BLOCK + 10));
    }

    /// A crash may come between the two files.
    #[test]
    fn a_witness_that_lags_or_is_missing_or_damaged_says_nothing() {
        let scene = Scene::new();
        let map = MemoryMap::default();
        let mut store = scene.open(&map, OnLoss::Refuse).unwrap();
        load(&mut store);
        let lagging = std::fs::read(mark_path(&scene.db())).unwrap();
        register(&mut store, 1);
        drop(store);
        for content in [lagging, b"rubbish".to_vec(), Vec::new()] {
            std::fs::write(mark_path(&scene.db()), content).unwrap();
            scene.open(&map, OnLoss::Refuse).unwrap();
        }
        std::fs::remove_file(mark_path(&scene.db())).unwrap();
        scene.open(&map, OnLoss::Refuse).unwrap();
    }

    #[test]
    fn every_flipped_bit_of_the_mark_is_noticed() {
        let scene = Scene::new();
        let mut store = scene.open(&MemoryMap::default(), OnLoss::Refuse).unwrap();
        load(&mut store);
        let mark = std::fs::read(mark_path(&scene.db())).unwrap();
        assert_eq!(mark.len(), MARK_BYTES);
        assert!(Mark::parse(&mark).is_some());
        for bit in 0..mark.len() * 8 {
            let mut flipped = mark.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::parse(&flipped), None);
        }
        assert_eq!(Mark::parse(&mark[..10]), None);
    }

    #[test]
    fn what_is_not_durable_is_not_witnessed() {
        let scene = Scene::new();
        let map = MemoryMap::default();
        let mut witnessed = Witnessed::new(map, &scene.db(), OnLoss::Refuse).unwrap();
        witnessed.write(&[]).unwrap();
        witnessed.sync(Durability::Process).unwrap();
        assert_eq!(Mark::read(&scene.db()).unwrap(), None);
        witnessed.sync(Durability::Durable).unwrap();
        assert_eq!(Mark::read(&scene.db()).unwrap().unwrap().commits, 1);
    }
}
