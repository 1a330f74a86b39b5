//! `ready.json`: how the other commands find the running broker.
//!
//! The same line that `serve` prints when it is ready. Written at each start, removed at a clean end; after `kill -9`
//! it stays, and the free lock tells that it is stale.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Process;
use super::{DataDir, FileError, file, running};

pub(crate) const FILE: &str = "ready.json";

/// The ready line. Keys stand in this order, all of them always.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always `true`.
    pub ready: bool,
    /// Where devices connect: `ip:port`, UDP.
    pub quic: String,
    /// Where publishers send without TLS: `http://ip:port`.
    pub http: String,
    /// Where publishers send with TLS: `https://ip:port`.
    pub https: String,
    /// Where health and metrics are: `http://ip:port`.
    pub admin: String,
    /// What every URL handed out begins with.
    pub public_url: String,
    /// The project that the broker made itself; `null` where the configuration names projects.
    pub project: Option<String>,
    /// Its key for publishers.
    pub api_key: Option<String>,
    /// Its key for devices.
    pub app_key: Option<String>,
    /// PEM file with what devices must trust.
    pub ca: String,
    /// The data directory, absolute.
    pub data_dir: String,
}

impl Ready {
    /// One line of JSON, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        // Strings and booleans always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what a running broker wrote into `data_dir`. Takes no lock that lasts.
    ///
    /// # Errors
    /// No broker runs there, it is not ready, or the file cannot be read.
    pub fn read(data_dir: &Path) -> Result<Self, ReadyError> {
        let path = data_dir.join(FILE);
        let content = file::read(&path)?;
        let holder = running(data_dir).map_err(|source| ReadyError::Lock {
            data_dir: data_dir.to_owned(),
            source,
        })?;
        match (holder, content) {
            (None, _) => Err(ReadyError::NotRunning {
                data_dir: data_dir.to_owned(),
            }),
            (Some(process), None) => Err(ReadyError::NotReady {
                data_dir: data_dir.to_owned(),
                process,
            }),
            (Some(_), Some(content)) => serde_json::from_slice(&content)
                .map_err(|source| ReadyError::Damaged { path, source }),
        }
    }
}

impl fmt::Debug for Ready {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready")
            .field("quic", &self.quic)
            .field("https", &self.https)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// Why the running broker cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ReadyError {
    /// Nobody holds the directory.
    #[error(
        "no broker is running in {dir}: start one with `petrel serve --data-dir {dir}`",
        dir = data_dir.display()
    )]
    NotRunning {
        /// The directory.
        data_dir: PathBuf,
    },
    /// It starts or ends.
    #[error("the broker in {} ({}) is starting or stopping: try again", data_dir.display(), Process(*process))]
    NotReady {
        /// The directory.
        data_dir: PathBuf,
        /// The broker's process id, where known.
        process: Option<u32>,
    },
    /// Whether one runs cannot be found out.
    #[error("the lock of {} cannot be read: {source}; run as the broker's user", data_dir.display())]
    Lock {
        /// The directory.
        data_dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what this version writes.
    #[error("{} is damaged: {source}; restart the broker, which writes it anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl DataDir {
    /// Tells the other commands that the broker is ready.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_ready(&self, ready: &Ready) -> Result<(), FileError> {
        let line = format!("{}\n", ready.line());
        file::write(&self.path().join(FILE), line.as_bytes())
    }

    /// Tells them that it no longer is. Part of a clean end.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_ready(&self) -> Result<(), FileError> {
        remove(self.path()).map_err(|error| FileError::write(&self.path().join(FILE), error))
    }
}

pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    file::remove_if_there(&directory.join(FILE))
}
