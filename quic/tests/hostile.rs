//! Attackers from outside: they see all datagrams and send what they like, but have no keys. Peers that have keys and
//! misuse them are tested beside the resident engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::SocketAddr, time::Duration};

use petrel_quic::{
    Limits, Stats,
    sim::{
        Identity,
        hostile::{Seen, Siege},
    },
};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use crate::common::first_flight;

const SECOND: Duration = Duration::from_secs(1);

fn stranger(number: u16) -> SocketAddr {
    ([192, 0, 2, 1], 1000 + number).into()
}

/// A server with two honest clients, and what they said so far.
fn siege(change: impl FnOnce(&mut Limits)) -> (Siege, Vec<Seen>) {
    let mut siege = Siege::new(change);
    siege.connect();
    siege.connect();
    siege.take_events();
    let seen = siege.seen().to_vec();
    assert!(seen.len() > 10, "{}", seen.len());
    (siege, seen)
}

/// The two connections live, nobody else has one, and what the attack began is forgotten.
fn stands(siege: &mut Siege) -> Stats {
    siege.run_for(15 * SECOND);
    siege.exchange(0);
    siege.exchange(1);
    siege.assert_sparing();
    assert_eq!(siege.take_events(), [], "the application noticed nothing");
    let stats = siege.server().stats();
    assert_eq!((stats.connections, stats.residents), (2, 2), "{stats:?}");
    assert_eq!((stats.handshakes, stats.lingering), (0, 0), "{stats:?}");
    stats
}

fn new_client(siege: &Siege, seed: u8) -> Vec<u8> {
    let identity = &siege.identity;
    let flight = first_flight(&identity.client_config(), &identity.client_setup(), seed);
    flight.into_iter().next().unwrap()
}

/// A first packet of another version.
fn of_version(version: u32, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend(version.to_be_bytes());
    packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9]);
    packet.resize(bytes, 0);
    packet
}

#[test]
fn garbage_from_everywhere_is_dropped() {
    let (mut siege, _) = siege(|_| {});
    let before = siege.server().stats();
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..20_000u16 {
        let mut noise = vec![0; rng.random_range(0..1500)];
        rng.fill_bytes(&mut noise);
        let from = if round % 3 == 0 {
            siege.client_addr(0)
        } else {
            stranger(round % 100)
        };
        siege.inject(from, &noise);
    }
    let stats = stands(&mut siege);
    assert_eq!(
        stats.handshakes_started_total,
        before.handshakes_started_total
    );
    assert_eq!(stats.slots, before.slots);
}

#[test]
fn truncated_packets_are_dropped() {
    let (mut siege, seen) = siege(|_| {});
    for (number, datagram) in seen.iter().enumerate() {
        let step = 1 + datagram.bytes.len() / 40;
        for end in (0..datagram.bytes.len()).step_by(step) {
            let from = if number % 2 == 0 {
                datagram.from
            } else {
                stranger(end as u16)
            };
            siege.inject(from, &datagram.bytes[..end]);
        }
    }
    stands(&mut siege);
}

#[test]
fn packets_coalesced_with_others_do_no_harm() {
    let (mut siege, seen) = siege(|_| {});
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..5000 {
        let mut datagram = Vec::new();
        for _ in 0..rng.random_range(2..5) {
            let part = &seen[rng.random_range(0..seen.len())].bytes;
            let end = if rng.random_bool(0.7) {
                part.len()
            } else {
                rng.random_range(0..=part.len())
            };
            datagram.extend_from_slice(&part[..end]);
        }
        datagram.truncate(1500);
        let from = seen[rng.random_range(0..seen.len())].from;
        siege.inject(from, &datagram);
    }
    stands(&mut siege);
}

#[test]
fn whatever_was_said_may_be_said_again() {
    let (mut siege, seen) = siege(|_| {});
    for round in 0..30 {
        for datagram in &seen {
            siege.inject(datagram.from, &datagram.bytes);
            siege.inject(stranger(round), &datagram.bytes);
            for client in 0..2 {
                siege.inject_to_client(client, siege.server_addr(), &datagram.bytes);
                siege.inject_to_client(client, stranger(round), &datagram.bytes);
            }
        }
    }
    stands(&mut siege);
}

