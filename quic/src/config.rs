//! What a shard is made with.

use std::{fmt, sync::Arc, time::Duration};

use rustls::server::ResolvesServerCert;
use thiserror::Error;

use crate::{Network, TransportKeys};

/// Everything a [`ShardCore`](crate::ShardCore) is made with.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// How to be a server; without it the shard only makes connections and takes none.
    pub server: Option<ServerSetup>,
    /// The secrets that all shards share and that outlive the process.
    pub keys: Arc<TransportKeys>,
    /// Bounds.
    pub limits: Limits,
    /// Which shard this is.
    pub shard: ShardIndex,
    /// Who serves connections that are established and quiet.
    pub engine: Engine,
}

/// Who serves a connection once it is established and quiet. Applications see no difference but the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The resident engine: some 450 bytes for each.
    #[default]
    Resident,
    /// The handshake engine, to the end: some 12 KB for each.
    Proto,
}

/// What a server shows to its clients.
#[derive(Clone)]
pub struct ServerSetup {
    /// Chooses the certificate for each handshake; may change its mind at any time.
    pub cert_resolver: Arc<dyn ResolvesServerCert>,
    /// Application protocols, the preferred one first (RFC 7301). A client that offers none of them is turned away.
    pub alpn: Vec<Vec<u8>>,
}

impl fmt::Debug for ServerSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alpn: Vec<_> = self
            .alpn
            .iter()
            .map(|name| String::from_utf8_lossy(name))
            .collect();
        f.debug_struct("ServerSetup")
            .field("alpn", &alpn)
            .finish_non_exhaustive()
    }
}

/// The number of a shard among its siblings, which its connection IDs carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardIndex {
    index: u8,
    count: u16,
}

impl ShardIndex {
    /// The only shard there is.
    pub const SINGLE: Self = Self { index: 0, count: 1 };

    /// Shard `index` of `count`.
    ///
    /// # Errors
    ///
    /// If `count` is 0 or above 256, or `index` is not below it.
    pub fn new(index: u8, count: u16) -> Result<Self, ConfigError> {
        if (1..=256).contains(&count) && u16::from(index) < count {
            Ok(Self { index, count })
        } else {
            Err(ConfigError::Shard { index, count })
        }
    }

    /// From 0.
    #[must_use]
    pub fn index(self) -> u8 {
        self.index
    }

    /// How many shards there are.
    #[must_use]
    pub fn count(self) -> u16 {
        self.count
    }

    /// Whether a connection ID that begins with this byte belongs to the shard.
    #[must_use]
    pub fn owns(self, first_cid_byte: u8) -> bool {
        u16::from(first_cid_byte) % self.count == u16::from(self.index)
    }
}

/// Bounds of one shard. Every queue and every count in it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A connection on which nothing is heard for this long is closed; the smaller value of both sides counts
    /// (RFC 9000 §10.1). Keeping alive is the device's business. Default 10 min.
    pub idle_timeout: Duration,
    /// From the first packet to [`Opened`](crate::Event::Opened), else the connection is forgotten. Default 10 s.
    pub handshake_timeout: Duration,
    /// A connection stays with the handshake engine for at least so long after it opened. 0, the default, is best; tests
    /// try others.
    pub hand_over_after: Duration,
    /// How many bytes a peer may have on the way to us (RFC 9000 §4.1). Worst case of what a connection buffers
    /// that arrives out of order. Default 16 KiB.
    pub receive_window_bytes: u32,
    /// How many accepted bytes a connection may hold that the peer has not acknowledged. What follows waits with the
    /// application, where urgent messages can still overtake it. Default 16 KiB.
    pub send_window_bytes: u32,
    /// Largest UDP payload taken and offered: 1472 fits Ethernet with IPv4, 1452 with IPv6. Between 1200 and 65527;
    /// default 1472.
    pub udp_payload_bytes_max: u16,
    /// Slots: open connections, handshakes and those that linger for three round trips after closing. A client that
    /// comes when all are taken is refused. Default 1,000,000.
    pub connections_max: u32,
    /// Server handshakes in progress; a client that comes when there are so many is refused. Default 4096.
    pub handshakes_max: u32,
    /// From so many server handshakes in progress on, a client must prove its address with a Retry round trip first
    /// (RFC 9000 §8.1.2). Default 1024.
    pub retry_threshold: u32,
    /// New handshakes a second from one IPv4 address or IPv6 /56. Beyond it a client must prove its address first, and
    /// one that has is refused. Default 1000.
    pub source_handshakes_per_second: u32,
    /// Addresses that the limit above does not hold for.
    pub source_exempt: Vec<Network>,
    /// Stateless resets a second (RFC 9000 §10.3), one second's worth at once. Default 5000.
    pub resets_per_second: u32,
    /// Refusals, Retry packets and version negotiations a second, one second's worth at once; beyond it first packets
    /// that would get such an answer are dropped in silence. Default 5000.
    pub refusals_per_second: u32,
    /// Bytes read from one connection before others have their turn. Default 16 KiB.
    pub read_bytes_per_visit: u32,
    /// Timer steps in one [`handle_timeout`](crate::ShardCore::handle_timeout). Default 4096.
    pub timer_steps_per_turn: u32,
    /// Answers made without a connection (Retry, refusal, reset) that wait for the socket; more are dropped.
    /// Default 256.
    pub replies_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(600),
            handshake_timeout: Duration::from_secs(10),
            hand_over_after: Duration::ZERO,
            receive_window_bytes: 16 << 10,
            send_window_bytes: 16 << 10,
            udp_payload_bytes_max: 1472,
            connections_max: 1_000_000,
            handshakes_max: 4096,
            retry_threshold: 1024,
            source_handshakes_per_second: 1000,
            source_exempt: Vec::new(),
            resets_per_second: 5000,
            refusals_per_second: 5000,
            read_bytes_per_visit: 16 << 10,
            timer_steps_per_turn: 4096,
            replies_max: 256,
        }
    }
}

