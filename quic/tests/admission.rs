//! Who is let in, what it costs to turn others away, and what nonsense does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use petrel_quic::{
    CloseReason, ConnId, Event, HandshakeFailure, ShardIndex,
    sim::{HostId, Identity, Link, Sim},
};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use crate::common::{Pair, closed, first_flight, hello};

const REFUSED: CloseReason = CloseReason::HandshakeFailed(HandshakeFailure::Refused);

fn stranger(number: u16) -> SocketAddr {
    ([192, 0, 2, 1], 1000 + number).into()
}

struct Scene {
    identity: Identity,
    sim: Sim,
    server: HostId,
    client: HostId,
}

impl Scene {
    fn new(change: impl FnOnce(&mut petrel_quic::Limits)) -> Self {
        let mut identity = Identity::new();
        change(&mut identity.limits);
        let mut sim = Sim::new(9, Link::GOOD);
        let server = sim.add_host(&identity.server_config());
        let client = sim.add_host(&Identity::new().client_config());
        Self {
            identity,
            sim,
            server,
            client,
        }
    }

    fn connect(&mut self) -> ConnId {
        self.sim
            .connect(self.client, self.server, &self.identity.client_setup())
    }

    /// A client that sends its first packets and is never heard of again.
    fn half_open(&mut self, number: u16) {
        let config = self.identity.client_config();
        for datagram in first_flight(&config, &self.identity.client_setup(), number as u8) {
            self.sim.inject(stranger(number), self.server, &datagram);
        }
        self.sim.step();
    }

    fn stats(&mut self) -> petrel_quic::Stats {
        self.sim.core(self.server).stats()
    }
}

#[test]
fn connections_are_bounded_and_a_slot_is_given_again() {
    let mut scene = Scene::new(|l| l.connections_max = 3);
    let conns: Vec<_> = (0..3)
        .map(|_| {
            let conn = scene.connect();
            hello(&mut scene.sim, scene.client, conn, scene.server);
            conn
        })
        .collect();
    assert_eq!(
        (scene.stats().connections, scene.stats().refused_total),
        (3, 0)
    );
    scene.connect();
    assert_eq!(closed(&mut scene.sim, scene.client), REFUSED);
    assert_eq!(
        (scene.stats().connections, scene.stats().refused_total),
        (3, 1)
    );
    assert_eq!(
        scene.stats().handshakes_started_total,
        3,
        "nothing was begun for it"
    );

    scene.sim.core(scene.client).close(conns[1], 0, b"");
    scene.sim.run_for(Duration::from_secs(5));
    scene.sim.take_events(scene.server);
    let conn = scene.connect();
    hello(&mut scene.sim, scene.client, conn, scene.server);
    assert_eq!(scene.stats().connections, 3);
}

#[test]
fn handshakes_in_progress_are_bounded_and_reaped() {
    let mut scene = Scene::new(|l| l.handshakes_max = 5);
    for number in 0..5 {
        scene.half_open(number);
    }
    assert_eq!(
        (scene.stats().handshakes, scene.stats().refused_total),
        (5, 0)
    );
    scene.half_open(5);
    assert_eq!(
        (scene.stats().handshakes, scene.stats().refused_total),
        (5, 1)
    );
    scene.sim.run_for(Duration::from_secs(9));
    assert_eq!(scene.stats().handshakes, 5);
    scene.sim.run_for(Duration::from_secs(2));
    let stats = scene.stats();
    assert_eq!(
        (
            stats.handshakes,
            stats.handshakes_timed_out_total,
            stats.lingering
        ),
        (0, 5, 0)
    );
    assert_eq!(
        scene.sim.take_events(scene.server),
        [],
        "the application never knew them"
    );
    let conn = scene.connect();
    hello(&mut scene.sim, scene.client, conn, scene.server);
}

#[test]
fn above_the_threshold_an_address_has_to_be_proven_first() {
    let mut scene = Scene::new(|l| l.retry_threshold = 2);
    scene.half_open(0);
    scene.half_open(1);
    assert_eq!(
        (scene.stats().handshakes, scene.stats().retries_total),
        (2, 0)
    );
    scene.half_open(2);
    assert_eq!(
        (scene.stats().handshakes, scene.stats().retries_total),
        (2, 1),
        "no state is kept"
    );
    let conn = scene.connect();
    hello(&mut scene.sim, scene.client, conn, scene.server);
    let stats = scene.stats();
    assert_eq!(
        (stats.connections, stats.handshakes, stats.retries_total),
        (1, 2, 2)
    );
}

#[test]
fn every_client_may_be_asked_to_retry() {
    let mut scene = Scene::new(|l| l.retry_threshold = 0);
    for retries in 1..=3 {
        let conn = scene.connect();
        hello(&mut scene.sim, scene.client, conn, scene.server);
        assert_eq!(scene.stats().retries_total, retries);
    }
    assert_eq!(scene.stats().connections, 3);
}

