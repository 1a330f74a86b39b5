//! Sets of devices, written in pieces.

use std::collections::BTreeMap;

use petrel_protocol::MessageId;
use roaring::RoaringBitmap;

use super::super::ordered::OrderedMap;
use super::super::staged::Staged;
use super::super::{StoreError, layout};

/// Stages a set in place of the one that was there.
pub(in super::super) fn put<M: OrderedMap>(
    map: &mut Staged<M>,
    kind: u8,
    id: MessageId,
    set: &RoaringBitmap,
) -> Result<(), StoreError> {
    // Ordinals are dense, and so are most audiences: runs take a few bytes where bits take 128 KiB for a million.
    let mut set = set.clone();
    set.optimize();
    let mut bytes = Vec::with_capacity(set.serialized_size());
    // Writing to a vector cannot fail.
    let _ = set.serialize_into(&mut bytes);
    let pieces = bytes.chunks(layout::PIECE);
    // What a longer one left behind; read before anything is staged, so that a failure stages nothing.
    let mut end = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
    let first_left = end;
    while map.get(&layout::piece(kind, id, end))?.is_some() {
        end += 1;
    }
    for (number, piece) in (0_u16..).zip(pieces) {
        map.put(layout::piece(kind, id, number), layout::seal(piece));
    }
    for number in first_left..end {
        map.remove(layout::piece(kind, id, number));
    }
    Ok(())
}

/// Stages the end of a set.
pub(super) fn remove<M: OrderedMap>(
    map: &mut Staged<M>,
    kind: u8,
    id: MessageId,
) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    let (from, to) = layout::piece_range(kind, id);
    map.visit(&from, &to, |key, _| {
        keys.push(key.to_vec());
        std::ops::ControlFlow::Continue(())
    })?;
    for key in keys {
        map.remove(key);
    }
    Ok(())
}

/// Sets that are being put together from their pieces, which come in order.
#[derive(Default)]
pub(super) struct Pieces {
    sets: BTreeMap<MessageId, Option<(u16, Vec<u8>)>>,
}

impl Pieces {
    /// Takes the next piece; `None` if it cannot be read. Its set is lost then.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (id, number) = layout::piece_of(key)?;
        let set = self.sets.entry(id).or_insert_with(|| Some((0, Vec::new())));
        let piece = layout::open(value);
        match (set.as_mut(), piece) {
            (Some((next, bytes)), Some(piece)) if *next == number => {
                bytes.extend_from_slice(piece);
                *next = next.saturating_add(1);
                Some(())
            }
            _ => {
                *set = None;
                None
            }
        }
    }

    /// The sets that could be read whole.
    pub(super) fn finish(self) -> BTreeMap<MessageId, RoaringBitmap> {
        self.sets
            .into_iter()
            .filter_map(|(id, set)| {
                let (_, bytes) = set?;
                Some((id, RoaringBitmap::deserialize_from(bytes.as_slice()).ok()?))
            })
            .collect()
    }
}
