//! How a host is joined to the simulated network.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

/// One host's way to the network, the same in both directions. A datagram goes through the link of its sender and that
/// of its receiver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Share of datagrams that are lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that arrive twice, 0 to 1.
    pub duplication: f64,
    /// How long every datagram takes.
    pub delay: Duration,
    /// How much longer some take, evenly spread. Datagrams that leave within this time overtake each other.
    pub jitter: Duration,
}

impl Link {
    /// Nothing is lost, nothing takes time.
    pub const PERFECT: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
    };

    /// 10 ms each way at each end, nothing lost.
    pub const GOOD: Self = Self {
        delay: Duration::from_millis(10),
        ..Self::PERFECT
    };

    /// A bad mobile network: 2.5 % loss at each end (so about 5 % on the way between two such hosts), 1 % duplicates,
    /// 20 ms and up to 30 ms more.
    pub const LOSSY: Self = Self {
        loss: 0.025,
        duplication: 0.01,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(30),
    };

    /// A satellite in a storm: 100 ms and up to 60 ms more between two such hosts, 5 % loss, 2 % duplicates.
    pub const STORMY: Self = Self {
        loss: 0.025,
        duplication: 0.01,
        delay: Duration::from_millis(50),
        jitter: Duration::from_millis(30),
    };

    /// Nothing comes through.
    pub const CUT: Self = Self {
        loss: 1.0,
        ..Self::PERFECT
    };

    pub(super) fn loses(self, rng: &mut StdRng) -> bool {
        rng.random::<f64>() < self.loss
    }

    pub(super) fn duplicates(self, rng: &mut StdRng) -> bool {
        rng.random::<f64>() < self.duplication
    }

    pub(super) fn delay(self, rng: &mut StdRng) -> Duration {
        self.delay + self.jitter.mul_f64(rng.random::<f64>())
    }
}
