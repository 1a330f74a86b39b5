//! What the tests share: a peer that keeps what it hears and sends what is queued.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary uses its own part of this"
)]

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use petrel_quic::{
    CloseReason, ConnId, Engine, Event, SendError, ShardConfig, ShardCore,
    sim::{HostId, Identity, Link, SERVER_NAME, Sim},
};

/// Who serves the connections of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Engines {
    pub(crate) server: Engine,
    pub(crate) client: Engine,
}

impl Engines {
    pub(crate) const RESIDENT: Self = Self::new(Engine::Resident, Engine::Resident);
    pub(crate) const SERVER_RESIDENT: Self = Self::new(Engine::Resident, Engine::Proto);
    pub(crate) const CLIENT_RESIDENT: Self = Self::new(Engine::Proto, Engine::Resident);
    pub(crate) const PROTO: Self = Self::new(Engine::Proto, Engine::Proto);

    const fn new(server: Engine, client: Engine) -> Self {
        Self { server, client }
    }

    pub(crate) fn server_config(self, identity: &Identity) -> ShardConfig {
        ShardConfig {
            engine: self.server,
            ..identity.server_config()
        }
    }

    pub(crate) fn client_config(self, identity: &Identity) -> ShardConfig {
        ShardConfig {
            engine: self.client,
            ..identity.client_config()
        }
    }

    /// Lets the connections of a server and a client come to rest: those of a resident engine are handed over, and
    /// no others.
    pub(crate) fn rest(self, sim: &mut Sim, server: HostId, client: HostId) {
        let hosts = [(self.server, server), (self.client, client)];
        sim.run_for(Duration::from_secs(1));
        sim.run_until(|sim| {
            hosts.iter().all(|&(engine, host)| {
                let stats = sim.core(host).stats();
                engine == Engine::Proto || stats.residents == stats.connections
            })
        });
        for (engine, host) in hosts {
            engine_was(engine, sim, host);
        }
    }
}

/// Checks that the connections of a host were handed over to the resident engine if they had to, and else none.
pub(crate) fn engine_was(engine: Engine, sim: &mut Sim, host: HostId) {
    let handed_over = sim.core(host).stats().residents_total;
    assert_eq!(handed_over > 0, engine == Engine::Resident);
}

/// Tests that run with each pair of engines, each under a name of its own.
macro_rules! with_all_engines {
    ($($test:ident),* $(,)?) => {
        with_all_engines!(@ both_resident RESIDENT $($test)*);
        with_all_engines!(@ server_resident SERVER_RESIDENT $($test)*);
        with_all_engines!(@ client_resident CLIENT_RESIDENT $($test)*);
        with_all_engines!(@ none_resident PROTO $($test)*);
    };
    (@ $module:ident $engines:ident $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test(crate::common::Engines::$engines);
                }
            )*
        }
    };
}
pub(crate) use with_all_engines;

/// An application on one host of a simulation.
#[derive(Default)]
pub(crate) struct Peer {
    /// In order of opening.
    pub(crate) opened: Vec<ConnId>,
    pub(crate) inbox: HashMap<ConnId, Vec<u8>>,
    pub(crate) outbox: HashMap<ConnId, VecDeque<Bytes>>,
    pub(crate) closed: HashMap<ConnId, CloseReason>,
    pub(crate) writable: u64,
    /// Sends everything back.
    pub(crate) echo: bool,
}

impl Peer {
    pub(crate) fn echo() -> Self {
        Self {
            echo: true,
            ..Self::default()
        }
    }

    pub(crate) fn queue(&mut self, conn: ConnId, bytes: impl Into<Bytes>) {
        self.outbox.entry(conn).or_default().push_back(bytes.into());
    }

    pub(crate) fn heard(&self, conn: ConnId) -> usize {
        self.inbox.get(&conn).map_or(0, Vec::len)
    }

