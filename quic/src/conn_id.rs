//! The handle by which the application names a connection.

use std::fmt;

/// Names one connection of one shard.
///
/// A slot is used again after its connection is gone, with the next generation. A stale `ConnId` is harmless
/// everywhere: it matches nothing.
///
/// It has no meaning on the wire and none in another shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Position in the shard's slab, dense from 0. Walking connections in slot order is kind to the cache.
    pub slot: u32,
    /// How often the slot had been used before, from 1 on. Wraps after 2^32 uses.
    pub generation: u32,
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}v{}", self.slot, self.generation)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
