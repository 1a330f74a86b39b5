//! What both ends hand over fits together, whatever happened before.

use std::time::Duration;

use quinn_proto::{Side, crypto::rustls as quinn_crypto};
use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::hmac;

use super::{
    pair::{End, Pair, RESET_KEY, WINDOW},
    tls::Tls,
};
use crate::{
    handover::{Handover, RemoteId, ledger::Item},
    resident::{
        frame::put_stream_head,
        protect::{PacketStart, full_number, unmask},
    },
};

const LONG: Duration = Duration::from_secs(30);

fn both(pair: &mut Pair) -> (Handover, Handover) {
    let take = |pair: &mut Pair, side| match pair.end(side).take() {
        Ok(handover) => handover,
        Err(reason) => panic!("{side:?}: {reason}"),
    };
    (take(pair, Side::Client), take(pair, Side::Server))
}

/// Everything that one end says of itself, the other says of its peer.
fn assert_agree(a: &Handover, b: &Handover) {
    assert_eq!(a.role, !b.role);
    for (a, b) in [(a, b), (b, a)] {
        assert!(a.tx_secret.0 == b.rx_secret.0);
        assert!(a.tx_secret.0 != a.rx_secret.0);
        assert_eq!(a.key_phase, b.key_phase);
        assert!(a.is_phase_acked);
        assert!(a.phase_first_number < a.next_number);

        assert!(b.received_largest < a.next_number);
        assert!(a.largest_acked <= Some(b.received_largest));
        assert_eq!(b.received_mask & 1, 1);

        assert_eq!(a.send_offset, b.recv_offset);
        assert_eq!(a.peer_max_data, b.own_max_data);
        assert_eq!(a.peer_max_stream_data, b.own_max_stream_data);
        assert!(a.peer_max_stream_data >= a.send_offset);

        assert_ids(a, b);
    }
}

/// The IDs that `b` sends to are those that `a` issued, with their reset tokens.
fn assert_ids(a: &Handover, b: &Handover) {
    let known: Vec<RemoteId> = [Some(b.remote_id), b.spare_remote_id]
        .into_iter()
        .flatten()
        .collect();
    let said: Vec<_> = known.iter().map(|id| (id.sequence, &*id.id)).collect();
    let issued: Vec<_> = a.local_ids.iter().map(|(s, id)| (*s, &id[..])).collect();
    assert_eq!(said, issued);
    assert_eq!(known.len(), 2, "one in use, one spare");
    assert_eq!(a.next_local_sequence, known[1].sequence + 1);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &RESET_KEY);
    for id in known {
        let is_first_of_client = id.sequence == 0 && a.role == Side::Client;
        let token = hmac::sign(&key, &id.id).as_ref()[..16].try_into().unwrap();
        assert_eq!(id.token, (!is_first_of_client).then_some(token));
    }
}

/// With what was handed over, `to` opens what quinn-proto seals at `from`.
fn assert_opens(pair: &mut Pair, from: Side, sender: &Handover, receiver: &Handover) {
    let now = pair.now;
    pair.end(from).conn().ping();
    let (mut packet, _) = pair.end(from).transmit(now).unwrap();
    let number_at = 1 + sender.remote_id.id.len();
    assert_eq!(packet[1..number_at], *sender.remote_id.id);
    let unmasked = unmask(&receiver.rx_header_key, &mut packet, number_at).unwrap();
    assert_eq!(unmasked.first & 0x04 != 0, receiver.key_phase);
    let number = full_number(
        receiver.received_largest,
        unmasked.truncated,
        unmasked.number_len,
    );
    assert!(number >= sender.next_number);
    let (header, payload) = packet.split_at_mut(number_at + unmasked.number_len);
    let key = receiver.rx_secret.packet_key();
    assert!(key.open(number, header, payload).unwrap().contains(&0x01));
}