    /// Handles what has happened, and sends what can be sent.
    pub(crate) fn pump(&mut self, sim: &mut Sim, host: HostId) {
        for event in sim.take_events(host) {
            assert!(
                !self.closed.contains_key(&event.conn()),
                "{event:?} after Closed"
            );
            match event {
                Event::Opened { conn, .. } => self.opened.push(conn),
                Event::Bytes { conn, bytes } => {
                    assert!(self.opened.contains(&conn), "bytes before Opened");
                    self.inbox
                        .entry(conn)
                        .or_default()
                        .extend_from_slice(&bytes);
                    if self.echo {
                        self.queue(conn, bytes);
                    }
                }
                Event::Writable { .. } => self.writable += 1,
                Event::Closed { conn, reason } => {
                    self.closed.insert(conn, reason);
                }
            }
        }
        for (&conn, queue) in &mut self.outbox {
            while let Some(bytes) = queue.pop_front() {
                match sim.core(host).send(conn, bytes) {
                    Ok(()) => {}
                    Err(SendError::Full(bytes)) => {
                        queue.push_front(bytes);
                        break;
                    }
                    Err(SendError::Gone) => queue.clear(),
                }
            }
        }
    }
}

/// Bytes that betray loss, repetition and reordering.
pub(crate) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i * 31 + seed * 7 + (i >> 8)) % 251) as u8)
        .collect()
}

/// Two connected ends: the client has spoken, the server has heard it.
pub(crate) struct Pair {
    pub(crate) sim: Sim,
    pub(crate) server: HostId,
    pub(crate) client: HostId,
    pub(crate) on_server: ConnId,
    pub(crate) on_client: ConnId,
}

impl Pair {
    pub(crate) fn new(identity: &Identity, link: Link) -> Self {
        Self::with(Engines::RESIDENT, identity, link)
    }

    /// Whoever shall serve them does.
    pub(crate) fn at_rest(engines: Engines, identity: &Identity, link: Link) -> Self {
        let mut pair = Self::with(engines, identity, link);
        engines.rest(&mut pair.sim, pair.server, pair.client);
        pair
    }

    fn with(engines: Engines, identity: &Identity, link: Link) -> Self {
        let mut sim = Sim::new(1, link);
        let server = sim.add_host(&engines.server_config(identity));
        let client = sim.add_host(&engines.client_config(identity));
        let on_client = sim.connect(client, server, &identity.client_setup());
        let on_server = hello(&mut sim, client, on_client, server);
        Self {
            sim,
            server,
            client,
            on_server,
            on_client,
        }
    }

    pub(crate) fn closed(&mut self, host: HostId) -> CloseReason {
        closed(&mut self.sim, host)
    }
}

/// Lets a client speak first; answers with the server's name of the connection.
pub(crate) fn hello(sim: &mut Sim, client: HostId, on_client: ConnId, server: HostId) -> ConnId {
    sim.run_until(|sim| matches!(sim.next_event(client), Some(Event::Opened { conn, .. }) if conn == on_client));
    sim.core(client)
        .send(on_client, Bytes::from_static(b"hello"))
        .unwrap();
    let mut on_server = None;
    sim.run_until(|sim| match sim.next_event(server) {
        Some(Event::Opened { conn, .. }) => {
            on_server = Some(conn);
            false
        }
        Some(Event::Bytes { conn, bytes }) => {
            assert_eq!((Some(conn), &bytes[..]), (on_server, b"hello".as_slice()));
            true
        }
        None => false,
        other => panic!("{other:?}"),
    });
    on_server.unwrap()
}

/// Waits for the end of a connection.
pub(crate) fn closed(sim: &mut Sim, host: HostId) -> CloseReason {
    let mut found = None;
    sim.run_until(|sim| {
        while let Some(event) = sim.next_event(host) {
            if let Event::Closed { reason, .. } = event {
                found = Some(reason);
            }
        }
        found.is_some()
    });
    found.unwrap()
}

/// The first datagrams of a client, as they would go to a server.
pub(crate) fn first_flight(
    config: &ShardConfig,
    setup: &petrel_quic::ClientSetup,
    seed: u8,
) -> Vec<Vec<u8>> {
    let now = Instant::now();
    let mut core = ShardCore::new(config, [seed; 32], now).unwrap();
    core.connect(now, "10.9.9.9:4433".parse().unwrap(), SERVER_NAME, setup)
        .unwrap();
    while core.poll_event().is_some() {}
    let mut flight = Vec::new();
    let mut payload = Vec::new();
    while let Some(transmit) = core.poll_transmit(now, &mut payload) {
        flight.extend(transmit.segments(&payload).map(<[u8]>::to_vec));
        payload.clear();
    }
    assert!(!flight.is_empty());
    flight
}