impl Limits {
    /// Looks for values that cannot work.
    ///
    /// # Errors
    ///
    /// The first value that is out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |limit, bounds| Err(ConfigError::Limit { limit, bounds });
        if self.idle_timeout < Duration::from_secs(1)
            || self.idle_timeout > Duration::from_secs(7 * 86_400)
        {
            return fail("idle_timeout", "1 s to 7 days");
        }
        if self.handshake_timeout < Duration::from_millis(100)
            || self.handshake_timeout > self.idle_timeout
        {
            return fail("handshake_timeout", "100 ms to idle_timeout");
        }
        if !(1200..=65_527).contains(&self.udp_payload_bytes_max) {
            return fail("udp_payload_bytes_max", "1200 to 65527");
        }
        if !(1..=1 << 30).contains(&self.connections_max) {
            return fail("connections_max", "1 to 2^30");
        }
        for (limit, value) in [
            ("receive_window_bytes", self.receive_window_bytes),
            ("send_window_bytes", self.send_window_bytes),
            (
                "source_handshakes_per_second",
                self.source_handshakes_per_second,
            ),
            ("read_bytes_per_visit", self.read_bytes_per_visit),
            ("timer_steps_per_turn", self.timer_steps_per_turn),
        ] {
            if value == 0 {
                return fail(limit, "at least 1");
            }
        }
        Ok(())
    }
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A shard that cannot exist.
    #[error("there is no shard {index} of {count}: count is 1 to 256, index below it")]
    Shard {
        /// What was asked for.
        index: u8,
        /// Of how many.
        count: u16,
    },
    /// A limit out of its bounds.
    #[error("{limit} has to be {bounds}")]
    Limit {
        /// The field of [`Limits`].
        limit: &'static str,
        /// What it may be.
        bounds: &'static str,
    },
    /// The TLS configuration cannot serve QUIC.
    #[error("TLS: {0}")]
    Tls(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_bounds() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn each_bound_is_checked_one_past_it() {
        let check = |change: fn(&mut Limits), name| {
            let mut limits = Limits::default();
            change(&mut limits);
            match limits.check() {
                Err(ConfigError::Limit { limit, .. }) => assert_eq!(limit, name),
                other => panic!("{name}: {other:?}"),
            }
        };
        check(
            |l| l.idle_timeout = Duration::from_millis(999),
            "idle_timeout",
        );
        check(
            |l| l.idle_timeout = Duration::from_secs(7 * 86_400 + 1),
            "idle_timeout",
        );
        check(
            |l| l.handshake_timeout = Duration::from_millis(99),
            "handshake_timeout",
        );
        check(
            |l| l.handshake_timeout = l.idle_timeout + Duration::from_nanos(1),
            "handshake_timeout",
        );
        check(|l| l.udp_payload_bytes_max = 1199, "udp_payload_bytes_max");
        check(
            |l| l.udp_payload_bytes_max = 65_528,
            "udp_payload_bytes_max",
        );
        check(|l| l.connections_max = 0, "connections_max");
        check(|l| l.connections_max = (1 << 30) + 1, "connections_max");
        check(|l| l.receive_window_bytes = 0, "receive_window_bytes");
        check(|l| l.send_window_bytes = 0, "send_window_bytes");
        check(
            |l| l.source_handshakes_per_second = 0,
            "source_handshakes_per_second",
        );
        check(|l| l.read_bytes_per_visit = 0, "read_bytes_per_visit");
        check(|l| l.timer_steps_per_turn = 0, "timer_steps_per_turn");
    }

    #[test]
    fn shards_that_cannot_exist() {
        for (index, count) in [(0, 0), (1, 1), (4, 4), (0, 257)] {
            assert_eq!(
                ShardIndex::new(index, count),
                Err(ConfigError::Shard { index, count })
            );
        }
        assert!(ShardIndex::new(255, 256).is_ok());
        assert!(ShardIndex::SINGLE.owns(0) && ShardIndex::SINGLE.owns(255));
    }
}
