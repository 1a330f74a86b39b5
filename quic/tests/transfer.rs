//! Bytes over a bad network, and how little is held for a peer that does not take them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use petrel_quic::{
    CloseReason, Engine, Event, SendError,
    sim::{Identity, Inside, Link, Sim},
};

use crate::common::{Engines, Pair, Peer, closed, engine_was, pattern, with_all_engines};

with_all_engines![
    many_clients_exchange_bytes_over_a_bad_network,
    the_same_seed_gives_the_same_run,
    a_frame_larger_than_the_window_is_finished_before_the_next,
    no_writable_without_full,
    a_peer_that_never_reads_costs_no_more_than_the_windows,
    a_peer_that_vanished_costs_the_send_window_until_it_times_out,
];

fn many_clients_exchange_bytes_over_a_bad_network(engines: Engines) {
    const HOSTS: usize = 5;
    const CONNS: usize = 20;
    const FRAME: usize = 5_000;
    let identity = Identity::new();
    let setup = identity.client_setup();
    let mut sim = Sim::new(42, Link::STORMY);
    let server = sim.add_host(&engines.server_config(&identity));
    let mut server_peer = Peer::echo();
    let mut clients = Vec::new();
    for _ in 0..HOSTS {
        let host = sim.add_host(&engines.client_config(&identity));
        let conns: Vec<_> = (0..CONNS)
            .map(|_| sim.connect(host, server, &setup))
            .collect();
        let mut peer = Peer::default();
        for (i, &conn) in conns.iter().enumerate() {
            for frame in pattern(i, 4 * FRAME).chunks(FRAME) {
                peer.queue(conn, frame.to_vec());
            }
        }
        clients.push((host, conns, peer));
    }
    sim.run_until(|sim| {
        server_peer.pump(sim, server);
        for (host, _, peer) in &mut clients {
            peer.pump(sim, *host);
        }
        clients
            .iter()
            .all(|(_, conns, peer)| conns.iter().all(|&c| peer.heard(c) == 4 * FRAME))
    });
    for (_, conns, peer) in &clients {
        for (i, conn) in conns.iter().enumerate() {
            assert!(
                peer.inbox[conn] == pattern(i, 4 * FRAME),
                "connection {i} heard something else"
            );
        }
        assert_eq!(peer.closed.len(), 0);
    }
    assert!(
        sim.stats().lost > 100 && sim.stats().duplicated > 10,
        "{:?}",
        sim.stats()
    );
    let stats = sim.core(server).stats();
    assert_eq!(stats.connections as usize, HOSTS * CONNS);
    assert_eq!(stats.handshakes_completed_total as usize, HOSTS * CONNS);
    assert_eq!(
        stats.stream_bytes_received_total as usize,
        HOSTS * CONNS * 4 * FRAME
    );
    assert_eq!(
        (stats.handshakes, stats.lingering, stats.remainder_bytes),
        (0, 0, 0)
    );

    // Nothing leaks: when all are closed and have lingered, nothing is left and nothing will happen any more.
    for (host, conns, _) in &clients {
        for &conn in conns {
            sim.core(*host).close(conn, 0, b"");
        }
    }
    while sim.step() {}
    engine_was(engines.server, &mut sim, server);
    for host in std::iter::once(server).chain(clients.iter().map(|(host, ..)| *host)) {
        assert_eq!(sim.inside(host), Inside::default());
        let stats = sim.core(host).stats();
        assert_eq!(
            (stats.connections, stats.lingering, stats.connecting),
            (0, 0, 0)
        );
        assert_eq!(stats.residents, 0);
    }
    for (client, ..) in clients {
        engine_was(engines.client, &mut sim, client);
    }
}

