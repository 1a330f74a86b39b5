//! An attacker who sees every datagram and may send any, from any address. For tests and fuzz targets.

mod datagrams;
mod frames;
mod input;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use self::{datagrams::datagrams, frames::resident_frames};
use super::{Identity, SERVER_NAME};
use crate::{ConnId, Event, Limits, Received, ShardCore, TransportKeys};

/// How long every datagram takes.
const DELAY: Duration = Duration::from_millis(10);

/// Datagrams that the attacker remembers.
const SEEN_MAX: usize = 4096;

/// A datagram that was sent.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Who sent it.
    pub from: SocketAddr,
    /// Whom it was for.
    pub to: SocketAddr,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// One end of an honest connection.
struct Honest {
    core: ShardCore,
    addr: SocketAddr,
    conn: Option<ConnId>,
    heard: usize,
}

/// A server, its honest clients, and somebody who is not honest.
pub struct Siege {
    /// What the server was made of.
    pub identity: Identity,
    now: Instant,
    server: Honest,
    clients: Vec<Honest>,
    flights: VecDeque<(Instant, Seen)>,
    seen: Vec<Seen>,
    /// Bytes that came from an address, and that the server sent there.
    account: HashMap<SocketAddr, (u64, u64)>,
    events: Vec<Event>,
}

