//! Files that are written whole or not at all.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{FILE_MODE, FileError};

/// A file larger than this is none of ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Writes a file with mode 0600 so that a crash at any moment leaves the old content or the new, on disk once this
/// returns: a temporary file beside it, synced, renamed over it, and the directory synced.
///
/// # Errors
/// The file cannot be written; the old content stays.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = temporary(path);
    let written = write_synced(&temporary, content)
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| path.parent().map_or(Ok(()), sync_directory));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        FileError::write(path, error)
    })
}

/// One name for each file: the lock keeps other writers away, and what a crash leaves is replaced by the next write.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".tmp");
    path.with_file_name(name)
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    // Removed first, because the mode is only given to a file that is new.
    remove_if_there(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes renames and removals in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file; one that is not there is removed already.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a file that may be secret. `None` where there is none.
///
/// # Errors
/// It is there and cannot be read, or is far too large.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let open = || -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "far too large"));
        }
        // Room for all of it from the start: a vector that grows leaves copies behind that nobody wipes.
        let mut content = Zeroizing::new(Vec::with_capacity(
            usize::try_from(bytes).unwrap_or_default() + 1,
        ));
        file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        Ok(Some(content))
    };
    open().map_err(|error| FileError::read(path, error))
}
