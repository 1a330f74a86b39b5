//! The data directory: what the broker keeps beside its store.
//!
//! ```text
//! lock            held while a broker runs; holds its process id
//! ready.json      where the running broker is reached; removed at a clean end
//! demo-keys.json  keys of the project that the broker makes when the configuration names none
//! keys/           secrets that outlive the process: transport, tokens, admin
//! tls/            the broker's own CA and the certificate it signs
//! db/             the store's, not touched here, nor db.mark (its witness) and db.damaged-* (set aside)
//! ```
//!
//! Every file is written whole: to a name of its own, synced, renamed, and the directory synced; a crash leaves the
//! old or the new one. What others hold or trust (a CA, a key) is never silently replaced: a damaged file is an error
//! that names it and the way out. Permissions wider than the owner's are tightened and reported. It never reads
//! the configuration file, opens no socket and logs nothing: [`DataDir::open`] gives its warnings to `main`, which
//! calls it once; the other commands only read [`Ready`].

mod demo;
mod error;
mod file;
mod keyring;
mod ready;
#[cfg(test)]
mod tests;
mod tls;

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use demo::{DEMO_PROJECT, DemoKeys};
pub use error::{DataDirError, FileError, Warning};
pub use keyring::{AdminKey, Keyring, SealingKey, SealingKeys, TransportKey};
pub use ready::{Ready, ReadyError};
pub use tls::{
    IssueReason, ServerCertificate, TLS_CA_DAYS, TLS_RENEW_BELOW_DAYS, TLS_SERVER_DAYS, TlsError,
    TlsStore,
};

const LOCK: &str = "lock";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What group and others may do.
const OTHERS: u32 = 0o077;

/// The data directory, held: no other broker can open it while this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: File,
    warnings: Vec<Warning>,
}

impl DataDir {
    /// Makes the directory where it is missing, takes its lock, and tightens permissions.
    ///
    /// A `ready.json` that a killed broker left is removed, so that nobody takes its addresses for ours.
    ///
    /// # Errors
    /// The path is not a directory, cannot be used, or is in use by another process.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(DataDirError::NotADirectory(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(path).map_err(|error| DataDirError::unusable(path, "made", error))?
            }
            Err(error) => return Err(DataDirError::unusable(path, "looked at", error)),
        }
        // Absolute, because it is handed out: others do not share our working directory.
        let path = std::fs::canonicalize(path)
            .map_err(|error| DataDirError::unusable(path, "read", error))?;
        let unusable = |error| DataDirError::unusable(&path, "written to", error);

        if is_shared(&path).map_err(|error| DataDirError::unusable(&path, "read", error))? {
            return Err(DataDirError::Shared(path));
        }
        let mut lock = open_lock(&path).map_err(unusable)?;
        take_lock(&mut lock, &path)?;
        let warnings = tighten(&path).map_err(unusable)?;
        std::fs::read_dir(&path).map_err(|error| DataDirError::unusable(&path, "read", error))?;
        ready::remove(&path).map_err(unusable)?;
        Ok(Self {
            path,
            lock,
            warnings,
        })
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store lives. Not made here.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.path.join("db")
    }

    /// What was found amiss and put right while opening; for the log, at WARN.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// A directory inside, made where it is missing.
    fn make_inside(&self, name: &str) -> Result<PathBuf, FileError> {
        let path = self.path.join(name);
        if path.is_dir() {
            return Ok(path);
        }
        make_directory(&path)
            .and_then(|()| file::sync_directory(&self.path))
            .map_err(|error| FileError::write(&path, error))?;
        Ok(path)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // So that a reader cannot take our id for that of the next holder. The lock itself ends with the file.
        let _ = self.lock.set_len(0);
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
}

/// Whether a directory that others can reach holds things of theirs. Taking their rights away would harm them: think
/// of a `--data-dir` that names the working directory or one for temporary files.
fn is_shared(directory: &Path) -> io::Result<bool> {
    const OURS: [&str; 7] = [
        demo::FILE,
        keyring::DIRECTORY,
        tls::DIRECTORY,
        ready::FILE,
        "db",
        "devices",
        "lost+found",
    ];
    if mode_of(&std::fs::metadata(directory)?) & OTHERS == 0 || directory.join(LOCK).exists() {
        return Ok(false);
    }
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn mode_of(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

fn open_lock(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(directory.join(LOCK))
}

/// Takes the lock and writes our process id into it.
fn take_lock(lock: &mut File, directory: &Path) -> Result<(), DataDirError> {
    // A command that asks whether a broker runs holds a shared lock for a moment; it must not make a start fail.
    const ATTEMPTS: u32 = 40;
    const PAUSE: Duration = Duration::from_millis(5);
    let unusable = |error| DataDirError::unusable(directory, "locked", error);
    for attempt in 1.. {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::InUse {
                    path: directory.to_owned(),
                    process: holder(lock),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
    }
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(unusable)
}

/// The process id that stands in the lock file.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a broker holds the lock of a directory, and its process id.
fn running(directory: &Path) -> io::Result<Option<Option<u32>>> {
    let mut lock = match File::open(directory.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(holder(&mut lock))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes from group and others what they may do with the directory and its secrets.
fn tighten(directory: &Path) -> io::Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    tighten_one(directory, DIRECTORY_MODE, &mut warnings)?;
    for name in [LOCK, demo::FILE, ready::FILE] {
        tighten_one(&directory.join(name), FILE_MODE, &mut warnings)?;
    }
    for name in [keyring::DIRECTORY, tls::DIRECTORY] {
        let inner = directory.join(name);
        tighten_one(&inner, DIRECTORY_MODE, &mut warnings)?;
        let entries = match std::fs::read_dir(&inner) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            // Certificates are public; an operator may copy them to where apps are built.
            if path.extension().is_some_and(|extension| extension == "key") {
                tighten_one(&path, FILE_MODE, &mut warnings)?;
            }
        }
    }
    Ok(warnings)
}

fn tighten_one(path: &Path, mode: u32, warnings: &mut Vec<Warning>) -> io::Result<()> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let found = mode_of(&metadata);
    if found & OTHERS != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        warnings.push(Warning::Tightened {
            path: path.to_owned(),
            found,
            now: mode,
        });
    }
    Ok(())
}
