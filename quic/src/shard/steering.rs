//! What the core counts of datagrams that its siblings own.

use super::ShardCore;

impl ShardCore {
    /// The driver tells that a datagram of a sibling came to this shard's socket, and whether the sibling took it.
    pub(crate) fn note_forwarded(&mut self, was_taken: bool) {
        if was_taken {
            self.stats.forwarded_total += 1;
        } else {
            self.stats.forwards_dropped_total += 1;
        }
    }

    /// The driver tells how many datagrams of this shard its siblings handed over.
    pub(crate) fn note_handed_over(&mut self, datagrams: usize) {
        self.stats.handed_over_total += datagrams as u64;
    }
}
