//! What a shard remembers of one connected device.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use petrel_core::Outbox;
use petrel_protocol::session::BrokerSession;
use petrel_protocol::session::states::BrokerState;
use petrel_protocol::{ErrorCode, Urgency};
use petrel_quic::ConnId;

use crate::delivery::Wants;
use crate::directory::Device;

/// One session. Nothing on the heap besides itself while the device only waits.
pub(super) struct Session {
    pub(super) conn: ConnId,
    pub(super) protocol: BrokerSession,
    /// Who it is, once admitted.
    pub(super) device: Option<Device>,
    pub(super) minimum_urgency: Urgency,
    pub(super) outbox: Outbox,
    /// Frames that the connection had no room for. Bounded: deliveries by the window, answers because nothing more is
    /// read from a device that does not read.
    #[expect(
        clippy::box_collection,
        reason = "rare, and 24 bytes less for everybody else"
    )]
    unsent: Option<Box<VecDeque<Bytes>>>,
    pub(super) unsent_bytes: usize,
    pub(super) is_paused: bool,
    pub(super) acks_since_settled: u16,
    /// Acks for what was not in flight here.
    pub(super) strange_acks: u16,
    /// Requests that wait for their answer.
    pub(super) unanswered: u16,
    /// It stands in line to scan again.
    pub(super) is_scan_kept: bool,
    /// What the connection is closed with after the grace.
    pub(super) close_code: ErrorCode,
}

impl Session {
    pub(super) fn new(conn: ConnId, now: Instant) -> Self {
        Self {
            conn,
            protocol: BrokerSession::default(),
            device: None,
            minimum_urgency: Urgency::VeryLow,
            outbox: Outbox::new(now),
            unsent: None,
            unsent_bytes: 0,
            is_paused: false,
            acks_since_settled: 0,
            strange_acks: 0,
            unanswered: 0,
            is_scan_kept: false,
            close_code: ErrorCode::Goodbye,
        }
    }

    /// The device, while deliveries may be sent to it.
    pub(super) fn attached(&self) -> Option<Device> {
        self.device
            .filter(|_| self.protocol.state() == BrokerState::Attached)
    }

    pub(super) fn wants(&self, device: Device, limit: usize) -> Wants {
        Wants {
            device,
            minimum_urgency: self.minimum_urgency,
            limit,
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.unsent.is_some()
    }

    pub(super) fn push_unsent(&mut self, frame: Bytes) {
        self.unsent_bytes += frame.len();
        self.unsent.get_or_insert_default().push_back(frame);
    }

    pub(super) fn pop_unsent(&mut self) -> Option<Bytes> {
        let unsent = self.unsent.as_mut()?;
        let frame = unsent.pop_front();
        self.unsent_bytes -= frame.as_ref().map_or(0, Bytes::len);
        if unsent.is_empty() {
            self.unsent = None;
        }
        frame
    }

    pub(super) fn unpop_unsent(&mut self, frame: Bytes) {
        self.unsent_bytes += frame.len();
        self.unsent.get_or_insert_default().push_front(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_within_its_budget() {
        assert!(size_of::<Session>() <= 256, "{}", size_of::<Session>());
    }
}
