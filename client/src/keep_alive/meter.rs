//! What keeping a connection alive costs, counted while nobody uses it.

use std::time::Duration;

use super::pulse::{Answer, Idle, Path};
use super::{Counters, NetworkId};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// How a client stands on its network, and what an idle connection costs there. A snapshot, brought up to date
/// whenever a keep-alive is answered.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct NetworkStats {
    /// The network, as the app named it.
    pub network: NetworkId,
    /// How long the connection is left silent now: what was learnt for this network.
    pub interval: Duration,
    /// Longest interval that the broker and the app allow.
    pub interval_max: Duration,
    /// Keep-alives sent since the client was started.
    pub keep_alives_sent: u64,
    /// Keep-alives answered since the client was started.
    pub keep_alives_answered: u64,
    /// Paths lost to silence since the client was started: bindings that the network forgot while nothing was sent.
    pub paths_lost: u64,
    /// Times since the client was started that the device moved to another path and kept its connection.
    pub migrations: u64,
    /// What an hour of doing nothing costs; `None` until one keep-alive at the present interval was measured.
    pub idle_hour: Option<IdleHour>,
}

/// What a connection that nobody uses costs in an hour: measured at the present interval, over
/// [`IdleHour::measured`], and extrapolated.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct IdleHour {
    /// How long was measured.
    pub measured: Duration,
    /// Bytes of UDP payload sent per hour. On the wire each datagram has 28 more with IPv4, 48 with IPv6.
    pub bytes_sent: f64,
    /// Bytes of UDP payload received per hour.
    pub bytes_received: f64,
    /// Datagrams sent per hour.
    pub datagrams_sent: f64,
    /// Datagrams received per hour.
    pub datagrams_received: f64,
    /// Bursts of packets per hour. Each wakes a sleeping radio, which on cellular networks costs more than its bytes.
    pub wake_ups: f64,
}

/// Counts for [`NetworkStats`].
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent: u64,
    answered: u64,
    lost: u64,
    migrations: u64,
    time: Duration,
    counted: Counters,
    bursts: u64,
}

impl Meter {
    pub(crate) fn handle_ask(&mut self) {
        self.sent += 1;
    }

    pub(crate) fn handle_answer(&mut self, answer: &Answer) {
        self.answered += u64::from(answer.keep_alive);
        self.lost += u64::from(answer.path == Path::Forgotten);
        self.migrations += u64::from(answer.path == Path::Chosen);
        // A challenge and its answer are no part of keeping a path alive that is alive.
        if let Some(Idle {
            time,
            counted,
            bursts,
        }) = answer.idle.as_ref().filter(|_| answer.path == Path::Same)
        {
            self.time += *time;
            self.bursts += u64::from(*bursts);
            self.counted.datagrams_sent += counted.datagrams_sent;
            self.counted.datagrams_received += counted.datagrams_received;
            self.counted.bytes_sent += counted.bytes_sent;
            self.counted.bytes_received += counted.bytes_received;
        }
    }

    /// A path was lost for good, and its connection with it.
    pub(crate) fn handle_loss(&mut self) {
        self.lost += 1;
    }

    /// Another interval or network: what was measured does not hold for it.
    pub(crate) fn begin_anew(&mut self) {
        self.time = Duration::ZERO;
        self.counted = Counters::default();
        self.bursts = 0;
    }

    pub(crate) fn stats(
        &self,
        network: NetworkId,
        interval: Duration,
        interval_max: Duration,
    ) -> NetworkStats {
        NetworkStats {
            network,
            interval,
            interval_max,
            keep_alives_sent: self.sent,
            keep_alives_answered: self.answered,
            paths_lost: self.lost,
            migrations: self.migrations,
            idle_hour: self.idle_hour(),
        }
    }

    fn idle_hour(&self) -> Option<IdleHour> {
        if self.time.is_zero() {
            return None;
        }
        let share = HOUR.as_secs_f64() / self.time.as_secs_f64();
        let per_hour = |count: u64| count as f64 * share;
        Some(IdleHour {
            measured: self.time,
            bytes_sent: per_hour(self.counted.bytes_sent),
            bytes_received: per_hour(self.counted.bytes_received),
            datagrams_sent: per_hour(self.counted.datagrams_sent),
            datagrams_received: per_hour(self.counted.datagrams_received),
            wake_ups: per_hour(self.bursts),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_extrapolated_to_an_hour() {
        let mut meter = Meter::default();
        let answer = |idle: Option<Idle>, path| Answer {
            silence: None,
            path,
            keep_alive: true,
            idle,
        };
        let idle = Idle {
            time: Duration::from_secs(60),
            counted: Counters {
                datagrams_sent: 1,
                datagrams_received: 1,
                bytes_sent: 40,
                bytes_received: 30,
                ..Counters::default()
            },
            bursts: 1,
        };
        let stats = |meter: &Meter| {
            let minute = Duration::from_secs(60);
            meter.stats(NetworkId::default(), minute, minute)
        };
        meter.handle_answer(&answer(None, Path::Same));
        assert_eq!(stats(&meter).idle_hour, None);
        meter.handle_answer(&answer(Some(idle.clone()), Path::Forgotten));
        assert_eq!(stats(&meter).idle_hour, None);
        meter.handle_answer(&answer(Some(idle.clone()), Path::Same));
        meter.handle_answer(&answer(Some(idle), Path::Same));
        let hour = stats(&meter).idle_hour.unwrap();
        assert_eq!(hour.measured, Duration::from_secs(120));
        assert_eq!((hour.bytes_sent, hour.bytes_received), (2400.0, 1800.0));
        assert_eq!((hour.datagrams_sent, hour.wake_ups), (60.0, 60.0));
        let counts = stats(&meter);
        assert_eq!((counts.keep_alives_answered, counts.paths_lost), (4, 1));
        meter.begin_anew();
        assert_eq!(stats(&meter).idle_hour, None);
    }
}
