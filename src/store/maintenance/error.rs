//! Why looking after a store failed. Each message names the way out.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// Why looking after a store failed.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The engine failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or directory failed.
    #[error("{} cannot be {action}: {source}; check permissions and disk space", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, as a participle.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// There is nothing to look after.
    #[error("there is no store in {}: name the broker's data directory with --data-dir DIR", .0.display())]
    NoStore(PathBuf),
    /// Directories stand beside each other that no interrupted swap leaves.
    #[error(
        "{dir} holds db, db.compact-tmp and db.compact-old at once: a swap was interrupted and an older Petrel then \
         began a new db. Nothing is touched. db.compact-tmp is the whole store from before; move it or db away",
        dir = .0.display()
    )]
    Tangled(PathBuf),
    /// The disk has no room.
    #[error(
        "{} has {} free and {} may be needed: make room on that disk and try again", path.display(),
        Mebibytes(*free), Mebibytes(*needed)
    )]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that may be needed.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// An import would mix two stores.
    #[error(
        "the store in {} is not empty ({registrations} registrations, {others} other values): import into a new data \
         directory, or move its db directory away first", path.display()
    )]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
        /// Registrations in it.
        registrations: u64,
        /// Messages, broadcasts, topics and the like.
        others: u64,
    },
    /// What is to be imported is not what `petrel store export` wrote.
    #[error("line {line} of the export: {problem}; nothing was imported")]
    BadExport {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// The export cannot be read.
    #[error("the export cannot be read: {0}; nothing was imported")]
    Unreadable(io::Error),
    /// The export cannot be written.
    #[error("the export cannot be written: {0}; what was written of it cannot be imported")]
    Unwritable(io::Error),
    /// A newer Petrel wrote the export.
    #[error(
        "the export has {what} {found}, this Petrel reads up to {known}: import with the newer Petrel; nothing was \
         imported"
    )]
    NewerExport {
        /// Format version or schema version.
        what: &'static str,
        /// In the export.
        found: u32,
        /// Newest that this program knows.
        known: u32,
    },
    /// The export is of a broker with other sealing keys.
    #[error(
        "the export is of a broker with other keys: the device tokens that it gave out do not open here. Copy keys/ of \
         that broker's data directory to {keys} and import again; or pass --foreign: registrations, subscriptions and \
         queues are taken over, every device must register again and servers must learn its new token",
        keys = keys.display()
    )]
    Foreign {
        /// Where its keys belong.
        keys: PathBuf,
    },
    /// A backup must not replace anything.
    #[error("{} {problem}; name a directory that does not exist yet", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl MaintenanceError {
    pub(super) fn file(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            action,
            source,
        }
    }
}

struct Mebibytes(u64);

impl std::fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1024 * 1024))
    }
}
