//! Every [`NotYet`] that is final is reached, and stays.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use quinn_proto::{Dir, Side};
use rustls::{CipherSuite, SupportedCipherSuite};

use super::{
    conditions::{LONG, SHORT, opened},
    pair::{Pair, stream},
    tls::Tls,
};
use crate::handover::NotYet;

/// The end can never be handed over, and says so from now on.
fn never(mut pair: Pair, side: Side, expected: NotYet) {
    for _ in 0..3 {
        assert_eq!(pair.end(side).reason(), expected);
        assert!(expected.is_final());
        pair.run(LONG);
    }
}

#[test]
fn the_stream_ends() {
    for side in [Side::Client, Side::Server] {
        let mut pair = opened();
        pair.end(side)
            .conn()
            .send_stream(stream())
            .finish()
            .unwrap();
        pair.run(SHORT);
        never(pair, !side, NotYet::Streams);

        let mut pair = opened();
        let conn = pair.end(side).conn();
        conn.send_stream(stream()).reset(1u8.into()).unwrap();
        pair.run(SHORT);
        never(pair, side, NotYet::Streams);

        let mut pair = opened();
        let conn = pair.end(side).conn();
        conn.recv_stream(stream()).stop(1u8.into()).unwrap();
        pair.run(SHORT);
        never(pair, !side, NotYet::Streams);
    }
}

#[test]
fn a_second_stream() {
    let mut pair = opened();
    let conn = pair.client.conn();
    let second = conn.streams().open(Dir::Bi).unwrap();
    conn.send_stream(second).write(b"more").unwrap();
    pair.run(SHORT);
    assert_eq!(pair.client.reason(), NotYet::Streams);
    never(pair, Side::Server, NotYet::Streams);
}

#[test]
fn the_connection_closes() {
    let mut pair = opened();
    pair.close(Side::Client);
    pair.run(SHORT);
    assert_eq!(pair.client.reason(), NotYet::Closing);
    never(pair, Side::Server, NotYet::Closing);
}

#[test]
fn it_is_handed_over_once() {
    let mut pair = opened();
    assert!(pair.client.take().is_ok());
    never(pair, Side::Client, NotYet::Closing);
}

#[test]
fn other_suites_work_and_stay() {
    for suite in rustls::crypto::ring::default_provider().cipher_suites {
        let is_ours = suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
        if suite.tls13().is_none() || is_ours {
            continue;
        }
        let tls = Tls::new();
        // quinn-proto wants AES-128 for Initial packets; the server is left no choice.
        let mut provider = rustls::crypto::ring::default_provider();
        provider
            .cipher_suites
            .retain(|other| other.suite() == suite.suite() || is_initial(other));
        provider.cipher_suites.sort_by_key(is_initial);
        let mut server = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&tls.server.cert_resolver));
        server.alpn_protocols.clone_from(&tls.server.alpn_protocols);
        let mut pair = Pair::with(&Tls { server, ..tls });
        pair.open();
        pair.client.conn().force_key_update();
        pair.client.write(b"under new keys");
        pair.run(LONG);
        assert_eq!(pair.server.progress.read, 27);
        assert_eq!(pair.client.reason(), NotYet::OtherSuite);
        never(pair, Side::Server, NotYet::OtherSuite);
    }
}

fn is_initial(suite: &SupportedCipherSuite) -> bool {
    suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256
}

#[test]
fn frames_that_cannot_be_read() {
    // ACK_FREQUENCY of the draft, a cut MAX_DATA, and a NEW_CONNECTION_ID of no length.
    for payload in [&[0x40, 0xaf, 0, 1, 2, 3][..], &[0x10], &[0x18, 9, 0, 0]] {
        let pair = opened();
        let tap = pair.client.tap.clone().unwrap();
        tap.lock().opened(0, 1_000, payload);
        never(pair, Side::Client, NotYet::Untracked);

        let pair = opened();
        let tap = pair.client.tap.clone().unwrap();
        tap.lock().sealed(0, 1_000, &[0x40; 8], payload);
        never(pair, Side::Client, NotYet::Untracked);
    }
}

#[test]
fn a_flood_without_acknowledgements_makes_the_tap_give_up() {
    let mut pair = opened();
    pair.drops = Box::new(|from, _| from == Side::Server);
    for _ in 0..300 {
        pair.client.write(b"x");
        pair.run(Duration::from_millis(1));
    }
    pair.drops = Box::new(|_, _| false);
    pair.run(LONG);
    assert_eq!(pair.server.progress.read, 313);
    never(pair, Side::Client, NotYet::Untracked);
}

proptest! {
    /// Frames of every kind in any order, cut anywhere: the tap goes on or gives up, and never panics.
    #[test]
    fn any_plaintext_is_survived(packets in prop::collection::vec(
        (any::<bool>(), 0u64..20, prop::collection::vec(any::<u8>(), 0..40)), 0..30,
    )) {
        let pair = Pair::new();
        let mut tap = pair.client.tap.as_ref().unwrap().lock();
        tap.tls_complete();
        let mut next = 0;
        for (is_sent, number, payload) in packets {
            if is_sent {
                next += 1 + number;
                tap.sealed(0, next, &[1, 2], &payload);
            } else {
                tap.opened(0, number, &payload);
            }
        }
    }
}
