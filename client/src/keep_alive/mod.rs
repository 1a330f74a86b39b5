//! Keeping a connection alive with as few packets as each network allows. Pure: `now` and what was counted are
//! arguments; the driver sends, reads the counters and waits.
//!
//! - [`Learner`] decides how long a network may be left silent; [`Networks`] remembers one for each network.
//! - [`Pulse`] times one connection: when to say something, whether it was answered, when to give the path up.
//! - [`Meter`] counts what all that costs.
//!
//! # How a keep-alive is sent
//!
//! The interval changes while a connection lives, and quinn neither lets a connection's keep-alive interval be changed
//! nor sends a PING on demand. So the device says an empty `SetState` on its stream, which PROTO-4 names for it and
//! PROTO-22 makes harmless: two bytes of payload, repeated by QUIC when lost.
//!
//! # What counts as its answer
//!
//! An ACK frame from the broker. QUIC sends one for whatever elicits it, within 25 ms; it is encrypted, so nobody on
//! the way can forge it; and `quinn::Connection::stats` counts it. There is nothing that wakes a task for it, so the
//! counters are looked at after two round trips, while the radio is still awake, and in growing steps after that.
//!
//! # What tells that silence was too long
//!
//! On TCP the connection would be dead. On QUIC it hardly ever is: a keep-alive that finds its NAT binding forgotten
//! makes a new one, the broker follows it to the new address, and answers. But before that, nothing that the broker
//! sent could arrive, which is the harm that keep-alives exist to prevent. So an answer alone proves nothing. Whether
//! the binding was new shows in a PATH_CHALLENGE, which a peer must send when packets come from an address that it
//! does not know (RFC 9000 section 9.3). Hence three outcomes: answered; answered on another path; not answered.
//!
//! Two things no device can see. A NAT that gives the same port again makes a forgotten binding look like a kept one
//! (only the broker's own packets could probe for it): the broker's hint is the bound there. And an answered
//! keep-alive says nothing about a push that was lost within the silence before it; QUIC sends that again.

mod learner;
mod meter;
mod networks;
mod pulse;

use std::time::{Duration, Instant};

pub(crate) use self::learner::Learner;
pub(crate) use self::meter::Meter;
pub use self::meter::{IdleHour, NetworkStats};
pub(crate) use self::networks::Networks;
pub use self::networks::{NETWORKS_MAX, NetworkId};
pub(crate) use self::pulse::{Answer, Beat, Path, Pulse};

/// What an unknown network begins with: many home routers forget UDP after 30 s to 60 s (RFC 4787 REQ-5 asks for
/// at least 120 s, and few keep to it).
pub(crate) const START: Duration = Duration::from_secs(30);

/// Between which intervals is learnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    /// What an unknown network begins with.
    pub(crate) start: Duration,
    /// Not below this, whatever fails: a third of the start, 10 s by default. A path that forgets sooner is better
    /// found dead now and then than paid for with the battery.
    pub(crate) floor: Duration,
    /// Not above this: the broker's hint and the app's wish.
    pub(crate) max: Duration,
}

impl Bounds {
    /// `app_max` is the longest silence that the app wants, `hint_seconds` what the broker said last; 0 where it did
    /// not, and then nothing longer than the start is tried.
    ///
    /// The hint counts at the broker, where PROTO-4 wants a packet at least that often: the device aims a sixteenth
    /// earlier, and at least a second (half of a hint below 2 s).
    pub(crate) fn new(start: Duration, app_max: Duration, hint_seconds: u32) -> Self {
        let hint = Duration::from_secs(hint_seconds.into());
        let early = (hint / 16).max((hint / 2).min(Duration::from_secs(1)));
        let hint = if hint.is_zero() { start } else { hint - early };
        let max = app_max.min(hint);
        Self {
            start: start.min(max),
            floor: (start / 3).min(max),
            max,
        }
    }
}

/// An instant by both clocks of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// Milliseconds since 1970.
    pub(crate) wall_ms: u64,
}

impl Moment {
    /// How long ago `earlier` was; `None` where the clocks disagree: the monotonic one stands still while a phone
    /// sleeps, so that what seems to be a short silence was a long one.
    pub(crate) fn since(&self, earlier: &Self) -> Option<Duration> {
        const TOLERANCE: Duration = Duration::from_secs(1);
        let elapsed = self.at.saturating_duration_since(earlier.at);
        let by_wall = Duration::from_millis(self.wall_ms.saturating_sub(earlier.wall_ms));
        (by_wall <= elapsed + elapsed / 8 + TOLERANCE).then_some(elapsed)
    }
}

/// What a connection counted so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams_sent: u64,
    pub(crate) datagrams_received: u64,
    /// UDP payload.
    pub(crate) bytes_sent: u64,
    /// UDP payload.
    pub(crate) bytes_received: u64,
    /// ACK frames received.
    pub(crate) acks: u64,
    /// PATH_CHALLENGE frames received.
    pub(crate) challenges: u64,
}

impl Counters {
    /// What was counted since `earlier`.
    fn since(&self, earlier: &Self) -> Self {
        Self {
            datagrams_sent: self.datagrams_sent.saturating_sub(earlier.datagrams_sent),
            datagrams_received: self
                .datagrams_received
                .saturating_sub(earlier.datagrams_received),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            acks: self.acks.saturating_sub(earlier.acks),
            challenges: self.challenges.saturating_sub(earlier.challenges),
        }
    }
}

impl From<quinn::ConnectionStats> for Counters {
    fn from(stats: quinn::ConnectionStats) -> Self {
        Self {
            datagrams_sent: stats.udp_tx.datagrams,
            datagrams_received: stats.udp_rx.datagrams,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            acks: stats.frame_rx.acks,
            challenges: stats.frame_rx.path_challenge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_stay_below_the_hint_and_the_wish_of_the_app() {
        let hour = Duration::from_secs(3600);
        let check = |app_max: Duration, hint: u32, floor_ms: u64, start_ms: u64, max_ms: u64| {
            let bounds = Bounds::new(START, app_max, hint);
            let expected = Bounds {
                start: Duration::from_millis(start_ms),
                floor: Duration::from_millis(floor_ms),
                max: Duration::from_millis(max_ms),
            };
            assert_eq!(bounds, expected, "{app_max:?} {hint}");
        };
        check(hour, 120, 10_000, 30_000, 112_500);
        check(hour, 0, 10_000, 30_000, 30_000);
        check(hour, 20, 10_000, 18_750, 18_750);
        check(hour, 8, 7_000, 7_000, 7_000);
        check(hour, 2, 1_000, 1_000, 1_000);
        check(hour, 1, 500, 500, 500);
        check(Duration::from_secs(2), 120, 2_000, 2_000, 2_000);
        check(hour, u32::MAX, 10_000, 30_000, 3_600_000);
    }

    #[test]
    fn a_device_that_slept_does_not_know_how_long_it_was_silent() {
        let start = Moment {
            at: Instant::now(),
            wall_ms: 1_000_000,
        };
        let later = |monotonic: u64, wall: u64| Moment {
            at: start.at + Duration::from_secs(monotonic),
            wall_ms: start.wall_ms + wall * 1000,
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(later(60, 60).since(&start), minute);
        assert_eq!(later(60, 68).since(&start), minute);
        assert_eq!(later(60, 69).since(&start), None);
        // Set back: that says nothing about sleep.
        assert_eq!(later(60, 0).since(&start), minute);
    }
}
