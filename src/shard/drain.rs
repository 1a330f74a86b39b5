//! Sending all devices away.

use std::time::{Duration, Instant};

use petrel_protocol::ErrorCode;
use petrel_quic::ShardCore;

use super::{CLOSING_GRACE, Shard};
use crate::delivery::Returns;

/// A drain under way.
pub(super) struct Drain {
    deadline: Instant,
}

impl Drain {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Shard {
    /// Tells every device to leave, and when to come back, so that the return is no storm (PROTO-32). What is in flight
    /// may still be acked.
    pub(super) fn begin_drain(
        &mut self,
        core: &mut ShardCore,
        returns: &Returns,
        ack_wait: Duration,
        now: Instant,
    ) {
        core.stop_accepting();
        self.drain = Some(Drain {
            deadline: now + ack_wait.max(CLOSING_GRACE),
        });
        let connected: Vec<_> = self.sessions.iter().flatten().map(|s| s.conn).collect();
        for conn in connected {
            let after_ms = u64::try_from(returns.next().as_millis()).unwrap_or(u64::MAX);
            self.with_session(core, conn, |shard, core, session| {
                if let Some(frame) = session.protocol.reconnect(after_ms, "") {
                    shard.send(core, session, frame);
                    session.close_code = ErrorCode::Draining;
                }
                // With acks outstanding the wait is longer; the last of them comes here too.
                if session.outbox.in_flight().next().is_none() {
                    shard.close_soon(session.conn, now);
                }
            });
        }
    }

    /// Whether all devices have left, or there is no more time; then those that are still there are closed.
    pub(super) fn is_drained(&mut self, core: &mut ShardCore, now: Instant) -> bool {
        let is_late = self.drain.as_ref().is_some_and(|d| d.deadline <= now);
        if self.session_count > 0 && !is_late {
            return false;
        }
        for session in self.sessions.iter().flatten() {
            let code = ErrorCode::Draining;
            core.close(session.conn, code as u32, code.name().as_bytes());
        }
        true
    }
}
