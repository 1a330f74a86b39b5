//! Which store a command is about, and how it is opened: with the data directory's lock, or through the admin port.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::Failure;
use super::super::http::{Answer, Http};
use crate::config::{Config, ENVIRONMENT_PREFIX, Flag, StoreEngine};
use crate::data_dir::{AdminKey, DataDir, DataDirError, Ready, ReadyError};
use crate::store::maintenance::{self, Interrupted, MaintenanceError};
use crate::store::{OrderedMap, StoreError, open_engine};

/// Page cache of a store that is read or written once, in order.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Place {
    /// Data directory of the broker [default: ./petrel-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The broker's configuration file, which names its data directory and engine.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    /// What the configuration file, the environment and the flags say together.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with(ENVIRONMENT_PREFIX)
                .then(|| (name, value.to_string_lossy().into_owned()))
        });
        let flags: Vec<Flag> = self
            .data_dir
            .iter()
            .map(|dir| Flag::new("--data-dir", "data_dir", dir.display().to_string()))
            .collect();
        Ok(Config::load(self.config.as_deref(), environment, &flags)?)
    }
}

/// The store of a broker that does not run.
pub(super) struct Stopped {
    /// Held until the command ends.
    pub(super) data_dir: DataDir,
    engine: StoreEngine,
}

impl Stopped {
    /// Takes the lock of a data directory that is there.
    pub(super) fn take(config: &Config) -> Result<Self, Failure> {
        if !config.data_dir.is_dir() {
            return Err(MaintenanceError::NoStore(config.data_dir.clone()).into());
        }
        Self::take_or_make(config)
    }

    /// Takes the lock, and makes the directory where it is missing.
    pub(super) fn take_or_make(config: &Config) -> Result<Self, Failure> {
        if config.store.engine == StoreEngine::Memory {
            return Err(Failure::new(
                "store.engine is \"memory\": such a broker keeps nothing on disk; name the configuration of one that does",
            ));
        }
        let data_dir = DataDir::open(&config.data_dir).map_err(|error| match error {
            DataDirError::InUse { path, process } => {
                let process = process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"));
                Failure::new(format!(
                    "{} is in use by {process}: stop that broker first. While it runs, `petrel store stats` and \
                     `petrel store backup DIR` work",
                    path.display()
                ))
            }
            other => other.into(),
        })?;
        for warning in data_dir.warnings() {
            say(&warning.to_string());
        }
        match maintenance::finish_interrupted_compaction(data_dir.path())? {
            Interrupted::Nothing => {}
            Interrupted::Undone => {
                say(
                    "a compaction or import had been cut off: the store from before it is in place",
                );
            }
            Interrupted::Finished => say("a compaction or import had been cut off: it is finished"),
        }
        Ok(Self {
            data_dir,
            engine: config.store.engine,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.data_dir.path()
    }

    /// Opens or makes a database of the broker's engine.
    pub(super) fn open(&self, path: &Path) -> Result<Box<dyn OrderedMap>, StoreError> {
        // sled panics on some damaged files.
        let open = || open_engine(self.engine, path, CACHE_BYTES);
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
            Err(StoreError::Damaged {
                path: path.to_owned(),
                problem: "the engine broke down over its files".into(),
            })
        })
    }

    /// Opens the store, which must be there.
    pub(super) fn open_store(&self) -> Result<Box<dyn OrderedMap>, Failure> {
        let db = self.data_dir.db();
        if !db.is_dir() {
            return Err(MaintenanceError::NoStore(self.path().to_owned()).into());
        }
        let map = self.open(&db)?;
        if let Some(lost) = self.loss(&*map)? {
            say(&lost);
        }
        Ok(map)
    }

    /// What the store has lost, if its witness saw more.
    pub(super) fn loss(&self, map: &dyn OrderedMap) -> Result<Option<String>, Failure> {
        let db = self.data_dir.db();
        // A backup in its place begins a new life with its first start.
        let lost = crate::store::loss(map, &db)?.filter(|_| !maintenance::is_restored(map));
        Ok(lost.map(|lost| lost.to_string()))
    }
}

/// The ready line of the broker that runs on the data directory; `None` if none runs.
pub(super) fn running(config: &Config) -> Result<Option<Ready>, Failure> {
    match Ready::read(&config.data_dir) {
        Ok(ready) => Ok(Some(ready)),
        Err(ReadyError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The admin port of a running broker.
pub(super) struct Admin {
    http: Http,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    /// `with_key`: for what changes something.
    pub(super) fn of(ready: &Ready, with_key: bool) -> Result<Self, Failure> {
        let key = match with_key {
            true => Some(AdminKey::read(Path::new(&ready.data_dir))?),
            false => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let http = Http::new(
            &ready.admin,
            None,
            key.as_ref().map_or("none", |k| k.expose()),
        )?;
        Ok(Self { http, runtime })
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        let call = self
            .http
            .call(hyper::Method::GET, path, bytes::Bytes::new());
        Ok(self.runtime.block_on(call)?)
    }

    pub(super) fn post(&mut self, path: &str, body: String) -> Result<Answer, Failure> {
        let call = self.http.call(hyper::Method::POST, path, body.into());
        Ok(self.runtime.block_on(call)?)
    }
}

/// A line for people, beside the result.
pub(super) fn say(text: &str) {
    // Where stderr is gone, nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "petrel: {text}");
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.map_or(0, |d| d.as_millis())).unwrap_or(u64::MAX)
}

/// The epoch of a store that begins now, as the broker chooses it.
pub(super) fn epoch_now() -> u32 {
    u32::try_from(wall_ms() / 1000).unwrap_or(u32::MAX)
}
