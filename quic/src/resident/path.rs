//! Peers that change their address (RFC 9000 §9), and the proof that they are there (§8.2).

use rand::RngCore;

use super::{
    Engine,
    active::PathCheck,
    input::Arrival,
    record::{Record, State},
    rtt::Rtt,
};

/// Round-trip time of a path that nothing is known of (RFC 9002 §6.2.2), in microseconds.
const INITIAL_RTT_US: u32 = 333_000;

impl Engine {
    /// A datagram from the address that has to be proven: three times as much may go there (RFC 9000 §8.1).
    pub(super) fn count_path_bytes(&mut self, record: &mut Record, arrival: Arrival) {
        if let Some(path) = record.active.as_mut().and_then(|a| a.path.as_mut())
            && record.remote == arrival.remote.into()
        {
            path.received_bytes += arrival.bytes as u64;
        }
    }

    /// The newest packet of the peer came from elsewhere: it moved, or a NAT did (RFC 9000 §9.3).
    ///
    /// `is_other_id`: it also changed the ID that it addresses us by, so the change was meant.
    pub(super) fn follow(
        &mut self,
        record: &mut Record,
        now: u64,
        arrival: Arrival,
        is_other_id: bool,
    ) {
        if record.remote == arrival.remote.into() || record.state != State::Open {
            return;
        }
        self.counts.path_changes += 1;
        let old = record.remote();
        let moved_far = old.ip() != arrival.remote.ip();
        record.remote = arrival.remote.into();
        record.cold.set_local_ip(arrival.local_ip);
        // What is known of the old path does not hold for another one; a new port alone is the same path
        // (RFC 9000 §9.4).
        if moved_far {
            record.cold.rtt = Rtt::from_sample(INITIAL_RTT_US);
            record.cold.window = super::recovery::INITIAL_WINDOW;
        }
        if is_other_id {
            self.rotate_remote(record);
        }
        let probe_timeout = record
            .cold
            .probe_timeout_us()
            .max(3 * u64::from(INITIAL_RTT_US));
        let mut challenge = [0; 8];
        self.rng.fill_bytes(&mut challenge);
        let active = self.active(record);
        active.leave_path();
        if moved_far {
            active.forget_path();
        }
        let previous = active.path.take().map_or(old, |check| check.previous);
        if previous == arrival.remote {
            // Back where it was proven.
            active.pending.challenge = false;
            return;
        }
        active.path = Some(Box::new(PathCheck {
            challenge,
            previous,
            received_bytes: arrival.bytes as u64,
            sent_bytes: 0,
            repeat_at: now,
            fails_at: now + 3 * probe_timeout,
        }));
        active.pending.challenge = true;
    }

    /// The peer is where it says (RFC 9000 §8.2.3).
    pub(super) fn handle_path_response(&mut self, record: &mut Record, data: [u8; 8]) {
        if let Some(active) = record.active.as_deref_mut()
            && active
                .path
                .as_ref()
                .is_some_and(|check| check.challenge == data)
        {
            active.path = None;
            active.pending.challenge = false;
        }
    }

    /// Repeats the challenge, or gives the new address up and goes back to the last proven one (RFC 9000 §8.2.4, §9.3.2).
    pub(super) fn handle_path_timeout(&mut self, record: &mut Record, now: u64) {
        let probe_timeout = record.cold.probe_timeout_us();
        let Some(active) = record.active.as_deref_mut() else {
            return;
        };
        let Some(check) = active.path.as_deref_mut() else {
            return;
        };
        if check.fails_at <= now {
            record.remote = check.previous.into();
            active.path = None;
            active.pending.challenge = false;
            active.leave_path();
            active.forget_path();
        } else if check.repeat_at <= now {
            check.repeat_at = now + probe_timeout;
            active.pending.challenge = true;
        }
    }
}
