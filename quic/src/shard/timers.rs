//! Timers of connections.

use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Side, VarInt};

use super::{
    ShardCore,
    connection::{Life, Phase},
};
use crate::{CloseReason, ConnId, HandshakeFailure, close_code};

/// Timers that are looked at together: as many as a processor can wait for at once, and a few more.
const FORESEEN: usize = 16;

impl ShardCore {
    /// When [`handle_timeout`](Self::handle_timeout) should be called next. May be early by a little, and in the past
    /// when the work of the last turn was bounded.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// Serves the timers that have run out, a bounded number of them.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        let mut budget = self.limits.timer_steps_per_turn;
        let mut due = [0; FORESEEN];
        loop {
            let mut count = 0;
            for place in &mut due {
                let Some(slot) = self.wheel.pop(now, &mut budget) else {
                    break;
                };
                *place = slot;
                count += 1;
            }
            for &slot in &due[..count] {
                self.foresee_slot(slot);
            }
            for &slot in &due[..count] {
                self.ring(now, slot);
            }
            if count < FORESEEN {
                return;
            }
        }
    }

    /// Looks at a connection whose wheel entry fired: the true deadline may be ahead.
    fn ring(&mut self, now: Instant, slot: u32) {
        let Some((id, conn)) = self.conns.at_mut(slot) else {
            return;
        };
        let deadline = match &mut conn.life {
            Life::First(first) => first.deadline(conn.phase == Phase::Setup),
            Life::Resident(record) => Some(self.residents.deadline(record)),
        };
        match deadline {
            None => return,
            Some(at) if at > now => {
                self.wheel.schedule(slot, at);
                return;
            }
            Some(_) => {}
        }
        match &mut conn.life {
            Life::First(first) if conn.phase == Phase::Setup && now >= first.setup_deadline => {
                self.give_up_setup(now, id);
            }
            Life::First(first) => {
                first.proto.handle_timeout(now);
                Self::mark_ready(&mut self.ready, slot, &mut conn.flags);
            }
            Life::Resident(record) => {
                self.residents.handle_timeout(record, now);
                self.after_resident(id);
            }
        }
    }

    /// Ends a connection that did not open in time. A peer that never answered is owed no answer (RFC 9000 §10.2).
    fn give_up_setup(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Life::First(first) = &mut conn.life else {
            return;
        };
        if first.is_connected {
            first.proto.close(
                now,
                VarInt::from_u32(close_code::STREAM_MISSING),
                Bytes::new(),
            );
            Self::mark_sending(&mut self.sending, id.slot, &mut conn.flags);
            self.stats.rules_broken_total += 1;
            self.stats.handshakes_timed_out_total += 1;
            self.end(
                id,
                CloseReason::BrokenRule {
                    code: close_code::STREAM_MISSING,
                },
            );
        } else {
            if first.side == Side::Server {
                self.stats.handshakes_timed_out_total += 1;
            }
            self.end(id, CloseReason::HandshakeFailed(HandshakeFailure::TimedOut));
            self.forget(id);
        }
    }
}
