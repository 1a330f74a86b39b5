//! What only a hostile peer needs: packets of any frames, and a look at how much a connection holds. For the fuzz targets
//! of `sim::hostile`.

use super::{active::RETIREMENTS_MAX, protect::PacketStart, record::Record, recovery::SENT_MAX};
use crate::Limits;

/// How much hangs off a connection that somebody else may want to grow.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    sent: usize,
    held_to_send: u64,
    held_to_read: usize,
    announce: usize,
    retire: usize,
}

impl Load {
    /// Panics if it is more than a connection may hold, whose application sends at most `chunk_bytes` at once.
    pub(crate) fn assert_bounded(self, limits: &Limits, chunk_bytes: u64) {
        // Challenges, probes and the end pass the bound; they are rare.
        assert!(self.sent <= SENT_MAX + 64, "{self:?}");
        let send_window = u64::from(limits.send_window_bytes);
        assert!(self.held_to_send < send_window + chunk_bytes, "{self:?}");
        let receive_window = limits.receive_window_bytes as usize;
        assert!(self.held_to_read <= receive_window, "{self:?}");
        assert!(self.announce <= SENT_MAX, "{self:?}");
        // The last one ends the connection, unless it was our own.
        assert!(self.retire <= RETIREMENTS_MAX + SENT_MAX, "{self:?}");
    }
}

impl Record {
    /// The next packet of this end, with any frames at all.
    pub(crate) fn forge(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let id = self.cold.remote_id.id();
        let acked = self.cold.largest_acked;
        let start = PacketStart::write(&mut out, id, self.next_number, acked, self.key_phase);
        self.next_number += 1;
        out.extend_from_slice(frames);
        start.finish(&mut out, &self.tx.key, &self.tx.header, 0);
        out
    }

    /// From now on forges with the keys of the next phase.
    pub(crate) fn forge_key_update(&mut self) {
        let _ = self.tx.update();
        self.key_phase = !self.key_phase;
    }

    pub(crate) fn load(&self) -> Load {
        self.active
            .as_deref()
            .map_or(Load::default(), |active| Load {
                sent: active.sent.len(),
                held_to_send: active.send.held(),
                held_to_read: active.reassembly.held(),
                announce: active.pending.announce.len(),
                retire: active.pending.retire.len(),
            })
    }
}
