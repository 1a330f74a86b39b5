//! A restored or imported store begins a new life: ids of messages carry its epoch, so that none is ever used twice.

use super::kinds;
use crate::store::{Change, Durability, OrderedMap, StoreError, layout};

/// Marks a copy that was never served. It is taken away by the first start, so that a copy restored twice begins two
/// different lives.
const RESTORED: &str = "restored";

/// Ordinals that a new life passes over, at least. What was registered after the copy was made holds tokens with
/// ordinals from there on; were they given out again, a server's message for one device would reach another.
const ORDINALS_SKIPPED_MIN: u32 = 65_536;

/// And at least this part of all that there were: one in eight.
const ORDINALS_SKIPPED_PART: u32 = 8;

/// A number under the meta key.
pub(super) fn meta(map: &dyn OrderedMap, name: &str) -> Result<Option<u64>, StoreError> {
    let Some(value) = map.get(&layout::meta(name))? else {
        return Ok(None);
    };
    let number = kinds::number(&value);
    number.map(Some).ok_or_else(|| StoreError::Unreadable {
        what: "number",
        problem: format!("{name}: wrong checksum or length"),
    })
}

/// The schema version of a store, 0 where it has none.
///
/// # Errors
/// It is of a newer Petrel. One that cannot be read is taken for none.
pub(super) fn known_schema(map: &dyn OrderedMap) -> Result<u32, StoreError> {
    let schema = meta(map, "schema").unwrap_or(None).unwrap_or(0);
    let found = u32::try_from(schema).unwrap_or(u32::MAX);
    if found > layout::SCHEMA {
        return Err(StoreError::NewerSchema {
            found,
            known: layout::SCHEMA,
        });
    }
    Ok(found)
}

/// The change that sets a number under a meta key.
pub(super) fn put_meta(name: &str, number: u64) -> Change {
    let value = layout::seal(&number.to_be_bytes());
    (layout::meta(name), Some(value))
}

/// An epoch above every one that the store had, and not below `at_least`.
pub(super) fn next_epoch(map: &dyn OrderedMap, at_least: u32) -> Result<u32, StoreError> {
    let old = u32::try_from(meta(map, "epoch")?.unwrap_or(0)).unwrap_or(u32::MAX);
    Ok(old.saturating_add(1).max(at_least))
}

/// The next ordinal of a new life.
pub(super) fn next_ordinal(map: &dyn OrderedMap) -> Result<u64, StoreError> {
    let next = meta(map, "next_ordinal")?.unwrap_or(0);
    let small = u32::try_from(next).unwrap_or(u32::MAX);
    let skipped = ORDINALS_SKIPPED_MIN.max(small / ORDINALS_SKIPPED_PART);
    Ok(u64::from(small.saturating_add(skipped)))
}

/// Marks a copy, so that its first start begins a new life. Its epoch is a new one at once all the same.
pub(super) fn mark_restored(map: &mut dyn OrderedMap, at_least: u32) -> Result<u32, StoreError> {
    let epoch = next_epoch(map, at_least)?;
    map.write(&[
        put_meta("epoch", u64::from(epoch)),
        put_meta(RESTORED, u64::from(epoch)),
    ])?;
    Ok(epoch)
}

/// Begins a new life where the store is a backup that was never served: a new epoch, at least `at_least` (such as the
/// time in seconds), and a gap in the ordinals. Returns the epoch. To be called by whoever opens a store to serve it,
/// before it is read.
///
/// # Errors
/// The engine fails, or what the new life follows from is unreadable.
pub fn begin_life_if_restored(
    map: &mut dyn OrderedMap,
    at_least: u32,
) -> Result<Option<u32>, StoreError> {
    if map.get(&layout::meta(RESTORED))?.is_none() {
        return Ok(None);
    }
    known_schema(map)?;
    let epoch = next_epoch(map, at_least)?;
    let ordinal = next_ordinal(map)?;
    map.write(&[
        put_meta("epoch", u64::from(epoch)),
        put_meta("next_ordinal", ordinal),
        (layout::meta(RESTORED), None),
    ])?;
    map.sync(Durability::Durable)?;
    Ok(Some(epoch))
}

/// Whether a store is a backup that was never served.
#[must_use]
pub fn is_restored(map: &dyn OrderedMap) -> bool {
    map.get(&layout::meta(RESTORED))
        .is_ok_and(|found| found.is_some())
}

/// Whether a pair belongs to one place only and is not exported.
pub(super) fn is_marker(key: &[u8]) -> bool {
    key == layout::meta(RESTORED)
}
