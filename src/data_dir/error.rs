//! What can go wrong with the directory and its files. Every message ends with the way out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The path leads to something else.
    #[error("{} is not a directory; move it away or pass another --data-dir", .0.display())]
    NotADirectory(PathBuf),
    /// Others can reach it, and it holds things that are not Petrel's.
    #[error("{} is open to other users and holds other things; pass another --data-dir or run chmod 700 on it", .0.display())]
    Shared(PathBuf),
    /// It cannot be made, read or written.
    #[error(
        "{} cannot be {action}: {source}; give this user all rights to it or pass another --data-dir",
        path.display()
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another broker runs on it.
    #[error("{} is in use by {}; stop it or pass another --data-dir", path.display(), Process(*process))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock; `None` in the moment before it has written its id.
        process: Option<u32>,
    },
}

impl DataDirError {
    pub(crate) fn unusable(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            action,
            source,
        }
    }
}

/// A process, by its id where that is known.
pub(crate) struct Process(pub(crate) Option<u32>);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "process {id}"),
            None => f.write_str("another process"),
        }
    }
}

/// Something amiss that was put right. For the log, at WARN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// Others than the owner had rights; they were taken away.
    Tightened {
        /// The directory or file.
        path: PathBuf,
        /// The mode it had.
        found: u32,
        /// The mode it has now.
        now: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tightened { path, found, now } => write!(
                f,
                "{} had mode {found:04o}, now {now:04o}: others could reach the broker's secrets; replace its keys if \
                 somebody may have read them",
                path.display()
            ),
        }
    }
}

/// Why a file of the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there, but cannot be read.
    #[error("{} cannot be read: {source}; give this user the right to, or restore it from a backup", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("{} cannot be written: {source}; make room on the disk and give this user the right to", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what the broker wrote.
    #[error("{} is damaged: {reason}; restore it from a backup; deleting it means: {deleting}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What is lost by deleting it.
        deleting: &'static str,
    },
    /// The system gave no random bytes for it.
    #[error("{} cannot be made: the system gives no random bytes; start again", .0.display())]
    NoRandomness(PathBuf),
}

impl FileError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>, deleting: &'static str) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: reason.into(),
            deleting,
        }
    }
}