/// An Initial that is replayed begins a handshake at most, which leads nowhere and is forgotten in time.
#[test]
fn initials_replayed_are_bounded_handshakes() {
    let bound = 20;
    let (mut siege, seen) = siege(|limits| limits.handshakes_max = bound);
    let initials: Vec<_> = seen
        .iter()
        .filter(|datagram| datagram.bytes[0] & 0xf0 == 0xc0 && datagram.bytes.len() >= 1200)
        .filter(|datagram| datagram.from != siege.server_addr())
        .collect();
    assert!(initials.len() >= 2);
    for round in 0..500 {
        for initial in &initials {
            siege.inject(initial.from, &initial.bytes);
            siege.inject(stranger(round), &initial.bytes);
            assert!(siege.server().stats().handshakes <= bound);
        }
    }
    siege.exchange(0);
    let stats = stands(&mut siege);
    assert!(stats.handshakes_timed_out_total > 0);
}

/// RFC 9000 §8.1, §21.3: an address that did not ask gets at most three times what was sent in its name.
#[test]
fn initials_of_spoofed_addresses_are_answered_sparingly() {
    let (mut siege, _) = siege(|_| {});
    for victim in 0..200 {
        let initial = new_client(&siege, 50 + victim as u8);
        siege.inject(stranger(victim), &initial);
    }
    // Also with time for all that a handshake repeats on its own.
    siege.run_for(12 * SECOND);
    for victim in 0..200 {
        let (came, went) = siege.account(stranger(victim));
        assert!(went <= 3 * came, "{went} bytes for {came}");
    }
    stands(&mut siege);
}

/// One Initial in the name of many: they are one connection, and all of them together get three times its bytes.
#[test]
fn an_initial_from_many_addresses_is_one_connection() {
    let (mut siege, _) = siege(|_| {});
    let initial = new_client(&siege, 99);
    for victim in 0..200 {
        siege.inject(stranger(victim), &initial);
        assert_eq!(siege.server().stats().handshakes, 1);
    }
    siege.run_for(12 * SECOND);
    let answered = (0..200).filter(|&victim| siege.account(stranger(victim)).1 > 0);
    assert_eq!(answered.count(), 1);
    stands(&mut siege);
}

#[test]
fn a_first_packet_that_is_too_small_begins_nothing() {
    let (mut siege, _) = siege(|_| {});
    let before = siege.server().stats().handshakes_started_total;
    let initial = new_client(&siege, 98);
    for end in [100, 1000, 1199] {
        siege.inject(stranger(1), &initial[..end]);
    }
    // RFC 9000 §14.1.
    assert_eq!(siege.account(stranger(1)).1, 0);
    assert_eq!(stands(&mut siege).handshakes_started_total, before);
}

