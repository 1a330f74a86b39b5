//! State in one file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use petrel_protocol::MessageId;

use super::index::Index;
use super::journal::{self, HEADER, Id, Kept, Line};
use super::{InboxRecord, Storage, StorageError, StoredState};

/// So many dead lines, and more dead than live ones, make the next write compact the file.
const DEAD_LINES_MAX: usize = 1000;

/// What an acknowledged message survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// The end of the process and a power cut: each write is synced to the disk (`fdatasync`) before it counts.
    #[default]
    PowerCut,
    /// The end of the process, killed or not. A power cut or a crash of the system may lose what the system had not
    /// written yet. For disks on which a sync costs more than the messages are worth.
    ProcessEnd,
}

/// Keeps state in one file of JSON lines, readable by its owner only (0600).
///
/// Messages and the registration are appended and synced before they count ([`Durability`]); `done` is appended and
/// not synced, so a power cut may bring a message again. A tail torn by a crash is cut off at the next opening. When
/// more than 1,000 lines are dead the file is written anew beside itself (`.tmp`) and renamed into place. A second
/// file (`.lock`) is locked as long as this value lives, and stays there.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    file: File,
    /// Held, never read: closing it frees the lock. A file of its own because the state file changes identity
    /// whenever it is compacted.
    _lock: File,
    index: Index,
    /// Bytes of whole lines.
    len: u64,
    /// A write failed half-way: what is beyond `len` must go before the next one.
    torn: bool,
    durability: Durability,
}

impl FileStorage {
    /// Opens the file, or makes it and its folder, with [`Durability::PowerCut`]. Blocks while it reads.
    ///
    /// # Errors
    /// [`StorageError::InUse`] while another client has it, [`StorageError::Format`] if it is something else: then it
    /// is left as it is. [`StorageError::Io`] for what the system says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        Self::open_with(path, Durability::PowerCut)
    }

    /// As [`FileStorage::open`], with a durability of the caller's choice.
    ///
    /// # Errors
    /// As [`FileStorage::open`].
    pub fn open_with(path: impl AsRef<Path>, durability: Durability) -> Result<Self, StorageError> {
        let path = path.as_ref().to_path_buf();
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| failed("make the folder", folder, e))?;
        }
        let lock = lock(&path)?;
        let mut file = open_private(&path, false).map_err(|e| failed("open", &path, e))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| failed("read", &path, e))?;
        let mut index = Index::default();
        let whole = journal::replay(&bytes, |line, at, bytes| index.apply(&line, at, bytes))
            .map_err(|corrupt| StorageError::Format {
                path: path.clone(),
                line: corrupt.line,
                problem: corrupt.problem,
            })?;
        let mut storage = Self {
            path,
            file,
            _lock: lock,
            index,
            len: whole,
            torn: whole < bytes.len() as u64,
            durability,
        };
        if whole == 0 {
            storage.write(HEADER.as_bytes(), true)?;
            sync_folder(&storage.path);
        }
        Ok(storage)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, bytes: &[u8], sync: bool) -> Result<(), StorageError> {
        if self.torn {
            self.file
                .set_len(self.len)
                .map_err(|e| failed("cut a torn tail off", &self.path, e))?;
        }
        // Until all is done, whatever is beyond `len` is not ours.
        self.torn = true;
        self.file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|e| failed("write", &self.path, e))?;
        if sync && self.durability == Durability::PowerCut {
            self.file
                .sync_data()
                .map_err(|e| failed("sync", &self.path, e))?;
        }
        self.torn = false;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The line at `offset`, without its line break.
    fn read_line(&mut self, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let mut line = vec![0; bytes as usize];
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut line)?;
        Ok(line)
    }

    fn compact_if_due(&mut self) {
        let live = self.index.live_by_offset.len();
        if self.index.dead <= DEAD_LINES_MAX.max(live) {
            return;
        }
        if let Err(error) = self.compact() {
            // Nothing is lost: the file is as it was. The next try comes after as many dead lines again.
            tracing::debug!(%error, "compaction of the state file failed");
            self.index.dead = 0;
        }
    }

    /// Writes what is alive into a new file and renames it into place.
    fn compact(&mut self) -> Result<(), StorageError> {
        let path = with_suffix(&self.path, ".tmp");
        let mut fresh = open_private(&path, true).map_err(|e| failed("open", &path, e))?;
        let mut index = Index::default();
        let mut out = HEADER.as_bytes().to_vec();
        let encoding = |e: serde_json::Error| StorageError::Other(e.to_string());

        if let Some(text) = self.index.registration.take() {
            let line = journal::body(&text).map_err(StorageError::Other);
            self.index.registration = Some(text.clone());
            journal::encode(&Line::Registration(line?), &mut out).map_err(encoding)?;
            index.register(&text);
        }
        let recent: Vec<Id> = self
            .index
            .recent
            .iter()
            .filter(|id| !self.index.is_live(**id))
            .map(|id| Id(*id))
            .collect();
        let recent = Line::Recent(recent);
        journal::encode(&recent, &mut out).map_err(encoding)?;
        index.apply(&recent, 0, 0);
        for (offset, place) in self.index.live_by_offset.clone() {
            let line = self
                .read_line(offset, place.bytes)
                .map_err(|e| failed("read", &self.path, e))?;
            index.keep(place.id, out.len() as u64, place.bytes);
            out.extend_from_slice(&line);
        }
        fresh
            .write_all(&out)
            .and_then(|()| fresh.sync_all())
            .map_err(|e| failed("write", &path, e))?;
        std::fs::rename(&path, &self.path).map_err(|e| failed("replace", &self.path, e))?;
        sync_folder(&self.path);
        self.file = fresh;
        self.index = index;
        self.len = out.len() as u64;
        self.torn = false;
        Ok(())
    }
}

