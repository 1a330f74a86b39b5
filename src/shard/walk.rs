//! Sending a broadcast to everybody here who is owed it, in the order of slots, in bounded steps.

use std::sync::Arc;
use std::time::Instant;

use petrel_core::{Push, Route};
use petrel_protocol::Ordinal;
use petrel_quic::ShardCore;

use super::Shard;
use super::session::Session;
use crate::delivery::Broadcast;

/// Slots looked at in one turn.
const SLOTS_PER_STEP: usize = 1024;

/// Frames sent in one turn: receives, acks and urgent unicasts interleave after each.
const SENDS_PER_STEP: usize = 128;

/// An audience below a fraction of the sessions is looked up device by device.
const SMALL_AUDIENCE_DIVISOR: u64 = 8;

/// A broadcast on its way over this shard.
pub(super) struct Walk {
    broadcast: Arc<Broadcast>,
    /// Which slots to visit; `None` for all of them.
    slots: Option<Vec<u32>>,
    next: usize,
    sent: u64,
    is_begun: bool,
}

impl Walk {
    pub(super) fn new(broadcast: Arc<Broadcast>) -> Self {
        Self {
            broadcast,
            slots: None,
            next: 0,
            sent: 0,
            is_begun: false,
        }
    }
}

impl Shard {
    /// Takes one step of the oldest walk; whether there is more to walk.
    pub(super) fn walk_step(&mut self, core: &mut ShardCore, now: Instant) -> bool {
        let Some(mut walk) = self.walks.pop_front() else {
            return false;
        };
        if !walk.is_begun {
            walk.is_begun = true;
            walk.slots = self.slots_of(&walk.broadcast);
        }
        let end = walk.slots.as_ref().map_or(self.sessions.len(), Vec::len);
        let step_end = end.min(walk.next + SLOTS_PER_STEP);
        let mut sends = 0;
        while walk.next < step_end && sends < SENDS_PER_STEP {
            let slot = match &walk.slots {
                Some(slots) => slots[walk.next] as usize,
                None => walk.next,
            };
            walk.next += 1;
            let Some(conn) = self
                .sessions
                .get(slot)
                .and_then(|s| s.as_ref())
                .map(|s| s.conn)
            else {
                continue;
            };
            let mut is_sent = false;
            self.with_session(core, conn, |shard, core, session| {
                is_sent = shard.walk_to(core, session, &walk.broadcast, now);
            });
            if is_sent {
                sends += 1;
                walk.sent += 1;
            }
        }
        if walk.next < end {
            self.walks.push_front(walk);
        } else {
            self.delivery.walked(&walk.broadcast, walk.sent);
            self.sequencer.finished(self.id);
        }
        !self.walks.is_empty()
    }

    /// The slots of a small audience, in order.
    fn slots_of(&self, broadcast: &Broadcast) -> Option<Vec<u32>> {
        let owed = broadcast.owed_set();
        if owed.len() * SMALL_AUDIENCE_DIVISOR > self.session_count as u64 {
            return None;
        }
        let presence = self.delivery.presence();
        let mut slots: Vec<u32> = owed
            .iter()
            .filter_map(|device| presence.find(Ordinal(device)))
            .filter(|place| place.shard == self.id)
            .map(|place| place.conn.slot)
            .collect();
        slots.sort_unstable();
        Some(slots)
    }

    fn walk_to(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        broadcast: &Broadcast,
        now: Instant,
    ) -> bool {
        let Some(device) = session.attached() else {
            return false;
        };
        if !broadcast.is_owed_to(device.ordinal) {
            return false;
        }
        let message = &broadcast.message;
        if message.options(device.platform).urgency < session.minimum_urgency {
            return false;
        }
        let is_now_or_never = message.is_now_or_never(device.platform);
        if !is_now_or_never && message.is_expired(device.platform, self.delivery.now()) {
            self.delivery.expire_for(broadcast, device.ordinal);
            return false;
        }
        let route = if broadcast.is_transient() {
            Route::Transient
        } else {
            Route::Broadcast
        };
        // A device that changes its place during the walks is met twice.
        if broadcast.is_transient() && !broadcast.take(device.ordinal) {
            return false;
        }
        let frame = message.frame(device.platform);
        let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let window = self.delivery.settings().window;
        match session.outbox.push(message.id, route, bytes, window, now) {
            Push::Send => {
                self.send(core, session, frame);
                true
            }
            Push::Known => false,
            Push::Later => {
                self.scan(core, session, now);
                false
            }
        }
    }
}