#[test]
fn versions_are_negotiated_within_a_budget() {
    let (mut siege, _) = siege(|limits| limits.refusals_per_second = 10);
    for round in 0..200u16 {
        siege.inject(stranger(round % 20), &of_version(0x1a2a_3a4a, 1200));
    }
    let answered: Vec<_> = siege
        .seen()
        .iter()
        .filter(|seen| seen.bytes[1..5] == [0; 4] && seen.bytes[0] & 0x80 != 0)
        .cloned()
        .collect();
    assert_eq!(answered.len(), 10);
    for answer in &answered {
        // RFC 9000 §17.2.1: both IDs come back, then the versions.
        assert_eq!(answer.bytes[5..14], [8, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert_eq!(answer.bytes[14..23], [8, 1, 2, 3, 4, 5, 6, 7, 8]);
        // One that is there for nobody is allowed (RFC 9000 §15).
        let mut versions = answer.bytes[23..].chunks(4);
        assert!(versions.any(|version| version == 1u32.to_be_bytes()));
        assert!(answer.bytes.len() <= 31);
    }
    // A packet too small to begin anything is not answered (RFC 9000 §6.1).
    siege.run_for(2 * SECOND);
    let before = siege.account(stranger(300)).1;
    siege.inject(stranger(300), &of_version(0x1a2a_3a4a, 1199));
    assert_eq!(siege.account(stranger(300)).1, before);
    stands(&mut siege);
}

/// Whoever is connected has nothing to negotiate any more (RFC 9000 §6.2).
#[test]
fn version_negotiation_out_of_the_blue_is_dropped() {
    let (mut siege, _) = siege(|_| {});
    let server = siege.server_addr();
    for client in 0..2 {
        for bytes in [23, 27, 40, 1200] {
            let packet = of_version(0, bytes);
            siege.inject_to_client(client, server, &packet);
            siege.inject(siege.client_addr(client), &packet);
            siege.inject(stranger(1), &packet);
        }
    }
    assert_eq!(siege.account(stranger(1)).1, 0, "it is never answered");
    stands(&mut siege);
}

#[test]
fn forged_resets_end_nothing() {
    let (mut siege, seen) = siege(|_| {});
    let mut rng = StdRng::seed_from_u64(3);
    let server = siege.server_addr();
    let short: Vec<_> = seen
        .iter()
        .filter(|seen| seen.bytes[0] & 0x80 == 0)
        .collect();
    assert!(!short.is_empty());
    for round in 0..5000 {
        // Either to an ID in use, or to none, as true ones are.
        let mut packet = vec![0; rng.random_range(21..100)];
        rng.fill_bytes(&mut packet);
        packet[0] = 0x40 | packet[0] & 0x3f;
        if round % 2 == 0 {
            packet[..9].copy_from_slice(&short[round % short.len()].bytes[..9]);
        }
        for client in 0..2 {
            siege.inject_to_client(client, server, &packet);
            siege.inject(siege.client_addr(client), &packet);
        }
    }
    stands(&mut siege);
}

/// RFC 9000 §10.3.3: each reset is smaller than what it answers, so that two ends cannot go on for ever.
#[test]
fn resets_do_not_answer_each_other_without_end() {
    let (mut siege, _) = siege(|_| {});
    let mut packet = vec![0x41; 1200];
    for count in 0.. {
        let before = siege.seen().len();
        siege.inject(stranger(5), &packet);
        let Some(answer) = siege.seen().get(before).cloned() else {
            assert!(count > 0, "the first one is answered");
            break;
        };
        assert!(answer.bytes.len() < packet.len());
        assert!(count < 100, "it goes on");
        packet = answer.bytes;
    }
    stands(&mut siege);
}

#[test]
fn a_flood_of_connections_from_one_address_is_bounded() {
    let (mut siege, _) = siege(|limits| {
        limits.retry_threshold = 8;
        limits.handshakes_max = 16;
        limits.refusals_per_second = 100;
    });
    let slots = siege.server().stats().slots;
    for round in 0..=255 {
        let initial = new_client(&siege, round);
        siege.inject(stranger(1), &initial);
        let stats = siege.server().stats();
        assert!(stats.handshakes <= 8, "no more without proof of an address");
    }
    let stats = siege.server().stats();
    assert_eq!(stats.retries_total, 100, "as many as may be answered");
    assert_eq!(stats.slots, slots);
    // In the midst of it those who are there are served.
    siege.exchange(0);
    assert_eq!(stands(&mut siege).slots, slots);
}

/// RFC 9000 §8.1.4: what proves one address proves no other.
#[test]
fn a_retry_token_is_worth_nothing_elsewhere() {
    let mut siege = Siege::with({
        let mut identity = Identity::new();
        identity.limits.retry_threshold = 0;
        identity
    });
    siege.connect();
    siege.connect();
    siege.take_events();
    let is_retry = |seen: &&Seen| seen.bytes[0] & 0xf0 == 0xf0;
    assert_eq!(siege.seen().iter().filter(is_retry).count(), 2);
    let at = siege
        .seen()
        .iter()
        .position(|seen| is_retry(&seen))
        .unwrap();
    let proven = siege.seen()[at + 1..]
        .iter()
        .find(|seen| seen.bytes[0] & 0xf0 == 0xc0 && seen.bytes.len() >= 1200)
        .unwrap()
        .clone();
    let before = siege.server().stats();
    for round in 0..100 {
        siege.inject(stranger(round), &proven.bytes);
    }
    let stats = siege.server().stats();
    assert_eq!(
        stats.handshakes_started_total,
        before.handshakes_started_total
    );
    assert_eq!(stats.slots, before.slots);
    stands(&mut siege);
}