impl Storage for FileStorage {
    fn load(&mut self) -> Result<StoredState, StorageError> {
        let mut inbox = Vec::with_capacity(self.index.live_by_offset.len());
        for (offset, place) in self.index.live_by_offset.clone() {
            let bytes = self
                .read_line(offset, place.bytes)
                .map_err(|e| failed("read", &self.path, e))?;
            // It was parsed when the file was opened, and nobody else writes to it.
            let Ok(Line::Kept(kept)) = serde_json::from_slice(&bytes) else {
                let problem = format!("the file was changed at byte {offset} while in use");
                return Err(StorageError::Other(problem));
            };
            inbox.push(InboxRecord {
                id: place.id,
                body: kept.body.get().to_owned(),
            });
        }
        Ok(StoredState {
            registration: self.index.registration.clone(),
            inbox,
            recent: self.index.recent.iter().copied().collect(),
        })
    }

    fn save_registration(&mut self, registration: &str) -> Result<(), StorageError> {
        let body = journal::body(registration).map_err(StorageError::Other)?;
        let mut out = zeroize::Zeroizing::new(Vec::new());
        journal::encode(&Line::Registration(body), &mut out)
            .map_err(|e| StorageError::Other(e.to_string()))?;
        self.write(&out, true)?;
        self.index.register(registration);
        self.compact_if_due();
        Ok(())
    }

    fn append(&mut self, records: &[InboxRecord]) -> Result<(), StorageError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let body = journal::body(&record.body).map_err(StorageError::Other)?;
            let start = out.len();
            let id = Id(record.id);
            journal::encode(&Line::Kept(Kept { id, body }), &mut out)
                .map_err(|e| StorageError::Other(e.to_string()))?;
            places.push((record.id, start as u64, (out.len() - start) as u32));
        }
        let at = self.len;
        self.write(&out, true)?;
        for (id, start, bytes) in places {
            self.index.keep(id, at + start, bytes);
        }
        self.compact_if_due();
        Ok(())
    }

    fn done(&mut self, ids: &[MessageId]) -> Result<(), StorageError> {
        let live: Vec<MessageId> = ids
            .iter()
            .copied()
            .filter(|id| self.index.is_live(*id))
            .collect();
        if live.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        journal::encode(
            &Line::Done(live.iter().map(|id| Id(*id)).collect()),
            &mut out,
        )
        .map_err(|e| StorageError::Other(e.to_string()))?;
        self.write(&out, false)?;
        self.index.done(live);
        Ok(())
    }

    /// Rewrites the file at once, so that the secret does not stay on the disk.
    fn forget(&mut self) -> Result<(), StorageError> {
        let former = std::mem::take(&mut self.index);
        self.compact().inspect_err(|_| self.index = former)
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let lock_path = with_suffix(path, ".lock");
    let lock = open_private(&lock_path, false).map_err(|e| failed("open", &lock_path, e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &lock_path, error)),
    }
}

fn open_private(path: &Path, truncate: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(truncate);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

/// Makes a new name survive a power cut. Where folders cannot be synced there is nothing to do about it.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}
