//! How connections end, and that the end of one does nothing to another.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use petrel_quic::{
    CloseReason, ConnectError, Event, HandshakeFailure, SendError, TransportKeys, close_code,
    sim::{Identity, Link, SERVER_NAME, Sim},
};

use crate::common::{Engines, Pair, closed, hello, with_all_engines};

with_all_engines![
    the_client_closes_with_a_code,
    the_server_closes_with_a_code,
    bytes_sent_before_the_close_are_heard_before_it,
    a_stale_id_does_nothing_to_the_connection_in_its_slot,
    a_closed_id_is_gone_at_once,
    a_silent_connection_times_out_on_both_sides_and_not_before_its_time,
    the_smaller_idle_timeout_counts_and_bytes_keep_alive,
    a_restarted_server_resets_what_it_does_not_know,
    a_device_is_back_within_two_seconds_of_its_first_packet_after_a_restart,
    a_server_with_other_keys_cannot_reset,
    a_client_that_changes_its_address_keeps_its_connection,
];

fn by_peer(code: u64, reason: &'static [u8]) -> CloseReason {
    CloseReason::ByPeer {
        code,
        reason: Bytes::from_static(reason),
    }
}

fn the_client_closes_with_a_code(engines: Engines) {
    let mut pair = Pair::at_rest(engines, &Identity::new(), Link::GOOD);
    pair.sim.core(pair.client).close(pair.on_client, 7, b"bye");
    assert_eq!(pair.closed(pair.client), CloseReason::Local { code: 7 });
    assert_eq!(pair.closed(pair.server), by_peer(7, b"bye"));
}

fn the_server_closes_with_a_code(engines: Engines) {
    let mut pair = Pair::at_rest(engines, &Identity::new(), Link::GOOD);
    pair.sim
        .core(pair.server)
        .close(pair.on_server, u32::MAX, b"full");
    assert_eq!(
        pair.closed(pair.server),
        CloseReason::Local { code: u32::MAX }
    );
    assert_eq!(
        pair.closed(pair.client),
        by_peer(u64::from(u32::MAX), b"full")
    );
    while pair.sim.step() {}
    let stats = pair.sim.core(pair.server).stats();
    assert_eq!(
        (stats.connections, stats.lingering, stats.slots),
        (0, 0, 256)
    );
    assert_eq!(stats.handshakes_failed_total, 0);
}

fn bytes_sent_before_the_close_are_heard_before_it(engines: Engines) {
    let mut pair = Pair::at_rest(engines, &Identity::new(), Link::GOOD);
    pair.sim
        .core(pair.client)
        .send(pair.on_client, Bytes::from_static(b"last words"))
        .unwrap();
    pair.sim.run_for(Duration::from_millis(1));
    pair.sim.core(pair.client).close(pair.on_client, 1, b"");
    pair.sim.run_for(Duration::from_secs(1));
    let conn = pair.on_server;
    assert_eq!(
        pair.sim.take_events(pair.server),
        [
            Event::Bytes {
                conn,
                bytes: Bytes::from_static(b"last words")
            },
            Event::Closed {
                conn,
                reason: by_peer(1, b"")
            },
        ]
    );
}

fn a_stale_id_does_nothing_to_the_connection_in_its_slot(engines: Engines) {
    let identity = Identity::new();
    let mut pair = Pair::at_rest(engines, &identity, Link::GOOD);
    let stale = pair.on_server;
    pair.sim.core(pair.client).close(pair.on_client, 0, b"");
    while pair.sim.step() {}
    pair.sim.take_events(pair.server);
    pair.sim.take_events(pair.client);

    let again = pair
        .sim
        .connect(pair.client, pair.server, &identity.client_setup());
    let fresh = hello(&mut pair.sim, pair.client, again, pair.server);
    assert_eq!(fresh.slot, stale.slot, "the slot is used again");
    assert_ne!(fresh, stale);
    let core = pair.sim.core(pair.server);
    assert_eq!(
        core.send(stale, Bytes::from_static(b"to nobody")),
        Err(SendError::Gone)
    );
    assert_eq!(core.remote(stale), None);
    core.pause_reading(stale, true);
    core.close(stale, 9, b"not you");
    let stats = core.stats();
    pair.sim
        .core(pair.client)
        .send(again, Bytes::from_static(b"still here"))
        .unwrap();
    pair.sim.run_for(Duration::from_secs(5));
    let bytes = Bytes::from_static(b"still here");
    assert_eq!(
        pair.sim.take_events(pair.server),
        [Event::Bytes { conn: fresh, bytes }]
    );
    assert_eq!(pair.sim.take_events(pair.client), []);
    assert_eq!(stats.connections, 1);
}

