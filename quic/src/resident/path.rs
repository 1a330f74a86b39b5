//! Peers that change their address (RFC 9000 §9), and the proof that they are there (§8.2).

use rand::RngCore;

use super::{
    Engine,
    active::PathCheck,
    input::Arrival,
    record::{Record, State},
    rtt::{INITIAL_RTT_US, Rtt},
};

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
        let (old, old_local) = (record.remote(), record.local_ip());
        let moved_far = old.ip() != arrival.remote.ip();
        record.remote = arrival.remote.into();
        record.cold.set_local_ip(arrival.local_ip);
        // What is known of the old path does not hold for another one; a new port alone is the same path
        // (RFC 9000 §9.4).
        if moved_far {
            record.cold.rtt = Rtt::unknown();
            record.cold.window = super::recovery::INITIAL_WINDOW;
        }
        if is_other_id {
            self.rotate_remote(record);
        }
        let fails_at = now + validation_us(record);
        let mut challenge = [0; 8];
        self.rng.fill_bytes(&mut challenge);
        let active = self.active(record);
        active.leave_path();
        if moved_far {
            active.forget_path();
        }
        let before = active.path.take().filter(|check| !check.is_proven);
        let (previous, previous_local) = before.map_or((old, old_local), |check| {
            (check.previous, check.previous_local)
        });
        if previous == arrival.remote {
            // Back where it was proven.
            active.pending.challenge = false;
            return;
        }
        active.path = Some(Box::new(PathCheck {
            challenge,
            previous,
            previous_local,
            was_small: false,
            is_proven: false,
            received_bytes: arrival.bytes as u64,
            sent_bytes: 0,
            repeat_at: now,
            fails_at,
        }));
        active.pending.challenge = true;
    }

    /// The peer is where it says (RFC 9000 §8.2.3).
    pub(super) fn handle_path_response(&mut self, record: &mut Record, now: u64, data: [u8; 8]) {
        let fails_at = now + validation_us(record);
        let Some(active) = record.active.as_deref_mut() else {
            return;
        };
        let Some(check) = active
            .path
            .as_deref_mut()
            .filter(|check| check.challenge == data)
        else {
            return;
        };
        if check.was_small {
            // Now that nothing forbids it, once more in full size (RFC 9000 §8.2.1).
            self.rng.fill_bytes(&mut check.challenge);
            (check.was_small, check.is_proven) = (false, true);
            (check.repeat_at, check.fails_at) = (now, fails_at);
            active.pending.challenge = true;
        } else {
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
            record.cold.set_local_ip(check.previous_local);
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

/// How long a validation may take (RFC 9000 §8.2.4).
fn validation_us(record: &Record) -> u64 {
    let unknown = 3 * u64::from(INITIAL_RTT_US);
    3 * record.cold.probe_timeout_us().max(unknown)
}
