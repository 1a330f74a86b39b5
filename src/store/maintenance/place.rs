//! Where a backup goes: a directory with the shape of a data directory, that exists once it is whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::backup::Copied;
use super::swap::{self, sync_directory};
use super::{MaintenanceError, Opener, Progress, compact, life};
use crate::store::{Durability, OrderedMap};

/// What a backup holds beside the database: without these, a restored broker would be another one to its devices,
/// servers and operators.
const FILES: [&str; 3] = ["keys", "tls", "demo-keys.json"];

/// A backup in the making. Dropped before it is complete, it leaves nothing behind.
#[derive(Debug)]
pub struct BackupPlace {
    target: PathBuf,
    partial: PathBuf,
    is_complete: bool,
}

impl BackupPlace {
    /// Makes the directory `TARGET.partial`, which becomes `target` when the backup is complete.
    ///
    /// # Errors
    /// `target` is not an absolute path, exists and is not empty, or lies in the data directory; the disk has less room
    /// than the database takes now; or the directory cannot be made.
    pub fn prepare(target: &Path, data_dir: &Path) -> Result<Self, MaintenanceError> {
        let bad = |problem| MaintenanceError::Target {
            path: target.to_owned(),
            problem,
        };
        let (Some(parent), Some(name), true) =
            (target.parent(), target.file_name(), target.is_absolute())
        else {
            return Err(bad("is not an absolute path"));
        };
        let parent = std::fs::canonicalize(parent)
            .map_err(|e| MaintenanceError::file(parent, "looked at", e))?;
        // A start with the data directory's backup inside it would be harmless; deleting the directory would not.
        if std::fs::canonicalize(data_dir).is_ok_and(|data_dir| parent.starts_with(data_dir)) {
            return Err(bad("lies in the data directory"));
        }
        let target = parent.join(name);
        match std::fs::read_dir(&target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(bad("is not empty")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err(bad("is there and is not a directory that can be read")),
        }
        require_space(&parent, directory_bytes(&data_dir.join("db")))?;
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = parent.join(partial);
        DirBuilder::new()
            .mode(0o700)
            .create(&partial)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => MaintenanceError::Target {
                    path: partial.clone(),
                    problem: "is there: another backup is being made, or one was cut off and can be deleted",
                },
                _ => MaintenanceError::file(&partial, "made", error),
            })?;
        Ok(Self {
            target,
            partial,
            is_complete: false,
        })
    }

    /// Where the copy of the database goes.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.partial.join("db")
    }

    /// Where the backup will be.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Copies keys and certificates, makes everything durable, and gives the directory its name. The copy of the
    /// database is closed by then.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn complete(mut self, data_dir: &Path) -> Result<(), MaintenanceError> {
        for name in FILES {
            copy_private(&data_dir.join(name), &self.partial.join(name))?;
        }
        swap::sync_tree(&self.partial)?;
        // One that is there is empty, and a rename replaces an empty directory.
        std::fs::rename(&self.partial, &self.target)
            .and_then(|()| self.target.parent().map_or(Ok(()), sync_directory))
            .map_err(|e| MaintenanceError::file(&self.target, "made", e))?;
        self.is_complete = true;
        Ok(())
    }
}

impl Drop for BackupPlace {
    fn drop(&mut self) {
        if !self.is_complete {
            // Where this fails, the next backup to the same place names the directory.
            let _ = swap::remove_all(&self.partial);
        }
    }
}

/// Makes a backup of a data directory on which no broker runs; the caller holds its lock.
///
/// # Errors
/// As [`BackupPlace::prepare`], or the store cannot be read.
pub fn copy_stopped(
    data_dir: &Path,
    map: &dyn OrderedMap,
    target: &Path,
    at_least: u32,
    open: Opener<'_>,
    progress: Progress<'_>,
) -> Result<Copied, MaintenanceError> {
    let place = BackupPlace::prepare(target, data_dir)?;
    let mut copy = open(&place.db())?;
    let seen = compact::copy(map, &mut *copy, progress)?;
    let epoch = life::mark_restored(&mut *copy, at_least)?;
    copy.sync(Durability::Durable)?;
    drop(copy);
    place.complete(data_dir)?;
    Ok(Copied { seen, epoch })
}

/// Copies a file, or a directory of files, for the owner alone. What is not there is not copied.
fn copy_private(from: &Path, to: &Path) -> Result<(), MaintenanceError> {
    let metadata = match std::fs::metadata(from) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(MaintenanceError::file(from, "read", error)),
    };
    if !metadata.is_dir() {
        return copy_file(from, to).map_err(|e| MaintenanceError::file(from, "copied", e));
    }
    let failed = |e| MaintenanceError::file(from, "copied", e);
    DirBuilder::new().mode(0o700).create(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        copy_private(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.sync_all()
}

/// Bytes of all files in a directory. What vanishes meanwhile is not counted.
#[must_use]
pub fn directory_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// Checks that the disk of a directory has so much room.
///
/// # Errors
/// It has not, or does not say.
pub fn require_space(directory: &Path, needed: u64) -> Result<(), MaintenanceError> {
    let disk = rustix::fs::statvfs(directory)
        .map_err(|e| MaintenanceError::file(directory, "asked for its free space", e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Err(MaintenanceError::NoSpace {
            path: directory.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}
