//! One deadline for each connection.

use std::time::{Duration, Instant};

use super::{
    Engine, Note,
    output::is_blocked,
    record::{Record, State},
};
use crate::CloseReason;

/// Bits of a microsecond count below one tick of the idle clock: a tick is 65.536 ms.
const TICK_BITS: u32 = 16;

pub(super) fn ticks(us: u64) -> u32 {
    u32::try_from(us >> TICK_BITS).unwrap_or(u32::MAX)
}

impl Engine {
    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn deadline(&self, record: &Record) -> Instant {
        self.epoch + Duration::from_micros(self.deadline_us(record))
    }

    fn deadline_us(&self, record: &Record) -> u64 {
        let Some(active) = record.active.as_deref() else {
            return idle_deadline(record);
        };
        if let Some(closing) = &active.closing {
            return closing.ends_at;
        }
        let path = active.path.as_deref();
        // Nothing can be sent to an unproven address that has used up its allowance: no timer but its own may wake us
        // for that (RFC 9002 §6.2.2.1).
        let is_held = path.is_some_and(|check| check.allowance() < FULL_ALLOWANCE);
        let is_mute = path.is_some_and(|check| check.allowance() < MIN_ALLOWANCE);
        let recovery = if is_held || active.probes > 0 {
            None
        } else {
            active.recovery_deadline(record.cold.probe_timeout_us())
        };
        let resend = active
            .resend_at
            .filter(|_| !is_held && active.send.has_lost() && active.has_window());
        // Only while nothing else is in flight, which would wake us by itself.
        let reminds = active.sent.is_empty()
            && active.blocked_at.is_some()
            && is_blocked(active, &record.cold, record.wants_writable);
        [
            Some(idle_deadline(record)),
            reminds
                .then_some(active.blocked_again_at)
                .filter(|_| !is_held),
            active.ack_at.filter(|_| !is_held),
            recovery,
            resend,
            active.old_key.as_ref().and_then(|old| old.expires_at),
            path.map(|check| check.fails_at),
            path.filter(|_| !is_mute).map(|check| check.repeat_at),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, record: &mut Record, now: Instant) {
        let now = self.us(now);
        if let Some(closing) = record.active.as_ref().and_then(|a| a.closing.as_ref()) {
            if closing.ends_at <= now {
                self.notes.push_back(Note::Ended);
            }
            return;
        }
        if idle_deadline(record) <= now {
            // In silence (RFC 9000 §10.1).
            self.notes.push_back(Note::Closed(CloseReason::TimedOut));
            self.notes.push_back(Note::Ended);
            record.state = State::Draining;
            return;
        }
        let probe_timeout = record.cold.probe_timeout_us();
        let loss_delay = record.cold.rtt.loss_delay_us(0);
        let largest = record.cold.largest_acked.unwrap_or(0);
        let Some(active) = record.active.as_deref_mut() else {
            return;
        };
        if active
            .old_key
            .as_ref()
            .and_then(|old| old.expires_at)
            .is_some_and(|at| at <= now)
        {
            active.old_key = None;
        }
        if active.sent.is_empty() && active.blocked_again_at <= now {
            active.blocked_at = None;
        }
        if active.loss_at.is_some_and(|at| at <= now) {
            self.counts.packets_lost +=
                active.detect_losses(now, largest, loss_delay, probe_timeout);
        } else if active.probes == 0
            && active
                .recovery_deadline(probe_timeout)
                .is_some_and(|at| at <= now)
        {
            active.probe();
            self.counts.probes += 1;
        }
        self.handle_path_timeout(record, now);
        self.rest(record);
    }
}

/// Least allowance with which a challenge goes to an unproven address: enough for one, and less than three times the
/// smallest packet of a peer, whose first word so lets it go.
pub(super) const MIN_ALLOWANCE: u64 = 64;

/// Least allowance with which anything else goes there.
pub(super) const FULL_ALLOWANCE: u64 = 256;

/// RFC 9000 §10.1: never shorter than three probe timeouts. A tick more, because the clock is coarse.
fn idle_deadline(record: &Record) -> u64 {
    let timeout = u64::from(record.cold.idle_timeout_ms) * 1_000;
    let timeout = timeout.max(3 * record.cold.probe_timeout_us());
    ((u64::from(record.restarted) + 1) << TICK_BITS) + timeout
}
