//! The directory, its lock and its files, on a real file system. Certificates have tests of their own.

mod directory;
mod keys;
mod ready;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{DataDir, DataDirError};

/// A data directory inside a temporary one.
struct Scratch {
    path: PathBuf,
    _parent: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        Self {
            path: parent.path().canonicalize().unwrap().join("data"),
            _parent: parent,
        }
    }

    fn open(&self) -> Result<DataDir, DataDirError> {
        DataDir::open(&self.path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
