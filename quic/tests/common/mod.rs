//! What the tests share: a peer that keeps what it hears and sends what is queued.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use bytes::Bytes;
use petrel_quic::{
    CloseReason, ConnId, Event, SendError, ShardConfig, ShardCore,
    sim::{HostId, SERVER_NAME, Sim},
};

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
    pub(crate) fn new(identity: &petrel_quic::sim::Identity, link: petrel_quic::sim::Link) -> Self {
        let mut sim = Sim::new(1, link);
        let server = sim.add_host(&identity.server_config());
        let client = sim.add_host(&identity.client_config());
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
