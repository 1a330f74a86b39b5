//! The shards: their sockets, their share of the limits, their threads.

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::JoinHandle;

use petrel_protocol::ALPN;
use petrel_quic::{
    Driver, DriverConfig, Engine, Pace, ServerSetup, ShardConfig, ShardIndex, SocketBuffers,
    TRANSPORT_KEYS_BYTES, TransportKeys,
};

use super::{StartError, spawn};
use crate::config::{self, Config, QuicEngine};
use crate::data_dir::{Keyring, ServerCertificate};
use crate::delivery::{Command, Delivery};
use crate::fanout::Sequencer;
use crate::presence::{Mailbox, ShardId};
use crate::shard::{Shard, ShardSettings, SharedStats};

/// Commands that wait for a shard; a delivery beyond becomes a nudge.
const MAILBOX_MAX: usize = 65_536;

/// Shards that are bound and not running yet, by number.
pub(super) struct Shards {
    drivers: Vec<Driver>,
    address: SocketAddr,
}

impl Shards {
    /// Binds `quic.listen` for all of them.
    pub(super) fn bind(
        config: &Config,
        keyring: &Keyring,
        certificate: &Arc<ServerCertificate>,
    ) -> Result<Self, StartError> {
        let stored = keyring.transport(TRANSPORT_KEYS_BYTES)?;
        let keys = TransportKeys::from_bytes(stored.expose())?;
        let count = count(&config.quic);
        let buffer = config.quic.socket_buffer.as_usize();
        let driver_config = DriverConfig {
            buffers: SocketBuffers {
                receive_bytes: buffer,
                send_bytes: buffer,
            },
            ..DriverConfig::new(ShardConfig {
                server: Some(ServerSetup {
                    cert_resolver: Arc::clone(certificate) as _,
                    alpn: vec![ALPN.to_vec()],
                }),
                keys: Arc::new(keys),
                limits: limits(&config.quic, count),
                shard: ShardIndex::SINGLE,
                engine: match config.quic.engine {
                    QuicEngine::Resident => Engine::Resident,
                    QuicEngine::Proto => Engine::Proto,
                },
            })
        };
        let listen = config.quic.listen;
        let drivers = Driver::bind_group(listen, &driver_config, u16::from(count))?;
        let address = drivers.first().map_or(listen, Driver::local_addr);
        if let Some(driver) = drivers.first() {
            // All of a group were asked for the same and granted the same.
            warn_of_small_buffers(buffer, driver.buffers());
        }
        tracing::info!(shards = drivers.len(), %address, "the device port is bound");
        Ok(Self { drivers, address })
    }

    /// Where devices connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A mailbox for each, which wakes it.
    pub(super) fn mailboxes(&self) -> Vec<Arc<Mailbox<Command>>> {
        let mailbox = |driver: &Driver| {
            let waker = driver.waker();
            Arc::new(Mailbox::new(MAILBOX_MAX, Box::new(move || waker.wake())))
        };
        self.drivers.iter().map(mailbox).collect()
    }

    /// Starts the thread `petrel-shard-N` for each.
    ///
    /// # Errors
    /// [`StartError::Thread`]; those already started end with the process.
    pub(super) fn start(
        self,
        settings: ShardSettings,
        delivery: &Arc<Delivery>,
        sequencer: &Arc<Sequencer>,
    ) -> Result<Running, StartError> {
        let mut running = Running::default();
        for driver in self.drivers {
            let id = ShardId(driver.shard().index());
            let stats = SharedStats::default();
            let shard = Shard::new(
                id,
                settings,
                Arc::clone(delivery),
                Arc::clone(sequencer),
                stats.clone(),
                Pace::new(driver.buffers()),
            );
            running.stats.push(stats);
            let name = format!("petrel-shard-{}", id.0);
            running
                .threads
                .push(spawn(&name, move || run(driver, shard))?);
        }
        Ok(running)
    }
}

/// Shards at work.
#[derive(Default)]
pub(super) struct Running {
    /// One for each; each ends when its shard is drained.
    pub(super) threads: Vec<JoinHandle<()>>,
    /// What each says of itself.
    pub(super) stats: Vec<SharedStats>,
}

async fn run(driver: Driver, shard: Shard) {
    if let Err(error) = driver.run(shard).await {
        tracing::error!(%error, "the shard's socket failed: the process ends; start it again");
        std::process::abort();
    }
}

/// How many shards there are to be, at least one.
fn count(quic: &config::Quic) -> u8 {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let count = quic.shards.unwrap_or_else(cores);
    u8::try_from(count).unwrap_or(u8::MAX).max(1)
}

/// The limits of one shard: those of the broker hold for all together.
fn limits(quic: &config::Quic, shards: u8) -> petrel_quic::Limits {
    let defaults = petrel_quic::Limits::default();
    let share = |all: usize| {
        let share = all.div_ceil(usize::from(shards));
        u32::try_from(share).unwrap_or(u32::MAX)
    };
    let share_of_rate = |all: u32| all.div_ceil(u32::from(shards));
    petrel_quic::Limits {
        idle_timeout: quic.idle_timeout,
        handshake_timeout: defaults.handshake_timeout.min(quic.idle_timeout),
        connections_max: share(quic.connections_max),
        handshakes_max: share(quic.handshakes_max),
        retry_threshold: share(quic.retry_threshold),
        resets_per_second: share_of_rate(defaults.resets_per_second),
        refusals_per_second: share_of_rate(defaults.refusals_per_second),
        // First packets spread over the shards by chance.
        source_handshakes_per_second: share_of_rate(quic.source_rate),
        source_exempt: quic.source_exempt.clone(),
        ..defaults
    }
}

fn warn_of_small_buffers(asked: usize, granted: SocketBuffers) {
    if granted.receive_bytes < asked {
        tracing::warn!(
            asked,
            granted = granted.receive_bytes,
            "the system grants a smaller receive buffer: bursts are lost and sent again a round trip later. \
             Way out: sysctl -w net.core.rmem_max={asked}"
        );
    }
    if granted.send_bytes < asked {
        tracing::warn!(
            asked,
            granted = granted.send_bytes,
            "the system grants a smaller send buffer: broadcasts wait for the network more often. \
             Way out: sysctl -w net.core.wmem_max={asked}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quic(shards: Option<usize>) -> config::Quic {
        let mut quic = Config::load(None, std::iter::empty(), &[]).unwrap().quic;
        quic.shards = shards;
        quic
    }

    #[test]
    fn there_is_at_least_one_shard_and_no_more_than_a_place_can_name() {
        assert!(count(&quic(None)) >= 1);
        for (given, expect) in [(1, 1), (2, 2), (255, 255)] {
            assert_eq!(count(&quic(Some(given))), expect);
        }
    }

    #[test]
    fn shares_add_up_to_at_least_the_whole() {
        for shards in [1u8, 2, 3, 7, 255] {
            let quic = quic(Some(usize::from(shards)));
            let limits = limits(&quic, shards);
            limits.check().unwrap();
            for (share, all) in [
                (limits.connections_max, quic.connections_max),
                (limits.handshakes_max, quic.handshakes_max),
                (limits.retry_threshold, quic.retry_threshold),
            ] {
                let (share, shards) = (share as usize, usize::from(shards));
                assert!((all..all + shards).contains(&(share * shards)));
            }
        }
    }
}
