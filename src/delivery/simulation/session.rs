//! One session of the played shard.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use petrel_core::{Outbox, UnixMillis};
use petrel_protocol::{MessageId, Urgency};
use petrel_quic::ConnId;

use super::device::deadline;
use crate::delivery::{Batch, Delivery};
use crate::directory::Device;

/// One session, with the frames that are on their way to its device.
pub(super) struct Session {
    pub(super) conn: ConnId,
    /// Which of the world's devices.
    pub(super) owner: usize,
    pub(super) device: Option<Device>,
    pub(super) is_open: bool,
    pub(super) minimum_urgency: Urgency,
    pub(super) outbox: Outbox,
    pub(super) wire: VecDeque<Bytes>,
    sent: BTreeSet<MessageId>,
    pub(super) asked_at: UnixMillis,
}

impl Session {
    pub(super) fn new(conn: ConnId, owner: usize, minimum_urgency: Urgency, now: Instant) -> Self {
        Self {
            conn,
            owner,
            device: None,
            is_open: true,
            minimum_urgency,
            outbox: Outbox::new(now),
            wire: VecDeque::new(),
            sent: BTreeSet::new(),
            asked_at: UnixMillis(0),
        }
    }

    pub(super) fn attached(&self) -> Option<Device> {
        self.device.filter(|_| self.is_open)
    }

    pub(super) fn send(&mut self, id: MessageId, frame: Bytes) {
        assert!(self.sent.insert(id), "{id} was sent twice on one session");
        self.wire.push_back(frame);
    }
}

/// Sends what a scan found, as far as the window goes.
pub(super) fn offer(session: &mut Session, batch: Batch, delivery: &Delivery, now: Instant) {
    let window = delivery.settings().window;
    assert!(
        batch.items.is_sorted_by(|a, b| a.id < b.id),
        "a scan is in order"
    );
    for item in batch.items {
        let bytes = u32::try_from(item.frame.len()).unwrap();
        if session
            .outbox
            .offer(item.id, item.route, bytes, window, now)
        {
            if let Some(deadline) = deadline(&item.frame) {
                assert!(deadline > session.asked_at.0, "{} had expired", item.id);
            }
            session.send(item.id, item.frame);
            assert!(session.outbox.in_flight().count() <= window.messages);
        }
    }
    session.outbox.finish_scan(batch.is_complete);
}
