//! Putting a new database in the place of the old one, so that a kill at any moment leaves one of the two whole.
//!
//! The new one is written as `db.compact-tmp`. Once it is durable:
//!
//! ```text
//! 1  db              → db.compact-old
//! 2  db.compact-tmp  → db
//! 3  db.compact-old  → db.compact-trash
//! 4  db.compact-trash is deleted
//! ```
//!
//! Each rename is durable before the next. Before 1 the swap is undone, because `db` may be served by then; after it,
//! it is finished. A directory is deleted under the name `trash` only, so that `old` is always whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::MaintenanceError;

/// What was found of a swap that did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupted {
    /// Nothing.
    Nothing,
    /// The old database stays.
    Undone,
    /// The new database is in its place.
    Finished,
}

pub(super) struct Places {
    data_dir: PathBuf,
    pub(super) db: PathBuf,
    pub(super) tmp: PathBuf,
    pub(super) old: PathBuf,
    pub(super) trash: PathBuf,
}

impl Places {
    pub(super) fn of(data_dir: &Path) -> Self {
        let inside = |name| data_dir.join(name);
        Self {
            data_dir: data_dir.to_owned(),
            db: inside("db"),
            tmp: inside("db.compact-tmp"),
            old: inside("db.compact-old"),
            trash: inside("db.compact-trash"),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), MaintenanceError> {
        std::fs::rename(from, to)
            .and_then(|()| sync_directory(&self.data_dir))
            .map_err(|e| MaintenanceError::file(from, "renamed", e))
    }

    fn trash_old(&self) -> Result<(), MaintenanceError> {
        remove_all(&self.trash)?;
        self.rename(&self.old, &self.trash)
    }
}

type Step = fn(&Places) -> Result<(), MaintenanceError>;

/// The steps of a swap, in order. A test stops after each.
pub(super) const STEPS: [Step; 5] = [
    |places| sync_tree(&places.tmp),
    |places| match places.db.exists() {
        true => places.rename(&places.db, &places.old),
        false => Ok(()),
    },
    |places| places.rename(&places.tmp, &places.db),
    |places| match places.old.exists() {
        true => places.trash_old(),
        false => Ok(()),
    },
    |places| remove_all(&places.trash),
];

/// Puts `db.compact-tmp`, which nobody has open, in the place of `db`.
pub(super) fn swap_in(data_dir: &Path) -> Result<(), MaintenanceError> {
    let places = Places::of(data_dir);
    STEPS.iter().try_for_each(|step| step(&places))
}

/// Finishes or undoes a swap that was interrupted. To be called by whoever opens a store, with the data directory's
/// lock held, before the store is opened. Without one, nothing is touched.
///
/// # Errors
/// A directory cannot be renamed or deleted, or the directories are such as no interrupted swap leaves.
pub fn finish_interrupted_compaction(data_dir: &Path) -> Result<Interrupted, MaintenanceError> {
    let places = Places::of(data_dir);
    let there = |path: &Path| {
        path.try_exists()
            .map_err(|e| MaintenanceError::file(path, "looked at", e))
    };
    let [db, tmp, old] = [there(&places.db)?, there(&places.tmp)?, there(&places.old)?];
    let found = match (db, tmp, old) {
        (_, false, false) => Interrupted::Nothing,
        (_, true, false) => {
            remove_all(&places.tmp)?;
            Interrupted::Undone
        }
        (true, true, true) => return Err(MaintenanceError::Tangled(data_dir.to_owned())),
        (false, true, true) => {
            places.rename(&places.tmp, &places.db)?;
            places.trash_old()?;
            Interrupted::Finished
        }
        (true, false, true) => {
            places.trash_old()?;
            Interrupted::Finished
        }
        (false, false, true) => {
            places.rename(&places.old, &places.db)?;
            Interrupted::Undone
        }
    };
    remove_all(&places.trash)?;
    Ok(found)
}

/// Deletes a directory; one that is not there is deleted already.
pub(super) fn remove_all(path: &Path) -> Result<(), MaintenanceError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MaintenanceError::file(path, "deleted", error))
        }
        _ => Ok(()),
    }
}

/// Deletes a file; one that is not there is deleted already.
pub(super) fn remove_file(path: &Path) -> Result<(), MaintenanceError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MaintenanceError::file(path, "deleted", error))
        }
        _ => Ok(()),
    }
}

/// Makes a directory with all that is in it durable, its own name included.
pub(super) fn sync_tree(path: &Path) -> Result<(), MaintenanceError> {
    let failed = |e| MaintenanceError::file(path, "made durable", e);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
        }
    }
    sync_directory(path).map_err(failed)?;
    path.parent()
        .map_or(Ok(()), |parent| sync_directory(parent).map_err(failed))
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