fn a_closed_id_is_gone_at_once(engines: Engines) {
    let mut pair = Pair::at_rest(engines, &Identity::new(), Link::GOOD);
    let core = pair.sim.core(pair.server);
    core.close(pair.on_server, 1, b"");
    core.close(pair.on_server, 2, b"");
    assert_eq!(
        core.send(pair.on_server, Bytes::from_static(b"x")),
        Err(SendError::Gone)
    );
    assert_eq!(core.stats().lingering, 1);
    assert_eq!(pair.closed(pair.server), CloseReason::Local { code: 1 });
    assert_eq!(pair.closed(pair.client), by_peer(1, b""));
    pair.sim.run_for(Duration::from_secs(10));
    assert_eq!(pair.sim.take_events(pair.server), [], "closed once");
}

fn a_silent_connection_times_out_on_both_sides_and_not_before_its_time(engines: Engines) {
    let mut identity = Identity::new();
    identity.limits.idle_timeout = Duration::from_secs(60);
    let mut pair = Pair::at_rest(engines, &identity, Link::GOOD);
    pair.sim
        .core(pair.client)
        .send(pair.on_client, Bytes::from_static(b"."))
        .unwrap();
    pair.sim.run_for(Duration::from_secs(59));
    pair.sim.take_events(pair.server);
    assert_eq!(pair.sim.core(pair.server).stats().connections, 1);
    assert_eq!(pair.sim.core(pair.client).stats().connections, 1);
    pair.sim.run_for(Duration::from_secs(2));
    for (host, conn) in [(pair.server, pair.on_server), (pair.client, pair.on_client)] {
        let reason = CloseReason::TimedOut;
        assert_eq!(pair.sim.take_events(host), [Event::Closed { conn, reason }]);
        let stats = pair.sim.core(host).stats();
        assert_eq!((stats.connections, stats.lingering), (0, 0));
    }
}

fn the_smaller_idle_timeout_counts_and_bytes_keep_alive(engines: Engines) {
    let mut identity = Identity::new();
    let server_config = engines.server_config(&identity);
    identity.limits.idle_timeout = Duration::from_secs(20);
    let mut sim = Sim::new(5, Link::GOOD);
    let server = sim.add_host(&server_config);
    let client = sim.add_host(&engines.client_config(&identity));
    let conn = sim.connect(client, server, &identity.client_setup());
    hello(&mut sim, client, conn, server);
    engines.rest(&mut sim, server, client);
    for _ in 0..10 {
        sim.run_for(Duration::from_secs(15));
        sim.core(client)
            .send(conn, Bytes::from_static(b"."))
            .unwrap();
    }
    sim.run_for(Duration::from_secs(19));
    assert_eq!(sim.take_events(client), []);
    assert_eq!(closed(&mut sim, server), CloseReason::TimedOut);
}

fn a_restarted_server_resets_what_it_does_not_know(engines: Engines) {
    let identity = Identity::new();
    let mut pair = Pair::at_rest(engines, &identity, Link::GOOD);
    pair.sim.run_for(Duration::from_secs(1));
    pair.sim
        .restart(pair.server, &engines.server_config(&identity));
    let start = pair.sim.now();
    pair.sim
        .core(pair.client)
        .send(pair.on_client, Bytes::from_static(b"are you there?"))
        .unwrap();
    assert_eq!(pair.closed(pair.client), CloseReason::Reset);
    assert!(
        pair.sim.now() - start < Duration::from_secs(1),
        "at its first packet"
    );
    assert_eq!(pair.sim.core(pair.server).stats().resets_total, 1);
}

fn a_device_is_back_within_two_seconds_of_its_first_packet_after_a_restart(engines: Engines) {
    let identity = Identity::new();
    // 100 ms each way.
    let far = Link {
        delay: Duration::from_millis(50),
        ..Link::PERFECT
    };
    let mut pair = Pair::at_rest(engines, &identity, far);
    pair.sim
        .restart(pair.server, &engines.server_config(&identity));
    let start = pair.sim.now();
    pair.sim.core(pair.client).ping(pair.on_client);
    assert_eq!(pair.closed(pair.client), CloseReason::Reset);
    let again = pair
        .sim
        .connect(pair.client, pair.server, &identity.client_setup());
    hello(&mut pair.sim, pair.client, again, pair.server);
    let took = pair.sim.now() - start;
    assert!(took < Duration::from_secs(2), "{took:?}");
    engines.rest(&mut pair.sim, pair.server, pair.client);
}

fn a_server_with_other_keys_cannot_reset(engines: Engines) {
    let mut identity = Identity::new();
    identity.limits.idle_timeout = Duration::from_secs(30);
    let mut pair = Pair::at_rest(engines, &identity, Link::GOOD);
    identity.keys = Arc::new(TransportKeys::generate());
    pair.sim
        .restart(pair.server, &engines.server_config(&identity));
    pair.sim
        .core(pair.client)
        .send(pair.on_client, Bytes::from_static(b"are you there?"))
        .unwrap();
    assert_eq!(pair.closed(pair.client), CloseReason::TimedOut);
    assert!(
        pair.sim.core(pair.server).stats().resets_total > 0,
        "it tried"
    );
}

