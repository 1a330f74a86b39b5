//! Light devices, a million in a process: lanes of a thread each, sockets in them, devices on these.
//!
//! A fleet of devices without tokens registers them and leaves; with tokens it connects them and stays. Nothing here
//! publishes or measures the broker.

mod frames;
mod gauges;
mod hear;
mod keep_alive;
mod light;
mod tally;
mod tickets;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use petrel_protocol::ALPN;
use petrel_quic::{
    ClientSetup, Driver, DriverConfig, Limits, ShardConfig, ShardIndex, Stats, TransportKeys, Waker,
};
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use self::gauges::{Complaints, Gauges};
use self::light::{Lights, Order};
use self::tickets::Tickets;
use crate::measure::latency::Latencies;
use crate::registrations::Registrations;

pub(crate) use self::frames::{FILLER, NUMBER, RUN, STAMP};
pub(crate) use self::gauges::Seen;

/// A name that every certificate of a broker's own making holds.
const SERVER_NAME: &str = "localhost";

/// The idle timeout offered: as long as the transport allows, so that the broker's own is the one that counts.
const IDLE_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);

/// Sockets in one /24 of 127.1.0.0/16.
const SOCKETS_PER_NET: u32 = 250;

/// What a fleet is made with.
pub(crate) struct Plan {
    pub(crate) broker: SocketAddr,
    /// PEM of the CA that the broker's certificate is trusted by.
    pub(crate) ca: Vec<u8>,
    pub(crate) project: String,
    pub(crate) app_key: String,
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) devices: u32,
    /// What each device subscribes to.
    pub(crate) topic: Option<String>,
    pub(crate) threads: u32,
    pub(crate) sockets: u32,
    pub(crate) concurrency: u32,
    pub(crate) keep_alive: Option<Duration>,
    /// Names the messages of this run.
    pub(crate) run: u64,
    /// Messages of this run at most, and how many of them are for warming up.
    pub(crate) messages_max: u32,
    pub(crate) warm_up: u32,
    /// What the stamps of messages count from.
    pub(crate) clock: Instant,
}

/// What all sockets share.
struct Shared {
    broker: SocketAddr,
    client: ClientSetup,
    tickets: Arc<Tickets>,
    project: String,
    app_key: String,
    registrations: Arc<Registrations>,
    devices: u32,
    topic: Option<String>,
    concurrency: u32,
    keep_alive: Option<Duration>,
    still_there: Bytes,
    run: u64,
    messages_max: u32,
    warm_up: u32,
    clock: Instant,
    complaints: Complaints,
}

impl Shared {
    fn new(plan: Plan, client: ClientSetup, tickets: Arc<Tickets>) -> Self {
        Self {
            broker: plan.broker,
            client,
            tickets,
            project: plan.project,
            app_key: plan.app_key,
            registrations: plan.registrations,
            devices: plan.devices,
            topic: plan.topic,
            concurrency: plan.concurrency,
            keep_alive: plan.keep_alive,
            still_there: frames::still_there(),
            run: plan.run,
            messages_max: plan.messages_max,
            warm_up: plan.warm_up,
            clock: plan.clock,
            complaints: Complaints::default(),
        }
    }
}

/// The run's end of one socket.
struct Handle {
    orders: mpsc::Sender<Order>,
    waker: Waker,
    gauges: Arc<Gauges>,
}

type Lane = JoinHandle<io::Result<Vec<(Lights, Stats)>>>;

/// Devices at work. Dropped, they leave as fast as they can.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    handles: Vec<Handle>,
    lanes: Vec<Lane>,
    addresses: BTreeSet<SocketAddr>,
}

/// What the devices brought home.
pub(crate) struct Harvest {
    tallies: Vec<tally::Tally>,
    /// From the intended time of a message to the app.
    pub(crate) latencies: Latencies,
    /// From the first packet to `Welcome`: full handshakes, resumed ones.
    pub(crate) connects: [Latencies; 2],
    pub(crate) doubled: u64,
    pub(crate) foreign: u64,
    pub(crate) tokens: Vec<(u32, String)>,
    /// Handshakes that offered a ticket.
    pub(crate) tickets_offered: u64,
    pub(crate) seen: Seen,
    pub(crate) complaints: Vec<String>,
}

impl Fleet {
    /// Binds the sockets and starts the lanes; no device connects yet.
    pub(crate) fn start(plan: Plan) -> Result<Self> {
        let limits = Limits {
            idle_timeout: IDLE_TIMEOUT,
            connections_max: plan
                .devices
                .div_ceil(plan.sockets)
                .saturating_mul(2)
                .max(1024),
            ..Limits::default()
        };
        let tickets = Arc::new(Tickets::default());
        let client = ClientSetup::new(Arc::new(tls(&plan.ca, &tickets)?), &limits)?;
        let config = DriverConfig::new(ShardConfig {
            server: None,
            keys: Arc::new(TransportKeys::generate()),
            limits,
            shard: ShardIndex::SINGLE,
            engine: petrel_quic::Engine::Resident,
        });
        let sockets = plan.sockets.min(plan.devices);
        let threads = plan.threads.min(sockets);
        let shared = Arc::new(Shared::new(plan, client, tickets));
        let mut fleet = Self {
            shared: Arc::clone(&shared),
            handles: Vec::new(),
            lanes: Vec::new(),
            addresses: BTreeSet::new(),
        };
        let mut lanes: Vec<Vec<(Driver, Lights)>> = Vec::new();
        lanes.resize_with(threads as usize, Vec::new);
        for (socket, lane) in (0..sockets).zip((0..threads as usize).cycle()) {
            let driver = Driver::bind(source(socket), &config)
                .context("no socket for devices; lower `sockets`, or raise `ulimit -n`")?;
            let (orders, receiver) = mpsc::channel();
            let gauges = Arc::new(Gauges::default());
            let lights = Lights::new(
                Arc::clone(&shared),
                receiver,
                Arc::clone(&gauges),
                socket,
                sockets,
            );
            fleet.addresses.insert(driver.local_addr());
            fleet.handles.push(Handle {
                orders,
                waker: driver.waker(),
                gauges,
            });
            lanes[lane].push((driver, lights));
        }
        for (number, lane) in lanes.into_iter().enumerate() {
            let thread = std::thread::Builder::new().name(format!("lane-{number}"));
            let shared = Arc::clone(&shared);
            fleet.lanes.push(thread.spawn(move || {
                run_lane(lane).inspect_err(|error| {
                    shared
                        .complaints
                        .add(format!("a socket of the generator failed: {error}"));
                })
            })?);
        }
        Ok(fleet)
    }

