//! What [`Embedded`](super::Embedded) needs of an engine: an ordered map of bytes with atomic batches.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::StoreError;

/// A key and what it becomes: a value, or nothing.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// What a commit that returned survives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Durability {
    /// A loss of power: the engine flushes and the operating system has the disk keep it (`fdatasync`).
    Durable,
    /// The end of the process, `kill -9` included: the engine hands everything to the operating system.
    Process,
    /// Nothing by itself: answers are given from memory and the commit follows behind. An engine syncs it as
    /// [`Durability::Process`].
    Fast,
}

/// An ordered map of bytes. Called from one thread.
///
/// # Errors
/// Every operation fails with [`StoreError::Engine`] when the engine fails for a cause that may pass, and with
/// [`StoreError::Damaged`] when its files are not what it wrote. After a failed `write` or `sync` it is open which of
/// the changes since the last successful `sync` are there: whoever called writes them again. That is harmless, because
/// a change states what a key becomes, not how it differs.
pub trait OrderedMap: Send {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All pairs from `from` up to, but not including, `to`, in order of keys.
    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a>;

    /// The same pairs in the opposite order.
    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a>;

    /// Applies all changes or none, whatever happens to process or power.
    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Returns once everything written survives what the level says.
    fn sync(&mut self, level: Durability) -> Result<(), StoreError>;

    /// Bytes that its files occupy on disk; 0 for an engine without files.
    fn disk_bytes(&self) -> u64;

    /// Bytes that are free where the engine keeps its files; `None` for an engine without, or where nobody can tell.
    fn disk_free(&self) -> Option<u64>;
}

impl<M: OrderedMap + ?Sized> OrderedMap for Box<M> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(key)
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        (**self).range(from, to)
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        (**self).range_back(from, to)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        (**self).write(changes)
    }

    fn sync(&mut self, level: Durability) -> Result<(), StoreError> {
        (**self).sync(level)
    }

    fn disk_bytes(&self) -> u64 {
        (**self).disk_bytes()
    }

    fn disk_free(&self) -> Option<u64> {
        (**self).disk_free()
    }
}

/// Bytes that a folder occupies on disk: blocks, not lengths, because engines leave holes and round up. What vanishes
/// meanwhile counts nothing.
pub(super) fn occupied_bytes(folder: &Path) -> u64 {
    const BLOCK: u64 = 512;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => occupied_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * BLOCK,
            Err(_) => 0,
        })
        .sum()
}

/// Bytes that are free for this process where a folder lies; `None` where the system does not tell.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(folder).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}