#[test]
fn a_shard_that_stopped_accepting_serves_whom_it_has() {
    let mut scene = Scene::new(|_| {});
    let conn = scene.connect();
    let on_server = hello(&mut scene.sim, scene.client, conn, scene.server);
    scene.sim.core(scene.server).stop_accepting();
    scene.connect();
    assert_eq!(closed(&mut scene.sim, scene.client), REFUSED);
    scene
        .sim
        .core(scene.client)
        .send(conn, Bytes::from_static(b"still served"))
        .unwrap();
    scene.sim.run_for(Duration::from_secs(1));
    let bytes = Bytes::from_static(b"still served");
    assert_eq!(
        scene.sim.take_events(scene.server),
        [Event::Bytes {
            conn: on_server,
            bytes
        }]
    );
}

#[test]
fn refusals_have_a_budget() {
    let mut scene = Scene::new(|l| {
        l.handshakes_max = 0;
        l.refusals_per_second = 3;
    });
    for number in 0..10 {
        scene.half_open(number);
    }
    let stats = scene.stats();
    assert_eq!(
        (stats.refused_total, stats.ignored_total, stats.handshakes),
        (3, 7, 0)
    );
}

/// A packet with a short header for an unknown connection ID that begins with `first`.
fn unknown_short(first: u8, number: u16) -> Vec<u8> {
    let mut packet = vec![0x40, first];
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(80, 7);
    packet
}

#[test]
fn resets_have_a_budget_of_their_own() {
    let mut scene = Scene::new(|l| l.resets_per_second = 3);
    for number in 0..10 {
        scene
            .sim
            .inject(stranger(number), scene.server, &unknown_short(1, number));
    }
    scene.sim.step();
    assert_eq!(
        (
            scene.stats().resets_total,
            scene.stats().resets_suppressed_total
        ),
        (3, 7)
    );
    scene.sim.run_for(Duration::from_secs(2));
    scene
        .sim
        .inject(stranger(0), scene.server, &unknown_short(1, 0));
    scene.sim.step();
    assert_eq!(
        (
            scene.stats().resets_total,
            scene.stats().resets_suppressed_total
        ),
        (4, 7)
    );
    // Too small to answer without making the answer larger than the question (RFC 9000 §10.3.3).
    scene
        .sim
        .inject(stranger(0), scene.server, &unknown_short(1, 0)[..20]);
    scene.sim.step();
    assert_eq!(scene.stats().resets_total, 4);
}

#[test]
fn a_shard_resets_only_ids_of_its_own() {
    let identity = Identity::new();
    let mut config = identity.server_config();
    config.shard = ShardIndex::new(1, 4).unwrap();
    let mut sim = Sim::new(1, Link::GOOD);
    let server = sim.add_host(&config);
    let client = sim.add_host(&identity.client_config());
    for first in 0..=255 {
        sim.inject(stranger(0), server, &unknown_short(first, 0));
    }
    sim.step();
    assert_eq!(sim.core(server).stats().resets_total, 64);
    let conn = sim.connect(client, server, &identity.client_setup());
    hello(&mut sim, client, conn, server);
}

#[test]
fn replies_that_wait_for_the_socket_are_bounded() {
    let identity = {
        let mut identity = Identity::new();
        identity.limits.replies_max = 4;
        identity
    };
    let now = std::time::Instant::now();
    let mut core = petrel_quic::ShardCore::new(&identity.server_config(), [1; 32], now).unwrap();
    for number in 0..10 {
        let mut payload = unknown_short(1, number);
        let remote = stranger(number);
        core.handle_datagram(
            now,
            petrel_quic::Received {
                remote,
                local_ip: None,
                ecn: None,
                payload: &mut payload[..],
            },
        );
    }
    let stats = core.stats();
    assert_eq!((stats.replies_dropped_total, stats.resets_total), (6, 4));
    assert!(stats.reply_bytes > 0 && stats.reply_bytes < 4 * 80);
    let mut out = Vec::new();
    let sent = std::iter::from_fn(|| core.poll_transmit(now, &mut out));
    assert_eq!(sent.count(), 4);
    assert_eq!(core.stats().reply_bytes, 0);
}