    /// Devices below this number shall be online, or, without a token, register.
    pub(crate) fn connect(&self, devices: u32) {
        self.order(Order::Connect(devices));
    }

    /// Devices below this number leave.
    pub(crate) fn leave(&self, devices: u32) {
        self.order(Order::Leave(devices));
    }

    /// From now on handshakes are resumed with the tickets that earlier ones brought.
    pub(crate) fn resume(&self) {
        self.shared.tickets.resume(true);
    }

    fn order(&self, order: Order) {
        for handle in &self.handles {
            // A driver that ended early is found when it is joined.
            let _ = handle.orders.send(order);
            handle.waker.wake();
        }
    }

    /// What can be seen now.
    pub(crate) fn seen(&self) -> Seen {
        let mut sum = Seen::default();
        for handle in &self.handles {
            sum += handle.gauges.seen();
        }
        sum
    }

    /// What went wrong so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.shared.complaints.all()
    }

    /// The addresses that the devices send from.
    pub(crate) fn addresses(&self) -> &BTreeSet<SocketAddr> {
        &self.addresses
    }

    /// All leave; what they brought.
    pub(crate) fn stop(mut self) -> Result<Harvest> {
        let mut harvest = Harvest {
            tallies: Vec::new(),
            latencies: Latencies::new(),
            connects: [Latencies::new(), Latencies::new()],
            doubled: 0,
            foreign: 0,
            tokens: Vec::new(),
            tickets_offered: self.shared.tickets.offered(),
            seen: self.seen(),
            complaints: Vec::new(),
        };
        self.order(Order::Stop);
        for lane in std::mem::take(&mut self.lanes) {
            let lane = lane
                .join()
                .map_err(|_| anyhow!("a lane of the generator panicked"))?;
            for (lights, _) in lane.context("a socket of the generator failed")? {
                harvest.latencies.add(&lights.tally.latencies);
                for (sum, more) in harvest.connects.iter_mut().zip(&lights.connects) {
                    sum.add(more);
                }
                harvest.doubled += lights.tally.doubled;
                harvest.foreign += lights.tally.foreign;
                harvest.tokens.extend(lights.tokens);
                harvest.tallies.push(lights.tally);
            }
        }
        harvest.complaints = self.shared.complaints.all();
        Ok(harvest)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.order(Order::Stop);
        for lane in self.lanes.drain(..) {
            // After a failure: what the lane brought is of no interest any more.
            let _ = lane.join();
        }
    }
}

impl Harvest {
    /// Deliveries of these messages that never came.
    pub(crate) fn missing(&self, messages: impl IntoIterator<Item = u32>) -> u64 {
        let of = |message| {
            self.tallies
                .iter()
                .map(|tally| tally.missing(message))
                .sum::<u64>()
        };
        messages.into_iter().map(of).sum()
    }
}

/// Runs the drivers of a lane, all on this thread.
fn run_lane(lane: Vec<(Driver, Lights)>) -> io::Result<Vec<(Lights, Stats)>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks: Vec<_> = lane
        .into_iter()
        .map(|(driver, lights)| runtime.spawn(driver.run(lights)))
        .collect();
    runtime.block_on(async {
        let mut ended = Vec::with_capacity(tasks.len());
        for task in tasks {
            ended.push(task.await.map_err(io::Error::other)??);
        }
        Ok(ended)
    })
}

/// Each socket has an address of its own: limits per source stay on, and no socket carries everything.
fn source(socket: u32) -> SocketAddr {
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let (net, host) = (socket / SOCKETS_PER_NET, socket % SOCKETS_PER_NET);
    (Ipv4Addr::new(127, 1, byte(net), byte(host + 1)), 0).into()
}

fn tls(ca: &[u8], tickets: &Arc<Tickets>) -> Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|error| anyhow!("the CA is not PEM ({error:?})"))?;
        roots
            .add(certificate)
            .context("the CA is no certificate to trust")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::store(Arc::clone(tickets) as Arc<_>);
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_addresses_of_their_own_on_loopback() {
        let addresses: BTreeSet<SocketAddr> = (0..16_384).map(source).collect();
        assert_eq!(addresses.len(), 16_384);
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        assert_eq!(source(0).to_string(), "127.1.0.1:0");
        assert_eq!(source(250).to_string(), "127.1.1.1:0");
    }
}
