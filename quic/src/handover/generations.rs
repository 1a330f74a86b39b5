//! One generation of keys after another (RFC 9001 §6).

use quinn_proto::Side;

use super::secrets::TrafficSecrets;
use crate::resident::protect::{HeaderKey, PacketKey, Secret};

/// The secrets of the generation that quinn-proto uses, from which all later ones follow.
pub(super) struct Generations {
    tx: Secret,
    rx: Secret,
    header: Pair<HeaderKey>,
    /// How often the next keys were asked for.
    nexts: u64,
}

/// Keys of both directions.
pub(super) struct Pair<K> {
    pub(super) tx: K,
    pub(super) rx: K,
}

impl Generations {
    pub(super) fn new(side: Side, secrets: TrafficSecrets) -> Self {
        let TrafficSecrets { client, server } = secrets;
        let (tx, rx) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        Self {
            header: Pair {
                tx: tx.header_key(),
                rx: rx.header_key(),
            },
            tx,
            rx,
            nexts: 0,
        }
    }

    /// The keys of generation 0.
    pub(super) fn first(&self) -> Pair<PacketKey> {
        Pair {
            tx: self.tx.packet_key(),
            rx: self.rx.packet_key(),
        }
    }

    /// The keys of the next generation and its number.
    ///
    /// quinn-proto holds them in advance: it asks once when the first keys are installed, and again at each update.
    /// So the generation in use is the one before.
    pub(super) fn next(&mut self) -> (u64, Pair<PacketKey>) {
        if self.nexts > 0 {
            self.tx = self.tx.next();
            self.rx = self.rx.next();
        }
        self.nexts += 1;
        let pair = Pair {
            tx: self.tx.next().packet_key(),
            rx: self.rx.next().packet_key(),
        };
        (self.nexts, pair)
    }

    /// The number of the generation that quinn-proto uses.
    pub(super) fn current(&self) -> u64 {
        self.nexts.saturating_sub(1)
    }

    pub(super) fn tx(&self) -> &Secret {
        &self.tx
    }

    pub(super) fn rx(&self) -> &Secret {
        &self.rx
    }

    /// Header keys, the same in all generations (RFC 9001 §6.1).
    pub(super) fn header_keys(&self) -> Pair<HeaderKey> {
        Pair {
            tx: self.header.tx.clone(),
            rx: self.header.rx.clone(),
        }
    }
}
