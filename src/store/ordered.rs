//! What [`Embedded`](super::Embedded) needs of an engine: an ordered map of bytes with atomic batches.

use super::StoreError;

/// A key and what it becomes: a value, or nothing.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes. Called from one thread.
///
/// # Errors
/// Every operation fails with [`StoreError::Engine`] when the engine does.
pub trait OrderedMap: Send {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// All pairs from `from` up to, but not including, `to`, in order of keys.
    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a>;

    /// Applies all changes or none.
    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Returns once everything written survives a loss of power.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Bytes on disk; 0 for an engine without.
    fn disk_bytes(&self) -> u64;

    /// Bytes that are free where the engine keeps its files; `None` for an engine without, or where nobody can tell.
    fn disk_free(&self) -> Option<u64>;
}