fn a_client_that_changes_its_address_keeps_its_connection(engines: Engines) {
    let mut pair = Pair::at_rest(engines, &Identity::new(), Link::GOOD);
    pair.sim.run_for(Duration::from_secs(1));
    let before = pair.sim.core(pair.server).remote(pair.on_server);
    assert_eq!(before, Some(pair.sim.addr(pair.client)));
    pair.sim.rebind(pair.client);
    pair.sim
        .core(pair.client)
        .send(pair.on_client, Bytes::from_static(b"moved"))
        .unwrap();
    pair.sim.run_for(Duration::from_secs(1));
    let now = pair.sim.addr(pair.client);
    assert_eq!(pair.sim.core(pair.server).remote(pair.on_server), Some(now));
    assert_ne!(before, Some(now));
    pair.sim
        .core(pair.server)
        .send(pair.on_server, Bytes::from_static(b"found you"))
        .unwrap();
    pair.sim.run_for(Duration::from_secs(1));
    let bytes = Bytes::from_static(b"found you");
    assert_eq!(
        pair.sim.take_events(pair.client),
        [Event::Bytes {
            conn: pair.on_client,
            bytes
        }]
    );
}

#[test]
fn a_client_that_opens_no_stream_is_closed_after_the_handshake_timeout() {
    let identity = Identity::new();
    let mut sim = Sim::new(1, Link::GOOD);
    let server = sim.add_host(&identity.server_config());
    let client = sim.add_host(&identity.client_config());
    sim.connect(client, server, &identity.client_setup());
    sim.run_for(Duration::from_secs(9));
    assert_eq!(sim.core(server).stats().handshakes, 1);
    assert_eq!(
        closed(&mut sim, client),
        by_peer(u64::from(close_code::STREAM_MISSING), b"")
    );
    assert_eq!(
        sim.take_events(server),
        [],
        "the server's application never knew it"
    );
    let stats = sim.core(server).stats();
    assert_eq!(
        (
            stats.handshakes,
            stats.handshakes_failed_total,
            stats.rules_broken_total
        ),
        (0, 1, 1)
    );
}

#[test]
fn handshakes_fail_with_a_cause() {
    let identity = Identity::new();
    let mut sim = Sim::new(1, Link::GOOD);
    let server = sim.add_host(&identity.server_config());
    let client = sim.add_host(&identity.client_config());
    let failure = |sim: &mut Sim, other: &Identity| {
        sim.connect(client, server, &other.client_setup());
        match closed(sim, client) {
            CloseReason::HandshakeFailed(failure) => failure,
            other => panic!("{other:?}"),
        }
    };

    let mut alpn = identity.clone();
    alpn.alpn = vec![b"something-else".to_vec()];
    // no_application_protocol (RFC 7301 §3.2)
    assert!(matches!(
        failure(&mut sim, &alpn),
        HandshakeFailure::Tls { alert: 120, .. }
    ));
    assert!(matches!(
        failure(&mut sim, &Identity::new()),
        HandshakeFailure::Tls { .. }
    ));
    sim.run_for(Duration::from_secs(20));
    let stats = sim.core(server).stats();
    assert_eq!(
        (
            stats.handshakes_failed_total,
            stats.handshakes,
            stats.lingering
        ),
        (2, 0, 0)
    );

    sim.set_link(server, Link::CUT);
    let start = sim.now();
    assert_eq!(failure(&mut sim, &identity), HandshakeFailure::TimedOut);
    assert!(sim.now() - start <= identity.limits.handshake_timeout + Duration::from_millis(1));
    assert_eq!(sim.take_events(server), []);
    assert_eq!(sim.core(client).stats().connecting, 0);
}

#[test]
fn what_cannot_be_connected_to_is_refused_at_once() {
    let mut identity = Identity::new();
    identity.limits.connections_max = 1;
    let setup = identity.client_setup();
    let mut sim = Sim::new(1, Link::GOOD);
    let client = sim.add_host(&identity.client_config());
    let now = sim.now();
    let core = sim.core(client);
    let addr = "10.0.0.9:1".parse().unwrap();
    let bad = "10.0.0.9:0".parse().unwrap();
    assert_eq!(
        core.connect(now, bad, SERVER_NAME, &setup),
        Err(ConnectError::RemoteAddress(bad))
    );
    assert_eq!(
        core.connect(now, addr, "not a name", &setup),
        Err(ConnectError::ServerName("not a name".into()))
    );
    core.connect(now, addr, SERVER_NAME, &setup).unwrap();
    assert_eq!(
        core.connect(now, addr, SERVER_NAME, &setup),
        Err(ConnectError::TooMany)
    );
}