/// quinn-proto at the other end opens what is sealed with what was handed over.
fn assert_seals(pair: &mut Pair, from: Side, sender: &Handover) {
    let mut packet = Vec::new();
    let start = PacketStart::write(
        &mut packet,
        &sender.remote_id.id,
        // Beyond what quinn-proto sends meanwhile.
        sender.next_number + 10,
        sender.largest_acked,
        sender.key_phase,
    );
    put_stream_head(&mut packet, 0, sender.send_offset, 8);
    packet.extend_from_slice(b"resident");
    let key = sender.tx_secret.packet_key();
    start.finish(&mut packet, &key, &sender.tx_header_key, 0);
    // quinn-proto at this end would not understand an acknowledgement of it.
    pair.drops = Box::new(|_, _| true);
    let before = pair.end(!from).progress.read;
    pair.put(from, packet);
    pair.run(Duration::from_millis(15));
    assert_eq!(pair.end(!from).progress.read, before + 8);
}

fn assert_handover(mut pair: Pair) -> (Handover, Handover) {
    let (client, server) = both(&mut pair);
    assert_agree(&client, &server);
    assert_opens(&mut pair, Side::Client, &client, &server);
    assert_opens(&mut pair, Side::Server, &server, &client);
    assert_seals(&mut pair, Side::Client, &client);
    assert_seals(&mut pair, Side::Server, &server);
    (client, server)
}

#[test]
fn after_a_handshake_and_an_exchange() {
    let mut pair = Pair::new();
    pair.open();
    let (client, server) = assert_handover(pair);
    assert_eq!((client.send_offset, client.recv_offset), (13, 5));
    assert!(!client.key_phase);
    assert_eq!(server.own_max_stream_data, u64::from(WINDOW));
    // A server moves on from the client's first ID, which has no reset token (RFC 9000 §10.3).
    assert_eq!(server.remote_id.sequence, 1);
    assert_eq!(client.remote_id.sequence, 0);
}

#[test]
fn before_a_stream_is_used() {
    let mut pair = Pair::new();
    pair.run(LONG);
    let (client, server) = both(&mut pair);
    assert_agree(&client, &server);
    assert_eq!(client.send_offset, 0);
}

#[test]
fn after_credit_was_given() {
    let mut pair = Pair::new();
    pair.open();
    for _ in 0..10 {
        pair.client.write(&[1; 7_000]);
        pair.server.write(&[2; 5_000]);
        pair.run(Duration::from_secs(1));
    }
    pair.run(LONG);
    let (client, server) = assert_handover(pair);
    assert_eq!((client.send_offset, server.send_offset), (70_013, 50_005));
    assert!(client.own_max_data > u64::from(WINDOW));
    assert!(server.own_max_stream_data > u64::from(WINDOW));
}

#[test]
fn after_key_updates_by_either_side() {
    for updates in 1..=3 {
        for first in [Side::Client, Side::Server] {
            let mut pair = Pair::new();
            pair.open();
            let mut side = first;
            for _ in 0..updates {
                pair.end(side).conn().force_key_update();
                pair.end(side).write(b"new keys");
                pair.run(LONG);
                // The other side has to answer under the new keys before the next update.
                pair.end(!side).write(b"here too");
                pair.run(LONG);
                side = !side;
            }
            let (client, server) = assert_handover(pair);
            assert_eq!(client.key_phase, updates % 2 == 1);
            for end in [client, server] {
                assert!(end.phase_first_number > 0);
            }
        }
    }
}

#[test]
fn after_a_retry() {
    let mut pair = Pair::new();
    pair.is_retrying = true;
    pair.open();
    assert_handover(pair);
}

#[test]
fn after_a_resumption() {
    let tls = Tls::new();
    let mut pair = Pair::with(&tls);
    pair.open();
    assert_eq!(tls.tickets.opened(), 0);
    for times in 1..=2 {
        pair.connect();
        pair.open();
        assert_eq!(tls.tickets.opened(), times);
    }
    assert_handover(pair);
}

#[test]
fn after_the_client_moved() {
    let mut pair = Pair::new();
    pair.open();
    for port in 1..5 {
        pair.client_at.set_port(port);
        pair.client.write(b"from elsewhere");
        pair.run(LONG);
    }
    let (_, server) = assert_handover(pair);
    assert_eq!(server.remote_id.sequence, 5);
}

