//! Opening the store at the start, and what happens when it is damaged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::StartError;
use super::parts::wall_now;
use crate::config::{self, Config, StoreEngine};
use crate::data_dir::{DataDir, Keyring};
use crate::store::maintenance::{self, Interrupted};
use crate::store::{
    Durability, Embedded, Loaded, Mark, MemoryMap, OnLoss, OrderedMap, Reopening, Store,
    StoreError, Witnessed, guarded, open_engine, set_aside,
};

/// What to do with a store that is damaged or has lost what was durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loss {
    /// Do not start.
    #[default]
    Refuse,
    /// Go on with what is left: nothing where the store cannot be opened, which is then set aside.
    Accept,
}

type Opened = Result<(Box<dyn Store>, Loaded), StoreError>;

/// Where the store lies and how it is opened.
#[derive(Clone)]
struct Place {
    engine: StoreEngine,
    db: PathBuf,
    cache_bytes: u64,
    durability: Durability,
    /// Pairs that were read.
    read: Arc<AtomicU64>,
}

/// How often a start that takes long says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Opens and reads the store on a thread that may block.
pub(super) async fn open_store(
    config: &Config,
    data_dir: &DataDir,
    keyring: Keyring,
    loss: Loss,
) -> Result<(Box<dyn Store>, Loaded), StartError> {
    let place = Place {
        engine: config.store.engine,
        db: data_dir.db(),
        cache_bytes: config.store.cache.bytes(),
        durability: match config.store.durability {
            config::Durability::Durable => Durability::Durable,
            config::Durability::Process => Durability::Process,
            config::Durability::Fast => Durability::Fast,
        },
        read: Arc::default(),
    };
    let read = Arc::clone(&place.read);
    let began = Instant::now();
    let directory = data_dir.path().to_owned();
    let mut opened = tokio::task::spawn_blocking(move || {
        let interrupted = maintenance::finish_interrupted_compaction(&directory)?;
        if interrupted != Interrupted::Nothing {
            tracing::warn!(
                ?interrupted,
                "a compaction or import of the store had been cut off"
            );
        }
        let (store, loaded) = place.open_or_set_aside(&keyring, loss)?;
        tracing::info!(
            registrations = loaded.registrations.len(),
            queued = loaded.queued_messages,
            broadcasts = loaded.broadcasts.len(),
            unreadable = loaded.unreadable,
            took = ?began.elapsed(),
            "the store is open"
        );
        Ok((store, loaded))
    });
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut opened).await {
            Ok(opened) => return opened.map_err(|_| StartError::Panicked)?,
            Err(_) => tell_progress(read.load(Ordering::Relaxed), began.elapsed()),
        }
    }
}

fn tell_progress(read: u64, elapsed: Duration) {
    if read == 0 {
        tracing::info!(
            ?elapsed,
            "the store is being opened: its engine reads what was written since the last start"
        );
    } else {
        tracing::info!(?elapsed, values = read, "the store is being read");
    }
}

impl Place {
    fn open_or_set_aside(
        &self,
        keyring: &Keyring,
        loss: Loss,
    ) -> Result<(Box<dyn Store>, Loaded), StartError> {
        let error = match self.open(OnLoss::Refuse) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let is_lost = matches!(error, StoreError::Lost { .. });
        let is_damaged = matches!(
            error,
            StoreError::Damaged { .. } | StoreError::Unreadable { .. }
        );
        if !is_lost && !is_damaged {
            return Err(error.into());
        }
        if loss == Loss::Refuse {
            return Err(self.refusal(error));
        }
        let known = self.mark()?;
        if known.is_none() {
            // Nobody knows which ordinals were given out. Tokens sealed before name nobody any more.
            keyring.replace_sealing()?;
            tracing::warn!(
                "no witness tells which devices there were: all device tokens given out so far are refused"
            );
        }
        if is_damaged {
            // Last: until it is moved, the next start finds it as it is.
            let copy = set_aside(&self.db, wall_now()).map_err(|source| StoreError::Engine {
                path: self.db.clone(),
                source: source.into(),
            })?;
            let copy = copy.unwrap_or_default();
            tracing::warn!(copy = %copy.display(), %error, "the damaged store is set aside, the broker starts empty");
        } else {
            tracing::warn!(%error, "the loss is accepted, the broker goes on with what is left");
        }
        // Above every epoch before, also when the clock went back, so that no two messages get one id.
        let epoch = known.map_or(0, |mark| mark.epoch).saturating_add(1);
        let epoch = epoch.max(new_epoch());
        Ok(self.open(OnLoss::Accept { epoch })?)
    }

    fn mark(&self) -> Result<Option<Mark>, StartError> {
        let mark = Mark::read(&self.db).map_err(|source| StoreError::Engine {
            path: self.db.clone(),
            source: source.into(),
        });
        Ok(mark?)
    }

    fn refusal(&self, error: StoreError) -> StartError {
        StartError::Damaged {
            copy: self.db.clone(),
            error,
        }
    }

    /// Opens the engine and compares it with its witness. Whatever later opens it anew, after an error, compares again and
    /// accepts no loss.
    fn open(&self, on_loss: OnLoss) -> Opened {
        let Self {
            engine,
            db,
            cache_bytes,
            durability,
            read: counter,
        } = self.clone();
        let epoch = match on_loss {
            OnLoss::Refuse => new_epoch(),
            OnLoss::Accept { epoch } => epoch,
        };
        if engine == StoreEngine::Memory {
            return read(Embedded::new(MemoryMap::default(), epoch));
        }
        guarded(&self.db, move || {
            if let OnLoss::Accept { .. } = on_loss {
                let map = open_engine(engine, &db, cache_bytes)?;
                drop(Witnessed::new(map, &db, on_loss)?);
            }
            let map = Reopening::new(db.clone(), move || {
                let mut map = open_engine(engine, &db, cache_bytes)?;
                // A backup may have been put in the place of what its witness knows.
                let restored = maintenance::begin_life_if_restored(&mut map, new_epoch())?;
                let on_loss = restored.map_or(OnLoss::Refuse, |epoch| {
                    tracing::warn!(
                        epoch,
                        "the store is a restored backup: it begins a new epoch"
                    );
                    OnLoss::Accept { epoch }
                });
                Witnessed::new(map, &db, on_loss)
            })?;
            read(
                Embedded::new(map, epoch)
                    .with_durability(durability)
                    .counting(counter),
            )
        })
    }
}

fn read<M: OrderedMap + 'static>(mut store: Embedded<M>) -> Opened {
    let loaded = store.load()?;
    Ok((Box::new(store), loaded))
}

/// The epoch of a store that begins now: one is made at most once a second, so no two of a broker share it.
pub(super) fn new_epoch() -> u32 {
    u32::try_from(wall_now().0 / 1000).unwrap_or(u32::MAX)
}
