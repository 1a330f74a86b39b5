//! Compaction: all pairs into a fresh database, which takes the place of the old one.

use std::path::Path;

use super::place::{directory_bytes, require_space};
use super::swap::{self, Places};
use super::walk::{self, SLICE, Seen};
use super::{MaintenanceError, Opener, Progress};
use crate::store::{Change, Durability, OrderedMap, StoreError};

/// How many pairs are written between two syncs, so that little is dirty at a time.
const SYNC_EVERY: u64 = 65_536;

/// What a fresh database takes beside its pairs, at most: segments and preallocation.
const FRESH_BYTES: u64 = 64 * 1024 * 1024;

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Compacted {
    /// Bytes on disk before.
    pub before_bytes: u64,
    /// Bytes on disk after.
    pub after_bytes: u64,
    /// What was copied.
    pub live: Seen,
}

/// Rewrites the store of a data directory, whose lock the caller holds. Values are copied as they are, unreadable ones
/// too. A kill at any moment leaves the old store or the new one.
///
/// # Errors
/// There is no store, no room for a second one, or the engine fails; the old store stays then.
pub fn compact(
    data_dir: &Path,
    open: Opener<'_>,
    progress: Progress<'_>,
) -> Result<Compacted, MaintenanceError> {
    let places = Places::of(data_dir);
    if !places.db.is_dir() {
        return Err(MaintenanceError::NoStore(data_dir.to_owned()));
    }
    let before_bytes = directory_bytes(&places.db);
    let old = open(&places.db)?;
    if require_space(data_dir, before_bytes).is_err() {
        // No room for what there is; perhaps for what is alive of it. Twice, because an engine may write a page again.
        let live = measure(&*old, progress)?;
        require_space(data_dir, live.bytes * 2 + FRESH_BYTES)?;
    }
    let copied = rewrite(&*old, &places.tmp, open, progress);
    drop(old);
    let live = match copied {
        Ok(live) => live,
        Err(error) => {
            // What failed is told, not what could not be cleared away: the next command tries that again.
            let _ = swap::remove_all(&places.tmp);
            return Err(error);
        }
    };
    swap::swap_in(data_dir)?;
    Ok(Compacted {
        before_bytes,
        after_bytes: directory_bytes(&places.db),
        live,
    })
}

fn measure(map: &dyn OrderedMap, progress: Progress<'_>) -> Result<Seen, StoreError> {
    let mut seen = Seen::default();
    for pair in map.range(walk::FIRST, walk::END) {
        let (key, value) = pair?;
        seen.add(&key, &value);
        if seen.is_due() {
            progress(seen);
        }
    }
    Ok(seen)
}

fn rewrite(
    from: &dyn OrderedMap,
    to: &Path,
    open: Opener<'_>,
    progress: Progress<'_>,
) -> Result<Seen, MaintenanceError> {
    swap::remove_all(to)?;
    let mut fresh = open(to)?;
    let seen = copy(from, &mut *fresh, progress)?;
    fresh.sync(Durability::Durable)?;
    Ok(seen)
}

/// Copies all pairs. Not synced at the end.
pub(super) fn copy(
    from: &dyn OrderedMap,
    to: &mut dyn OrderedMap,
    progress: Progress<'_>,
) -> Result<Seen, StoreError> {
    let mut seen = Seen::default();
    let mut synced = 0;
    let mut next = Some(walk::FIRST.to_vec());
    while let Some(start) = next {
        let slice = walk::slice(from, &start, SLICE)?;
        let changes: Vec<Change> = slice
            .pairs
            .into_iter()
            .map(|(key, value)| {
                seen.add(&key, &value);
                (key, Some(value))
            })
            .collect();
        to.write(&changes)?;
        if seen.pairs - synced >= SYNC_EVERY {
            synced = seen.pairs;
            to.sync(Durability::Durable)?;
        }
        progress(seen);
        next = slice.next;
    }
    Ok(seen)
}
