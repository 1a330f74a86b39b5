//! What hangs off a record while something is under way.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;

use super::{
    protect::PacketKey, reassembly::Reassembly, recovery::Sent, send_buffer::SendBuffer,
    window::Received,
};

/// IDs of the peer that wait to be retired. A peer that makes more of them is cut off.
pub(super) const RETIREMENTS_MAX: usize = 8;

/// Entries for which a queue of a box that waits in the pool may keep memory.
pub(super) const KEPT_MAX: usize = 32;

/// Everything that a connection at rest does without. Times are in microseconds of the engine.
#[derive(Default)]
pub(crate) struct Active {
    pub(super) send: SendBuffer,
    pub(super) reassembly: Reassembly,
    /// Where the peer's half of the stream ends, if it said so before all of it came.
    pub(super) final_size: Option<u64>,
    /// Ack-eliciting packets that are neither acknowledged nor lost, in order of their numbers.
    pub(super) sent: VecDeque<Sent>,
    /// Bytes of the packets in `sent`.
    pub(super) in_flight: u32,
    /// Congestion window in bytes, and the slow start threshold (RFC 9002 §7).
    pub(super) window: u32,
    pub(super) threshold: u32,
    /// Losses of packets sent before this began count for nothing (RFC 9002 §7.3.2).
    pub(super) recovery_began: Option<u64>,
    pub(super) probe_count: u8,
    /// Packets that may be sent whatever the congestion window says (RFC 9002 §7.5).
    pub(super) probes: u8,
    pub(super) loss_at: Option<u64>,
    /// Lost bytes are not sent again before this (RFC 9002 §7.7).
    pub(super) resend_at: Option<u64>,
    /// Lost packets that may still go at once.
    pub(super) resend_burst: u8,
    /// A packet number that was left out: nobody can honestly acknowledge it (RFC 9000 §21.4).
    pub(super) skipped: Option<u64>,

    pub(super) pending: Pending,
    /// The limit at which the peer was told that it holds us up (RFC 9000 §4.1).
    pub(super) blocked_at: Option<u64>,
    /// When it is told again, should no credit come.
    pub(super) blocked_again_at: u64,
    /// An acknowledgement is due at this time at the latest (RFC 9000 §13.2.1).
    pub(super) ack_at: Option<u64>,
    /// Ack-eliciting packets received since the last acknowledgement was sent.
    pub(super) unacked: u8,
    /// When the largest packet number came; 0 if it came while nothing was under way.
    pub(super) largest_at: u64,

    /// Of the last key phase, until the packets on their way have come (RFC 9001 §6.5).
    pub(super) old_key: Option<OldKey>,
    pub(super) path: Option<Box<PathCheck>>,
    /// The last PATH_CHALLENGE received, where it came from, and how many bytes may answer it (RFC 9000 §8.2.2).
    pub(super) path_response: Option<(SocketAddr, [u8; 8], usize)>,
    pub(super) closing: Option<Box<Closing>>,
}

/// What is to be sent beside the stream.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) ping: bool,
    /// MAX_DATA and MAX_STREAM_DATA.
    pub(super) credit: bool,
    pub(super) challenge: bool,
    /// Sequence numbers of our IDs that the peer has to learn.
    pub(super) announce: Vec<u32>,
    /// The one of them that the peer was never told: it cannot honestly retire it.
    pub(super) unsaid: Option<u32>,
    /// Sequence numbers of the peer's IDs to be retired.
    pub(super) retire: Vec<u32>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        !(self.ping || self.credit || self.challenge)
            && self.announce.is_empty()
            && self.retire.is_empty()
    }
}

/// The receive key of the last key phase.
pub(super) struct OldKey {
    pub(super) key: PacketKey,
    /// Smallest number of a packet in the new phase; `None` as long as none has come.
    pub(super) new_from: Option<u64>,
    /// Dropped at this time; not set before a packet of the new phase has come.
    pub(super) expires_at: Option<u64>,
}

/// A new address of the peer that has not been proven yet (RFC 9000 §8.2, §9.3).
pub(super) struct PathCheck {
    pub(super) challenge: [u8; 8],
    /// Where the peer was before and at which address of ours, to go back to (RFC 9000 §9.3.2).
    pub(super) previous: SocketAddr,
    pub(super) previous_local: Option<IpAddr>,
    /// A challenge was sent in a datagram below full size: its response proves the address, but not that full
    /// datagrams arrive (RFC 9000 §8.2.1).
    pub(super) was_small: bool,
    /// The address is proven; what is checked is the size.
    pub(super) is_proven: bool,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    /// The next challenge is due; the path has failed at `fails_at`.
    pub(super) repeat_at: u64,
    pub(super) fails_at: u64,
}

impl PathCheck {
    /// Bytes that may be sent to an address that is not proven (RFC 9000 §8.1).
    pub(super) fn allowance(&self) -> u64 {
        if self.is_proven {
            return u64::MAX;
        }
        (3 * self.received_bytes).saturating_sub(self.sent_bytes)
    }
}

/// Words of parting.
pub(super) struct Closing {
    pub(super) is_application: bool,
    pub(super) code: u64,
    pub(super) frame: u64,
    pub(super) reason: Bytes,
    pub(super) is_pending: bool,
    /// Packets received since; each power of two is answered (RFC 9000 §10.2.1).
    pub(super) heard: u32,
    pub(super) ends_at: u64,
}

impl Active {
    /// Makes a used one ready for another connection. Memory of its queues is kept, unless it grew large.
    pub(super) fn renew(&mut self) {
        let mut sent = std::mem::take(&mut self.sent);
        let mut send = std::mem::take(&mut self.send);
        sent.clear();
        if sent.capacity() > KEPT_MAX {
            sent = VecDeque::new();
        }
        send.restart(0);
        if send.capacity() > KEPT_MAX {
            send = SendBuffer::default();
        }
        *self = Self {
            sent,
            send,
            ..Self::default()
        };
    }

    /// See [`Record::touch`](super::Record::touch).
    pub(super) fn touch(&self) -> u64 {
        let queue = self.sent.front().map_or(0, |sent| sent.number);
        let few = u64::from(self.probe_count) ^ u64::from(self.window);
        self.ack_at.unwrap_or(0) ^ self.blocked_again_at ^ queue ^ few
    }

    /// Whether nothing is under way any more.
    pub(super) fn is_at_rest(&self) -> bool {
        self.send.is_empty()
            && self.sent.is_empty()
            && self.reassembly.is_empty()
            && self.final_size.is_none()
            && self.pending.is_empty()
            && self.ack_at.is_none()
            && self.old_key.is_none()
            && self.path.is_none()
            && self.path_response.is_none()
            && self.closing.is_none()
    }

    /// Notes that a packet was received which has to be acknowledged, at once or after `delay` at the latest.
    pub(super) fn owe_ack(&mut self, now: u64, is_urgent: bool, delay: u64) {
        self.unacked = self.unacked.saturating_add(1);
        let at = if is_urgent || self.unacked >= 2 {
            now
        } else {
            now + delay
        };
        self.ack_at = Some(self.ack_at.map_or(at, |other| other.min(at)));
    }

    /// An acknowledgement of everything in `received` goes out.
    pub(super) fn put_ack(&mut self, out: &mut Vec<u8>, received: Received, now: u64) {
        let delay = now.saturating_sub(self.largest_at) >> super::ACK_DELAY_EXPONENT;
        super::frame::put_ack(out, received.largest, received.mask, delay);
        self.ack_at = None;
        self.unacked = 0;
    }
}
