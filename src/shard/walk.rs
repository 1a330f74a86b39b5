//! Sending a broadcast to everybody here who is owed it, in the order of slots, in bounded steps.

use std::sync::Arc;
use std::time::Instant;

use petrel_core::{Push, Route};
use petrel_protocol::Ordinal;
use petrel_quic::{FanOut, ShardCore, Slots, Step};

use super::Shard;
use super::session::Session;
use crate::delivery::Broadcast;

/// An audience below a fraction of the sessions is looked up device by device.
const SMALL_AUDIENCE_DIVISOR: u64 = 8;

/// A broadcast on its way over this shard.
pub(super) struct Walk {
    broadcast: Arc<Broadcast>,
    /// `None` before the first step: the audience is that of the moment when its turn comes.
    fan_out: Option<FanOut>,
}

impl Walk {
    pub(super) fn new(broadcast: Arc<Broadcast>) -> Self {
        Self {
            broadcast,
            fan_out: None,
        }
    }
}

impl Shard {
    /// Takes one step of the oldest walk; whether there is more to walk at once.
    pub(super) fn walk_step(&mut self, core: &mut ShardCore, now: Instant) -> bool {
        self.is_paced = false;
        let Some(Walk { broadcast, fan_out }) = self.walks.pop_front() else {
            return false;
        };
        let mut fan_out = fan_out.unwrap_or_else(|| FanOut::new(self.slots_of(&broadcast)));
        // Taken out for the step, because acks that come meanwhile do not exist: one thread does both.
        let mut pace = std::mem::take(&mut self.pace);
        let step = fan_out.step(&mut pace, now, |slot| {
            let session = self.sessions.get(slot as usize).and_then(Option::as_ref);
            let Some(conn) = session.map(|session| session.conn) else {
                return false;
            };
            let mut is_sent = false;
            self.with_session(core, conn, |shard, core, session| {
                is_sent = shard.walk_to(core, session, &broadcast, now);
            });
            is_sent
        });
        self.pace = pace;
        if step == Step::Done {
            self.delivery.walked(&broadcast, fan_out.sent());
            self.sequencer.finished(self.id);
        } else {
            self.walks.push_front(Walk {
                broadcast,
                fan_out: Some(fan_out),
            });
        }
        self.is_paced = step == Step::Paced;
        !self.is_paced && !self.walks.is_empty()
    }

    /// All slots, or those of a small audience.
    fn slots_of(&self, broadcast: &Broadcast) -> Slots {
        let owed = broadcast.owed_set();
        if owed.len() * SMALL_AUDIENCE_DIVISOR > self.session_count as u64 {
            return Slots::Below(self.sessions.len());
        }
        let presence = self.delivery.presence();
        let mut slots: Vec<u32> = owed
            .iter()
            .filter_map(|device| presence.find(Ordinal(device)))
            .filter(|place| place.shard == self.id)
            .map(|place| place.conn.slot)
            .collect();
        slots.sort_unstable();
        Slots::These(slots)
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
            Route::TransientBroadcast
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
