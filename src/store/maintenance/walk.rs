//! Going through all pairs of a map, in bounded memory.

use crate::store::{OrderedMap, Pair, StoreError};

/// Below all keys: the first byte of a key is its kind.
pub(super) const FIRST: &[u8] = &[];

/// Above all keys: kinds are letters.
pub(super) const END: &[u8] = &[0xFF];

/// How many pairs pass between two reports of progress.
const REPORT: u64 = 1024;

/// How far a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Seen {
    /// Pairs so far.
    pub pairs: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

impl Seen {
    /// Counts a pair.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.pairs += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }

    /// Whether it is time to tell.
    pub(super) fn is_due(&self) -> bool {
        self.pairs.is_multiple_of(REPORT)
    }
}

/// Most of one slice: whichever is reached first. A slice holds at least one pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) pairs: usize,
    pub(super) bytes: usize,
}

/// What a batch of the engines bears well.
pub(super) const SLICE: Most = Most {
    pairs: 256,
    bytes: 1024 * 1024,
};

/// Pairs in order of keys, and where the next slice begins; `None` where these were the last.
pub(super) struct Slice {
    pub(super) pairs: Vec<Pair>,
    pub(super) next: Option<Vec<u8>>,
}

/// The pairs from a key on.
pub(super) fn slice(map: &dyn OrderedMap, from: &[u8], most: Most) -> Result<Slice, StoreError> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut bytes = 0;
    for pair in map.range(from, END) {
        let (key, value) = pair?;
        bytes += key.len() + value.len();
        pairs.push((key, value));
        if pairs.len() >= most.pairs || bytes >= most.bytes {
            let next = pairs.last().map(|(key, _)| successor(key));
            return Ok(Slice { pairs, next });
        }
    }
    Ok(Slice { pairs, next: None })
}

/// The smallest key above.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}