#[test]
fn after_packets_that_overtook_the_handshake() {
    let mut pair = Pair::new();
    // The client's last handshake packet is lost, and its next packet arrives before the repetition: quinn-proto
    // decrypts it and drops it.
    let mut count = 0;
    pair.drops = Box::new(move |from, _| {
        count += u32::from(from == Side::Client);
        from == Side::Client && count == 2
    });
    pair.run(Duration::from_millis(21));
    assert!(pair.client.is_connected);
    pair.client.write(b"too early");
    pair.send();
    let early = pair.client.next_number() - 1;
    pair.run(Duration::from_millis(11));
    assert!(!pair.server.is_connected);
    pair.run(LONG);
    assert_eq!(pair.server.progress.read, 9);
    let (_, server) = assert_handover(pair);
    assert_eq!(
        server.received_mask >> (server.received_largest - early) & 1,
        0
    );
}

#[test]
fn with_quinns_own_crypto_at_the_other_end() {
    let mut tls = Tls::new();
    tls.server.ignore_client_order = true;
    let server = quinn_crypto::QuicServerConfig::try_from(tls.server.clone()).unwrap();
    let mut pair = Pair::with_crypto(std::sync::Arc::new(server), tls.client_crypto());
    pair.open();
    let client = pair.client.take().ok().unwrap();
    assert_eq!(client.peer.active_connection_id_limit, 5);
    assert_eq!(client.local_ids.len(), 2, "no more than fit");
    assert_seals(&mut pair, Side::Client, &client);

    let tls = Tls::new();
    let client = quinn_crypto::QuicClientConfig::try_from(only_ours(tls.client.clone())).unwrap();
    let mut pair = Pair::with_crypto(tls.server_crypto(), std::sync::Arc::new(client));
    pair.open();
    let server = pair.server.take().ok().unwrap();
    assert_eq!(server.local_ids.len(), 2, "no more than fit");
    assert_seals(&mut pair, Side::Server, &server);
}

/// The client prefers AES-256, and gets AES-128 all the same: the server decides.
fn only_ours(tls: rustls::ClientConfig) -> rustls::ClientConfig {
    let first = tls.crypto_provider().cipher_suites[0].suite();
    assert_eq!(first, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    tls
}

/// quinn-proto does not look whether the last update is done on both sides, as RFC 9001 §6.1 asks. If it is not, the
/// two never understand each other again.
fn can_update(pair: &Pair) -> bool {
    let generation = |end: &End| {
        let tap = end.tap.as_ref().unwrap().lock();
        tap.watch()?.settled_generation()
    };
    let client = generation(&pair.client);
    client.is_some() && client == generation(&pair.server)
}

#[test]
fn whatever_was_lost_late_or_doubled() {
    for seed in 0..60 {
        let mut pair = Pair::new();
        pair.seed(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        pair.jitter = Duration::from_millis(30);
        pair.duplication = 0.05;
        let mut losses = StdRng::seed_from_u64(!seed);
        pair.drops = Box::new(move |_, _: &[Item]| losses.random_bool(0.15));
        pair.run(Duration::from_secs(60));
        assert!(
            pair.client.is_connected && pair.server.is_connected,
            "{seed}"
        );
        let mut moves = 0;
        for _ in 0..40 {
            let side = if rng.random() {
                Side::Client
            } else {
                Side::Server
            };
            let is_possible = side == Side::Client || pair.client.progress.written > 0;
            match rng.random_range(0..12) {
                0 if can_update(&pair) => pair.end(side).conn().force_key_update(),
                1 => pair.end(side).conn().ping(),
                2 => {
                    moves += 1;
                    pair.client_at.set_port(2000 + moves);
                    pair.client.conn().ping();
                }
                _ if is_possible && pair.server.progress.read > 0 => {
                    let bytes = vec![seed as u8; rng.random_range(1..2_000)];
                    pair.end(side).write(&bytes);
                }
                _ if pair.client.progress.written == 0 => pair.client.write(b"first"),
                _ => {}
            }
            pair.run(Duration::from_millis(rng.random_range(0..3_000)));
        }
        pair.run(LONG);
        pair.drops = Box::new(|_, _| false);
        pair.jitter = Duration::ZERO;
        pair.duplication = 0.0;
        for side in [Side::Client, Side::Server, Side::Client] {
            pair.end(side).conn().ping();
            pair.run(LONG);
        }
        assert_handover(pair);
    }
}