fn the_same_seed_gives_the_same_run(engines: Engines) {
    let identity = Identity::new();
    let run = |seed| {
        let mut sim = Sim::new(seed, Link::LOSSY);
        let server = sim.add_host(&engines.server_config(&identity));
        let client = sim.add_host(&engines.client_config(&identity));
        let start = sim.now();
        let conn = sim.connect(client, server, &identity.client_setup());
        let mut peers = (Peer::echo(), Peer::default());
        peers.1.queue(conn, pattern(0, 50_000));
        sim.run_until(|sim| {
            peers.0.pump(sim, server);
            peers.1.pump(sim, client);
            peers.1.heard(conn) == 50_000
        });
        (sim.now() - start, sim.stats())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

fn a_frame_larger_than_the_window_is_finished_before_the_next(engines: Engines) {
    let mut identity = Identity::new();
    identity.limits.send_window_bytes = 1_000;
    let mut pair = Pair::at_rest(engines, &identity, Link::LOSSY);
    let (first, second) = (
        Bytes::from(pattern(1, 4_000)),
        Bytes::from(pattern(2, 3_000)),
    );
    let core = pair.sim.core(pair.server);
    core.send(pair.on_server, first.clone()).unwrap();
    let held = core.stats().remainder_bytes;
    match engines.server {
        Engine::Resident => assert_eq!(held, 0, "it is taken whole"),
        Engine::Proto => assert_eq!(held, 3_000, "the window took its part, the rest waits"),
    }
    // The very bytes come back, and nothing of them was taken.
    match core.send(pair.on_server, second.clone()) {
        Err(SendError::Full(back)) => assert_eq!(back.as_ptr(), second.as_ptr()),
        other => panic!("{other:?}"),
    }
    pair.sim.run_until(|sim| match sim.next_event(pair.server) {
        Some(event) => {
            assert_eq!(
                event,
                Event::Writable {
                    conn: pair.on_server
                }
            );
            true
        }
        None => false,
    });
    let core = pair.sim.core(pair.server);
    assert_eq!(
        core.stats().remainder_bytes,
        0,
        "the first frame is out before the next may come"
    );
    core.send(pair.on_server, second.clone()).unwrap();
    let mut heard = Vec::new();
    pair.sim.run_until(|sim| {
        while let Some(Event::Bytes { bytes, .. }) = sim.next_event(pair.client) {
            heard.extend_from_slice(&bytes);
        }
        heard.len() == 7_000
    });
    assert_eq!(heard, [first, second].concat());
    assert_eq!(
        pair.sim.take_events(pair.server),
        [],
        "nobody waits for another Writable"
    );
}

fn no_writable_without_full(engines: Engines) {
    let mut pair = Pair::at_rest(engines, &Identity::new(), Link::GOOD);
    pair.sim
        .core(pair.server)
        .send(pair.on_server, Bytes::from(pattern(1, 100_000)))
        .unwrap();
    pair.sim
        .core(pair.server)
        .send(pair.on_server, Bytes::new())
        .unwrap();
    pair.sim.run_for(Duration::from_secs(10));
    assert_eq!(pair.sim.take_events(pair.server), []);
}

#[test]
fn before_opening_a_connection_is_full_and_says_when_it_is_not() {
    let identity = Identity::new();
    let mut sim = Sim::new(1, Link::GOOD);
    let server = sim.add_host(&identity.server_config());
    let client = sim.add_host(&identity.client_config());
    let conn = sim.connect(client, server, &identity.client_setup());
    let hello = Bytes::from_static(b"hello");
    assert_eq!(
        sim.core(client).send(conn, hello.clone()),
        Err(SendError::Full(hello))
    );
    let mut events = Vec::new();
    sim.run_until(|sim| {
        events.extend(sim.take_events(client));
        events.len() == 2
    });
    let remote = sim.addr(server);
    assert_eq!(
        events,
        [Event::Opened { conn, remote }, Event::Writable { conn }]
    );
}

/// Bytes that know how many of their kind are alive.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

/// Sends frames of 1000 bytes until there is no room; answers how many bytes were accepted.
fn fill(pair: &mut Pair, alive: &Arc<AtomicUsize>) -> usize {
    let mut accepted = 0;
    loop {
        alive.fetch_add(1_000, Ordering::Relaxed);
        let frame = Bytes::from_owner(Counted(pattern(accepted, 1_000), Arc::clone(alive)));
        match pair.sim.core(pair.server).send(pair.on_server, frame) {
            Ok(()) => accepted += 1_000,
            Err(SendError::Full(_)) => return accepted,
            Err(SendError::Gone) => panic!("gone"),
        }
        assert!(accepted < 1_000_000, "no bound");
    }
}

fn a_peer_that_never_reads_costs_no_more_than_the_windows(engines: Engines) {
    let identity = Identity::new();
    let window = identity.limits.send_window_bytes as usize;
    let mut pair = Pair::at_rest(engines, &identity, Link::GOOD);
    pair.sim
        .core(pair.client)
        .pause_reading(pair.on_client, true);
    let alive = Arc::new(AtomicUsize::new(0));
    let mut accepted = 0;
    for _ in 0..100 {
        accepted += fill(&mut pair, &alive);
        // One frame may be half taken.
        assert!(alive.load(Ordering::Relaxed) <= window + 1_000);
        assert!(pair.sim.core(pair.server).stats().remainder_bytes < 1_000);
        pair.sim.run_for(Duration::from_secs(1));
        while let Some(event) = pair.sim.next_event(pair.server) {
            assert_eq!(
                event,
                Event::Writable {
                    conn: pair.on_server
                }
            );
        }
    }
    // What the peer's window allows has left this side, beside one unfinished frame.
    assert!(
        accepted <= identity.limits.receive_window_bytes as usize + 1_000,
        "{accepted}"
    );
    assert_eq!(pair.sim.take_events(pair.client), []);

    pair.sim
        .core(pair.client)
        .pause_reading(pair.on_client, false);
    let mut heard = 0;
    pair.sim.run_until(|sim| {
        while let Some(Event::Bytes { bytes, .. }) = sim.next_event(pair.client) {
            heard += bytes.len();
        }
        heard == accepted
    });
    pair.sim.run_for(Duration::from_secs(1));
    assert_eq!(
        alive.load(Ordering::Relaxed),
        0,
        "all acknowledged, so nothing is held"
    );
    assert_eq!(
        pair.sim.take_events(pair.server),
        [Event::Writable {
            conn: pair.on_server
        }]
    );
}

fn a_peer_that_vanished_costs_the_send_window_until_it_times_out(engines: Engines) {
    let identity = Identity::new();
    let mut pair = Pair::at_rest(engines, &identity, Link::GOOD);
    pair.sim.set_link(pair.client, Link::CUT);
    let alive = Arc::new(AtomicUsize::new(0));
    let accepted = fill(&mut pair, &alive);
    let window = identity.limits.send_window_bytes as usize;
    assert!((window..window + 1_000).contains(&accepted), "{accepted}");
    assert_eq!(alive.load(Ordering::Relaxed), accepted);
    let reason = closed(&mut pair.sim, pair.server);
    assert_eq!(reason, CloseReason::TimedOut);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    assert_eq!(pair.sim.core(pair.server).stats().remainder_bytes, 0);
}
