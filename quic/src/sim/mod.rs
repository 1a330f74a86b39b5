//! A simulated network under virtual time, for tests.
//!
//! Every host is a [`ShardCore`] behind one address. Links lose, delay, reorder and duplicate datagrams as a seed says.
//! Nothing sleeps and no socket is opened: a minute passes in microseconds, and the same seed gives the same run as
//! long as the applications do the same (certificates of [`Identity`] have signatures of fixed length, so that TLS's
//! own randomness changes no datagram's size).
//!
//! ```
//! use petrel_quic::{Event, sim::{Identity, Link, Sim}};
//!
//! let identity = Identity::new();
//! let mut sim = Sim::new(7, Link::LOSSY);
//! let server = sim.add_host(&identity.server_config());
//! let client = sim.add_host(&identity.client_config());
//! let conn = sim.connect(client, server, &identity.client_setup());
//! sim.run_until(|sim| matches!(sim.next_event(client), Some(Event::Opened { .. })));
//! sim.core(client).send(conn, "hello".into()).unwrap();
//! sim.run_until(|sim| matches!(sim.next_event(server), Some(Event::Bytes { .. })));
//! ```

#[doc(hidden)]
pub mod hostile;
mod identity;
mod link;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{RngCore, SeedableRng, rngs::StdRng};

pub use self::{
    identity::{Identity, SERVER_NAME, TEST_ALPN},
    link::Link,
};
pub use crate::shard::Inside;
use crate::{ClientSetup, ConnId, Ecn, Event, Received, ShardConfig, ShardCore};

/// Virtual time after which a run that should have ended is given up.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A host of a simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(usize);

/// What the network did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Datagrams that arrived.
    pub delivered: u64,
    /// Datagrams that were lost.
    pub lost: u64,
    /// Datagrams that were sent twice by the network.
    pub duplicated: u64,
    /// Datagrams to an address where nobody is.
    pub unroutable: u64,
}

struct Host {
    core: ShardCore,
    addr: SocketAddr,
    link: Link,
    events: VecDeque<Event>,
}

/// A datagram on its way, ordered by arrival, then by departure.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Instant,
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
}

/// Hosts, the network between them, and the time.
pub struct Sim {
    now: Instant,
    rng: StdRng,
    link: Link,
    hosts: Vec<Host>,
    host_by_addr: HashMap<SocketAddr, HostId>,
    flights: BinaryHeap<Reverse<Flight>>,
    flights_begun: u64,
    stats: NetStats,
}

impl Sim {
    /// An empty network. Every host that is added gets this link.
    #[must_use]
    pub fn new(seed: u64, link: Link) -> Self {
        Self {
            now: Instant::now(),
            rng: StdRng::seed_from_u64(seed),
            link,
            hosts: Vec::new(),
            host_by_addr: HashMap::new(),
            flights: BinaryHeap::new(),
            flights_begun: 0,
            stats: NetStats::default(),
        }
    }

    /// Adds a host with an address of its own.
    ///
    /// # Panics
    ///
    /// If the configuration cannot work, or there are more than 65,000 hosts.
    pub fn add_host(&mut self, config: &ShardConfig) -> HostId {
        let id = HostId(self.hosts.len());
        let core = self.new_core(config);
        let host = Host {
            core,
            addr: Self::addr_of(id.0, 4433),
            link: self.link,
            events: VecDeque::new(),
        };
        self.host_by_addr.insert(host.addr, id);
        self.hosts.push(host);
        id
    }

    /// Kills a host and starts another in its place: same address, nothing remembered.
    ///
    /// # Panics
    ///
    /// If the configuration cannot work.
    pub fn restart(&mut self, host: HostId, config: &ShardConfig) {
        let core = self.new_core(config);
        self.hosts[host.0].core = core;
        self.hosts[host.0].events.clear();
    }

    /// Gives a host another port, as a NAT does that forgot it. What is on the way to the old one is lost.
    pub fn rebind(&mut self, host: HostId) {
        let old = self.hosts[host.0].addr;
        let new = Self::addr_of(host.0, old.port() + 1);
        self.host_by_addr.remove(&old);
        self.host_by_addr.insert(new, host);
        self.hosts[host.0].addr = new;
    }

    /// Changes the link of one host; what it sends and what it receives go through it.
    pub fn set_link(&mut self, host: HostId, link: Link) {
        self.hosts[host.0].link = link;
    }

    /// Begins a connection.
    ///
    /// # Panics
    ///
    /// If the core refuses.
    pub fn connect(&mut self, from: HostId, to: HostId, setup: &ClientSetup) -> ConnId {
        let remote = self.addr(to);
        let now = self.now;
        self.core(from)
            .connect(now, remote, SERVER_NAME, setup)
            .expect("the simulator's addresses and names are valid")
    }

    /// The shard of a host, for commands. What it has to say is fetched at the next [`step`](Self::step).
    pub fn core(&mut self, host: HostId) -> &mut ShardCore {
        &mut self.hosts[host.0].core
    }

    /// What a host holds.
    #[must_use]
    pub fn inside(&self, host: HostId) -> Inside {
        self.hosts[host.0].core.inside()
    }

    /// A host's address.
    #[must_use]
    pub fn addr(&self, host: HostId) -> SocketAddr {
        self.hosts[host.0].addr
    }