#[test]
fn nonsense_is_harmless() {
    let identity = Identity::new();
    let mut pair = Pair::new(&identity, Link::GOOD);
    let slots = pair.sim.core(pair.server).stats().slots;
    let mut rng = StdRng::seed_from_u64(11);
    let genuine = first_flight(&identity.client_config(), &identity.client_setup(), 77).remove(0);
    let client_addr = pair.sim.addr(pair.client);
    for round in 0..20_000u32 {
        let mut packet = match round % 4 {
            // Noise.
            0 => {
                let mut noise = vec![0; rng.random_range(0..1500)];
                rng.fill_bytes(&mut noise);
                noise
            }
            // A first packet cut short.
            1 => genuine[..rng.random_range(0..genuine.len())].to_vec(),
            // A first packet with damage: in its header or anywhere.
            2 => {
                let mut packet = genuine.clone();
                let end = if rng.random() { 40 } else { packet.len() };
                packet[rng.random_range(0..end)] ^= 1 << rng.random_range(0..8);
                packet
            }
            // Something that looks like an established connection's packet.
            _ => {
                let mut packet = vec![0; rng.random_range(1..200)];
                rng.fill_bytes(&mut packet);
                packet[0] = 0x40 | packet[0] & 0x3f;
                packet
            }
        };
        // Lone version negotiation and such.
        if round % 97 == 0 && packet.len() > 5 {
            packet[1..5].fill(0);
        }
        let from = if rng.random() {
            client_addr
        } else {
            stranger(round as u16 % 50)
        };
        let to = if rng.random() {
            pair.server
        } else {
            pair.client
        };
        pair.sim.inject(from, to, &packet);
        if round % 100 == 0 {
            pair.sim.run_for(Duration::from_millis(1));
        }
    }
    pair.sim.run_for(Duration::from_secs(1));
    let stats = pair.sim.core(pair.server).stats();
    assert_eq!(stats.slots, slots, "no more slots than before");
    assert_eq!((stats.connections, stats.handshakes), (1, 0), "{stats:?}");
    assert_eq!(
        (stats.event_bytes, stats.reply_bytes, stats.remainder_bytes),
        (0, 0, 0)
    );
    assert!(
        stats.handshakes_failed_total > 100,
        "damaged first packets were looked at"
    );
    assert!(stats.datagrams_received_total > 9_000);

    // And the connection under fire lives.
    pair.sim
        .core(pair.client)
        .send(pair.on_client, Bytes::from_static(b"unharmed"))
        .unwrap();
    pair.sim.run_for(Duration::from_secs(1));
    let bytes = Bytes::from_static(b"unharmed");
    assert_eq!(
        pair.sim.take_events(pair.server),
        [Event::Bytes {
            conn: pair.on_server,
            bytes
        }]
    );
}

/// One address may begin so many handshakes a second. Beyond it a client proves that it is there, and may begin as many
/// again; beyond that it is refused. Others, and the connections that are there, notice nothing.
#[test]
fn handshakes_of_one_source_are_bounded() {
    const RATE: usize = 3;
    let mut scene = Scene::new(|l| l.source_handshakes_per_second = RATE as u32);
    let other = scene.sim.add_host(&Identity::new().client_config());
    let old = scene.connect();
    hello(&mut scene.sim, scene.client, old, scene.server);
    scene.sim.run_for(Duration::from_secs(2));

    let flood: Vec<_> = (0..4 * RATE).map(|_| scene.connect()).collect();
    let setup = scene.identity.client_setup();
    let bystander = scene.sim.connect(other, scene.server, &setup);
    hello(&mut scene.sim, other, bystander, scene.server);
    scene.sim.run_for(Duration::from_millis(500));

    let stats = scene.stats();
    assert_eq!(stats.retries_total as usize, 3 * RATE, "asked to prove");
    assert_eq!(
        stats.refused_total as usize,
        2 * RATE,
        "proven, and refused"
    );
    let events = scene.sim.take_events(scene.client);
    let opened = |conn: &&ConnId| {
        let is_it = |event: &Event| matches!(event, Event::Opened { conn: c, .. } if c == *conn);
        events.iter().any(is_it)
    };
    assert_eq!(flood.iter().filter(opened).count(), 2 * RATE);
    let is_lost = |event: &Event| matches!(event, Event::Closed { conn, .. } if *conn == old);
    assert!(!events.iter().any(is_lost));

    // A second later there is room again.
    scene.sim.run_for(Duration::from_secs(1));
    let late = scene.connect();
    hello(&mut scene.sim, scene.client, late, scene.server);
}

#[test]
fn exempt_sources_are_bounded_by_the_shard_alone() {
    let mut scene = Scene::new(|l| {
        l.source_handshakes_per_second = 1;
        l.source_exempt = vec!["10.0.0.0/8".parse().unwrap()];
    });
    for _ in 0..10 {
        scene.connect();
    }
    scene.sim.run_for(Duration::from_millis(500));
    let stats = scene.stats();
    assert_eq!((stats.retries_total, stats.refused_total), (0, 0));
    assert_eq!(
        stats.handshakes_completed_total + u64::from(stats.handshakes),
        10
    );
}
