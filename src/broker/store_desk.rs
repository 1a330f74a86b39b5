//! What the admin port may ask of the store: sizes, and a backup while everything goes on.
//!
//! A backup is copied by the store's own thread, a few hundred pairs between two operations, and finished here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::{Value, json};

use super::Inside;
use super::opening::new_epoch;
use crate::api::{BackupRefusal, Later, StoreAdmin};
use crate::config::StoreEngine;
use crate::delivery::Delivery;
use crate::store::maintenance::{BackupPlace, Copied, MaintenanceError, Seen};
use crate::store::{Backup, Stepped, open_engine};

/// Most pairs that are copied between two operations: some 5 ms.
const STEP_KEYS_MAX: usize = 256;

/// The cache of a backup's database: it is written once, in order.
const BACKUP_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Answers for the store.
pub(super) struct StoreDesk {
    inside: Arc<OnceLock<Inside>>,
    data_dir: PathBuf,
    engine: StoreEngine,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    None,
    Copying(PathBuf, Seen),
    Done(PathBuf, Copied),
    Failed(PathBuf, String),
}

impl StoreDesk {
    pub(super) fn new(inside: Arc<OnceLock<Inside>>, data_dir: &Path, engine: StoreEngine) -> Self {
        Self {
            inside,
            data_dir: data_dir.to_owned(),
            engine,
            state: Arc::default(),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StoreAdmin for StoreDesk {
    fn stats(&self) -> Later<'_, Option<Value>> {
        Box::pin(async {
            let delivery = &self.inside.get()?.delivery;
            let (stats, disk) = delivery
                .ask_store(|store| (store.stats(), store.disk_use()))
                .await?;
            Some(json!({
                "running": true,
                "disk_bytes": disk.occupied,
                "disk_free_bytes": disk.free,
                "memory_bytes": stats.memory_bytes,
                "written_bytes": stats.bytes_written,
                "queued_messages": stats.queued_messages,
                "queued_bytes": stats.queued_bytes,
                "broadcast_bytes": delivery.held().1,
                "owed": delivery.balance().owed,
                "registrations": delivery.directory().size().0,
                "operations_waiting": delivery.operations_waiting(),
            }))
        })
    }

    fn begin_backup(&self, directory: PathBuf) -> Later<'_, Result<Value, BackupRefusal>> {
        Box::pin(async move {
            let Some(inside) = self.inside.get() else {
                let problem = "the broker is starting; begin the backup when it is ready";
                return Err(BackupRefusal::Directory(problem.into()));
            };
            {
                let mut state = lock(&self.state);
                if matches!(*state, State::Copying(..)) {
                    return Err(BackupRefusal::Busy);
                }
                *state = State::Copying(directory.clone(), Seen::default());
            }
            let prepared = prepare(directory.clone(), self.data_dir.clone(), self.engine).await;
            let (place, backup) = match prepared {
                Ok(prepared) => prepared,
                Err(problem) => {
                    *lock(&self.state) = State::Failed(directory, problem.clone());
                    return Err(BackupRefusal::Directory(problem));
                }
            };
            tracing::info!(directory = %directory.display(), "a backup has begun");
            let run = run(
                Arc::clone(&inside.delivery),
                self.data_dir.clone(),
                Arc::clone(&self.state),
                place,
                backup,
            );
            // Ends by itself; with the store's thread at the latest.
            drop(tokio::spawn(run));
            Ok(self.backup())
        })
    }

    fn backup(&self) -> Value {
        match &*lock(&self.state) {
            State::None => json!({ "state": "none" }),
            State::Copying(directory, seen) => {
                json!({ "state": "copying", "directory": directory, "pairs": seen.pairs, "bytes": seen.bytes })
            }
            State::Done(directory, copied) => json!({
                "state": "done", "directory": directory, "pairs": copied.seen.pairs,
                "bytes": copied.seen.bytes, "epoch": copied.epoch,
            }),
            State::Failed(directory, problem) => {
                json!({ "state": "failed", "directory": directory, "problem": problem })
            }
        }
    }
}

/// Makes the directory and the database in it.
async fn prepare(
    directory: PathBuf,
    data_dir: PathBuf,
    engine: StoreEngine,
) -> Result<(BackupPlace, Backup), String> {
    let prepare = move || -> Result<_, MaintenanceError> {
        let place = BackupPlace::prepare(&directory, &data_dir)?;
        // What is in memory only is written as the default engine would.
        let engine = match engine {
            StoreEngine::Memory => StoreEngine::Sled,
            other => other,
        };
        let target = open_engine(engine, &place.db(), BACKUP_CACHE_BYTES)?;
        Ok((place, Backup::begin(target)))
    };
    blocking(prepare).await
}

async fn run(
    delivery: Arc<Delivery>,
    data_dir: PathBuf,
    state: Arc<Mutex<State>>,
    place: BackupPlace,
    backup: Backup,
) {
    let target = place.target().to_owned();
    let made = copy(&delivery, &data_dir, &state, &target, place, backup).await;
    *lock(&state) = match made {
        Ok(copied) => {
            tracing::info!(directory = %target.display(), pairs = copied.seen.pairs, "the backup is complete");
            State::Done(target, copied)
        }
        Err(problem) => {
            tracing::error!(directory = %target.display(), problem, "the backup failed");
            State::Failed(target, problem)
        }
    };
}

async fn copy(
    delivery: &Delivery,
    data_dir: &Path,
    state: &Mutex<State>,
    target: &Path,
    place: BackupPlace,
    backup: Backup,
) -> Result<Copied, String> {
    let ended = || "the broker ended before the backup was complete; make it again".to_owned();
    delivery
        .ask_store(|store| store.begin_backup(backup))
        .await
        .ok_or_else(ended)?;
    loop {
        let stepped = delivery
            .ask_store(|store| store.step_backup(STEP_KEYS_MAX))
            .await
            .ok_or_else(ended)?;
        match stepped {
            Ok(Stepped::Copying(seen)) => {
                *lock(state) = State::Copying(target.to_owned(), seen);
            }
            Ok(Stepped::Complete(_)) => break,
            Err(error) => {
                drop(delivery.ask_store(|store| store.take_backup()).await);
                return Err(error.to_string());
            }
        }
    }
    let backup = delivery
        .ask_store(|store| store.take_backup())
        .await
        .flatten()
        .ok_or_else(ended)?;
    let data_dir = data_dir.to_owned();
    blocking(move || {
        let copied = backup.finish(new_epoch())?;
        place.complete(&data_dir)?;
        Ok(copied)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MaintenanceError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the backup failed badly; please report it".into()),
    }
}