    /// Virtual now.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What the network did so far.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        self.stats
    }

    /// The next event of a host that was not looked at yet.
    pub fn next_event(&mut self, host: HostId) -> Option<Event> {
        self.hosts[host.0].events.pop_front()
    }

    /// All events of a host that were not looked at yet.
    pub fn take_events(&mut self, host: HostId) -> Vec<Event> {
        self.hosts[host.0].events.drain(..).collect()
    }

    /// Delivers a datagram at once, from any address, as an attacker might.
    pub fn inject(&mut self, from: SocketAddr, to: HostId, payload: &[u8]) {
        let to = self.addr(to);
        self.fly(Flight {
            at: self.now,
            number: 0,
            from,
            to,
            payload: payload.to_vec(),
        });
    }

    /// Lets all hosts say what they have to say, then moves to the next moment at which something happens.
    ///
    /// False if nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        self.settle();
        let Some(next) = self.next_moment() else {
            return false;
        };
        self.move_to(next);
        true
    }

    /// Steps until a condition holds. It is looked at before the first step and after each.
    ///
    /// # Panics
    ///
    /// If it does not hold after an hour of virtual time, or nothing happens any more.
    pub fn run_until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) {
        let start = self.now;
        while !condition(self) {
            assert!(
                self.step(),
                "nothing happens any more, and the condition does not hold"
            );
            self.settle();
            assert!(
                self.now - start < PATIENCE,
                "the condition does not hold after {PATIENCE:?}"
            );
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_for_with(duration, |_| {});
    }

    /// Lets time pass, and has the applications act at every moment at which something happened, the first one
    /// included.
    pub fn run_for_with(&mut self, duration: Duration, mut act: impl FnMut(&mut Self)) {
        let end = self.now + duration;
        loop {
            self.settle();
            act(self);
            self.settle();
            let Some(next) = self.next_moment().filter(|&next| next <= end) else {
                break;
            };
            self.move_to(next);
        }
        self.now = end;
    }

    fn new_core(&mut self, config: &ShardConfig) -> ShardCore {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        ShardCore::new(config, seed, self.now).expect("the configuration of a test works")
    }

    fn addr_of(host: usize, port: u16) -> SocketAddr {
        let number = u16::try_from(host).expect("a simulation has fewer than 65,536 hosts");
        let [high, low] = number.to_be_bytes();
        (Ipv4Addr::new(10, 0, high, low), port).into()
    }

    /// Fetches events and transmits of every host.
    fn settle(&mut self) {
        for index in 0..self.hosts.len() {
            let mut out = Vec::new();
            let host = &mut self.hosts[index];
            loop {
                let before = out.len();
                while let Some(event) = host.core.poll_event() {
                    host.events.push_back(event);
                }
                let mut payload = Vec::new();
                while let Some(transmit) = host.core.poll_transmit(self.now, &mut payload) {
                    out.extend(
                        transmit
                            .segments(&payload)
                            .map(|s| (transmit.destination, s.to_vec())),
                    );
                    payload.clear();
                }
                if out.len() == before && !host.core.has_events() {
                    break;
                }
            }
            let (from, link) = (host.addr, host.link);
            for (to, payload) in out {
                self.send(from, to, link, payload);
            }
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, near: Link, payload: Vec<u8>) {
        let far = self
            .host_by_addr
            .get(&to)
            .map_or(Link::PERFECT, |id| self.hosts[id.0].link);
        if near.loses(&mut self.rng) || far.loses(&mut self.rng) {
            self.stats.lost += 1;
            return;
        }
        if near.duplicates(&mut self.rng) || far.duplicates(&mut self.rng) {
            self.stats.duplicated += 1;
            let at = self.now + near.delay(&mut self.rng) + far.delay(&mut self.rng);
            self.fly(Flight {
                at,
                number: 0,
                from,
                to,
                payload: payload.clone(),
            });
        }
        let at = self.now + near.delay(&mut self.rng) + far.delay(&mut self.rng);
        self.fly(Flight {
            at,
            number: 0,
            from,
            to,
            payload,
        });
    }

    fn fly(&mut self, flight: Flight) {
        self.flights_begun += 1;
        self.flights.push(Reverse(Flight {
            number: self.flights_begun,
            ..flight
        }));
    }

    fn next_moment(&self) -> Option<Instant> {
        let arrival = self.flights.peek().map(|Reverse(flight)| flight.at);
        let timer = self
            .hosts
            .iter()
            .filter_map(|host| host.core.poll_timeout())
            .min();
        arrival
            .into_iter()
            .chain(timer)
            .min()
            .map(|at| at.max(self.now))
    }

    /// Moves the clock and does what is due.
    fn move_to(&mut self, now: Instant) {
        self.now = now;
        while self
            .flights
            .peek()
            .is_some_and(|Reverse(flight)| flight.at <= now)
        {
            let Some(Reverse(mut flight)) = self.flights.pop() else {
                break;
            };
            let Some(to) = self.host_by_addr.get(&flight.to) else {
                self.stats.unroutable += 1;
                continue;
            };
            self.stats.delivered += 1;
            let datagram = Received {
                remote: flight.from,
                local_ip: Some(flight.to.ip()),
                ecn: Some(Ecn::Ect0),
                payload: &mut flight.payload,
            };
            self.hosts[to.0].core.handle_datagram(now, datagram);
        }
        for host in &mut self.hosts {
            if host.core.poll_timeout().is_some_and(|at| at <= now) {
                host.core.handle_timeout(now);
            }
        }
    }
}