impl Siege {
    /// A server with these limits, and nobody else.
    ///
    /// # Panics
    ///
    /// If the limits cannot work.
    pub fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let mut identity = Identity::new();
        change(&mut identity.limits);
        Self::with(identity)
    }

    /// A server of this identity, and nobody else.
    ///
    /// # Panics
    ///
    /// If its limits cannot work.
    #[must_use]
    pub fn with(identity: Identity) -> Self {
        let now = Instant::now();
        let core = ShardCore::new(&identity.server_config(), [1; 32], now);
        Self {
            server: Honest {
                core: core.expect("the configuration of a test works"),
                addr: ([10, 0, 0, 1], 443).into(),
                conn: None,
                heard: 0,
            },
            identity,
            now,
            clients: Vec::new(),
            flights: VecDeque::new(),
            seen: Vec::new(),
            account: HashMap::new(),
            events: Vec::new(),
        }
    }

    /// An honest client, whose connection rests when this returns. Its index.
    ///
    /// # Panics
    ///
    /// If the server does not let it in.
    pub fn connect(&mut self) -> usize {
        let index = self.clients.len();
        let number = u8::try_from(index).expect("a siege has few honest clients");
        let mut config = self.identity.client_config();
        // With the server's keys it would make true resets of the server (RFC 9000 §21.11).
        config.keys = Arc::new(TransportKeys::generate());
        let core = ShardCore::new(&config, [2 + number; 32], self.now);
        let mut core = core.expect("the configuration of a test works");
        let (server, setup) = (self.server.addr, self.identity.client_setup());
        let conn = core
            .connect(self.now, server, SERVER_NAME, &setup)
            .expect("address and name are valid");
        self.clients.push(Honest {
            core,
            addr: ([10, 0, 1, number], 1000).into(),
            conn: Some(conn),
            heard: 0,
        });
        self.run_for(Duration::from_millis(200));
        self.exchange(index);
        let residents = self.server.core.stats().residents;
        assert!(residents > 0, "the connection has gone over");
        index
    }

    /// Bytes in both directions.
    ///
    /// # Panics
    ///
    /// If they do not arrive.
    pub fn exchange(&mut self, client: usize) {
        let (before, heard) = (self.server.heard, self.clients[client].heard);
        let honest = &mut self.clients[client];
        if let Some(conn) = honest.conn {
            let sent = honest
                .core
                .send(conn, Bytes::from_static(b"are you there?"));
            assert_eq!(sent, Ok(()));
        }
        self.run_for(Duration::from_secs(2));
        assert_eq!(
            self.server.heard,
            before + 14,
            "the server hears its client"
        );
        let conn = self.server.conn.expect("it heard somebody");
        let sent = self.server.core.send(conn, Bytes::from_static(b"I am"));
        assert_eq!(sent, Ok(()));
        self.run_for(Duration::from_secs(2));
        assert_eq!(self.clients[client].heard, heard + 4, "and answers");
    }

    /// The server gets a datagram at once, and says what it has to say.
    pub fn inject(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.arrive(Seen {
            from,
            to: self.server.addr,
            bytes: bytes.to_vec(),
        });
        self.settle();
    }

    /// An honest client gets a datagram at once.
    pub fn inject_to_client(&mut self, client: usize, from: SocketAddr, bytes: &[u8]) {
        self.arrive(Seen {
            from,
            to: self.clients[client].addr,
            bytes: bytes.to_vec(),
        });
        self.settle();
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let arrival = self.flights.front().map(|(at, _)| *at);
            let cores = std::iter::once(&self.server).chain(&self.clients);
            let timers = cores.filter_map(|honest| honest.core.poll_timeout());
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while self.flights.front().is_some_and(|(at, _)| *at <= self.now) {
                if let Some((_, seen)) = self.flights.pop_front() {
                    self.arrive(seen);
                }
            }
            let now = self.now;
            for honest in std::iter::once(&mut self.server).chain(&mut self.clients) {
                if honest.core.poll_timeout().is_some_and(|at| at <= now) {
                    honest.core.handle_timeout(now);
                }
            }
        }
    }

    /// The server, for commands and statistics.
    pub fn server(&mut self) -> &mut ShardCore {
        &mut self.server.core
    }

    /// The server's address.
    #[must_use]
    pub fn server_addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// A client's address.
    #[must_use]
    pub fn client_addr(&self, client: usize) -> SocketAddr {
        self.clients[client].addr
    }

    /// What the honest sent and the server answered, the oldest first.
    #[must_use]
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Bytes that came to the server from an address, and that it sent there.
    #[must_use]
    pub fn account(&self, addr: SocketAddr) -> (u64, u64) {
        self.account.get(&addr).copied().unwrap_or_default()
    }

    /// What the server told its application so far, but for bytes.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Looks at what no attacker may change: strangers got no more than three times what came (RFC 9000 §8.1), and
    /// nothing waits.
    ///
    /// All of them together: the handshake engine counts what comes to a connection, wherever from, and an attacker may
    /// send one Initial in the name of many.
    ///
    /// # Panics
    ///
    /// If they did, or something does.
    pub fn assert_sparing(&mut self) {
        let is_honest = |addr| self.clients.iter().any(|client| client.addr == addr);
        let came: u64 = self.account.values().map(|(came, _)| came).sum();
        let strangers = self.account.iter().filter(|(addr, _)| !is_honest(**addr));
        let went: u64 = strangers.map(|(_, (_, went))| went).sum();
        assert!(went <= 3 * came, "{went} bytes to strangers for {came}");
        let stats = self.server.core.stats();
        let waiting = (stats.event_bytes, stats.reply_bytes, stats.remainder_bytes);
        assert_eq!(waiting, (0, 0, 0));
    }

    fn arrive(&mut self, mut datagram: Seen) {
        let honest = if datagram.to == self.server.addr {
            self.account.entry(datagram.from).or_default().0 += datagram.bytes.len() as u64;
            Some(&mut self.server)
        } else {
            self.clients
                .iter_mut()
                .find(|client| client.addr == datagram.to)
        };
        let Some(honest) = honest else {
            return;
        };
        let received = Received {
            remote: datagram.from,
            local_ip: Some(datagram.to.ip()),
            ecn: None,
            payload: &mut datagram.bytes,
        };
        honest.core.handle_datagram(self.now, received);
    }

    /// Fetches what everybody has to say.
    fn settle(&mut self) {
        for index in 0..=self.clients.len() {
            let is_server = index == self.clients.len();
            let honest = if is_server {
                &mut self.server
            } else {
                &mut self.clients[index]
            };
            let sent = honest.settle(self.now, is_server.then_some(&mut self.events));
            for datagram in sent {
                if is_server {
                    self.account.entry(datagram.to).or_default().1 += datagram.bytes.len() as u64;
                }
                if self.seen.len() < SEEN_MAX {
                    self.seen.push(datagram.clone());
                }
                self.flights.push_back((self.now + DELAY, datagram));
            }
        }
    }
}

impl Honest {
    fn settle(&mut self, now: Instant, mut events: Option<&mut Vec<Event>>) -> Vec<Seen> {
        let mut sent = Vec::new();
        let mut payload = Vec::new();
        loop {
            let before = sent.len();
            while let Some(event) = self.core.poll_event() {
                match event {
                    Event::Bytes { conn, bytes } => {
                        self.conn = Some(conn);
                        self.heard += bytes.len();
                    }
                    event => events
                        .iter_mut()
                        .for_each(|events| events.push(event.clone())),
                }
            }
            while let Some(transmit) = self.core.poll_transmit(now, &mut payload) {
                sent.extend(transmit.segments(&payload).map(|bytes| Seen {
                    from: self.addr,
                    to: transmit.destination,
                    bytes: bytes.to_vec(),
                }));
                payload.clear();
            }
            if sent.len() == before && !self.core.has_events() {
                return sent;
            }
        }
    }
}
