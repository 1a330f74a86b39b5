//! Honest peers, good and bad networks.

use std::time::Duration;

use proptest::prelude::*;
use rand::Rng;

use super::pair::{CLIENT, Pair, SERVER, Weather};
use crate::CloseReason;

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 251) as u8 ^ seed).collect()
}

#[test]
fn a_message_and_its_answer_take_three_packets() {
    let mut pair = Pair::new(1, Weather::FAIR);
    pair.ends[SERVER].write(&[1; 256]);
    pair.run_until(|pair| pair.ends[CLIENT].received.len() == 256);
    // The application answers at once: the answer rides with the acknowledgement.
    pair.ends[CLIENT].write(&[2; 20]);
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.ends[SERVER].received, [2; 20]);
    assert_eq!((pair.sent[SERVER].0, pair.sent[CLIENT].0), (2, 1));
    assert!(pair.is_at_rest());
}

#[test]
fn the_last_acknowledgement_rides_with_the_next_message() {
    let mut pair = Pair::new(1, Weather::FAIR);
    for round in 1..=10 {
        pair.ends[SERVER].write(&[1; 256]);
        pair.run_until(|pair| pair.ends[CLIENT].received.len() == 256 * round);
        pair.ends[CLIENT].write(&[2; 20]);
        pair.run_until(|pair| pair.ends[SERVER].received.len() == 20 * round);
    }
    pair.run_for(Duration::from_secs(2));
    // Ten messages, ten answers, one lone acknowledgement at the end.
    assert_eq!((pair.sent[SERVER].0, pair.sent[CLIENT].0), (11, 10));
}

#[test]
fn a_long_transfer_keeps_to_the_windows_and_ends_at_rest() {
    let mut pair = Pair::new(3, Weather::FAIR);
    let bytes = pattern(1, 300_000);
    pair.ends[SERVER].write(&bytes);
    pair.run_until(|pair| pair.ends[CLIENT].received.len() == bytes.len());
    assert!(pair.ends[CLIENT].received == bytes);
    assert!(pair.ends[SERVER].writable > 0);
    pair.run_for(Duration::from_secs(2));
    assert!(pair.is_at_rest());
    assert_eq!(pair.ends[SERVER].engine.counts.packets_lost, 0);
}

#[test]
fn silence_ends_in_a_timeout() {
    let mut pair = Pair::new(4, Weather::FAIR);
    pair.run_for(Duration::from_secs(29));
    assert!(!pair.ends[SERVER].ended);
    pair.run_for(Duration::from_secs(2));
    for end in &pair.ends {
        assert_eq!(end.closed, [CloseReason::TimedOut]);
        assert!(end.ended);
    }
}

#[test]
fn a_ping_keeps_both_ends_alive() {
    let mut pair = Pair::new(5, Weather::FAIR);
    for _ in 0..5 {
        pair.run_for(Duration::from_secs(20));
        let client = &mut pair.ends[CLIENT];
        client.engine.ping(&mut client.record);
    }
    pair.run_for(Duration::from_secs(20));
    assert!(pair.ends.iter().all(|end| end.closed.is_empty()));
    assert!(pair.is_at_rest());
}

#[test]
fn a_close_is_told_answered_and_forgotten() {
    let mut pair = Pair::new(6, Weather::FAIR);
    let now = pair.now;
    let server = &mut pair.ends[SERVER];
    server.engine.close(&mut server.record, now, 77, b"enough");
    pair.run_for(Duration::from_secs(5));
    assert_eq!(
        pair.ends[CLIENT].closed,
        [CloseReason::ByPeer {
            code: 77,
            reason: "enough".into()
        }]
    );
    assert!(pair.ends[SERVER].closed.is_empty(), "who closed knows");
    assert!(pair.ends.iter().all(|end| end.ended));
}

#[test]
fn a_lost_close_is_said_again_to_who_still_speaks() {
    let mut pair = Pair::new(7, Weather::FAIR);
    let now = pair.now;
    let server = &mut pair.ends[SERVER];
    server.engine.close(&mut server.record, now, 77, b"");
    pair.weather.loss = 1.0;
    pair.pump();
    pair.weather.loss = 0.0;
    pair.ends[CLIENT].write(b"are you there?");
    pair.run_for(Duration::from_millis(200));
    assert_eq!(pair.ends[CLIENT].closed.len(), 1);
}

#[test]
fn key_updates_of_both_sides_lose_nothing() {
    let mut pair = Pair::new(8, Weather::FAIR);
    let mut updates = 0;
    for round in 1..=40 {
        let index = round % 2;
        let end = &mut pair.ends[index];
        updates += u32::from(end.engine.update_keys(&mut end.record));
        pair.ends[index].write(&[round as u8; 100]);
        pair.ends[1 - index].write(&[round as u8; 100]);
        pair.run_for(Duration::from_secs(3));
    }
    // Now and then one side has to wait, because nothing that it sent in this phase needed an acknowledgement.
    assert!(updates >= 30, "{updates} updates");
    for end in &pair.ends {
        assert_eq!(end.received.len(), 4000);
        assert_eq!(end.closed, []);
        assert_eq!(end.engine.counts.key_updates, u64::from(updates));
    }
    assert!(pair.is_at_rest());
}

#[test]
fn a_device_that_moves_is_followed_and_proven() {
    let mut pair = Pair::new(9, Weather::FAIR);
    for (round, addr) in ["10.0.0.1:2000", "10.9.9.9:5", "10.0.0.1:1000"]
        .iter()
        .enumerate()
    {
        pair.rebind(addr);
        pair.ends[CLIENT].write(b"here I am");
        pair.run_for(Duration::from_secs(3));
        assert_eq!(pair.ends[SERVER].record.remote(), addr.parse().unwrap());
        pair.ends[SERVER].write(b"so I see");
        pair.run_for(Duration::from_secs(3));
        assert_eq!(pair.ends[CLIENT].received.len(), 8 * (round + 1));
        assert!(pair.is_at_rest());
    }
    assert_eq!(pair.ends[SERVER].engine.counts.path_changes, 3);
}

#[test]
fn a_false_address_is_given_up_and_gets_little() {
    let mut pair = Pair::new(10, Weather::FAIR);
    let thief = "10.66.66.66:6".parse().unwrap();
    // Somebody on the path sends a copy of a packet from elsewhere, before the packet itself comes.
    let packet = pair.forge(SERVER, &[1]);
    let length = packet.len();
    pair.hand(SERVER, thief, packet);
    pair.ends[SERVER].write(&[5; 9000]);
    let before = pair.sent[SERVER].1;
    pair.run_for(Duration::from_millis(900));
    let sent = pair.sent[SERVER].1 - before;
    assert!(sent <= 3 * length as u64, "{sent} bytes for {length}");
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.ends[SERVER].record.remote(), pair.ends[CLIENT].addr);
    assert_eq!(pair.ends[CLIENT].received.len(), 9000);
}

#[test]
fn retired_ids_are_replaced() {
    let mut pair = Pair::new(11, Weather::FAIR);
    let before = pair.ends[SERVER].ids.clone();
    // The client moves on to the other ID, and retires the first.
    let client = &mut pair.ends[CLIENT];
    client.engine.rotate_remote(&mut client.record);
    pair.run_for(Duration::from_secs(1));
    let after = pair.ends[SERVER].ids.clone();
    assert_eq!(after.len(), 2);
    assert_eq!(after[0], before[1]);
    assert_ne!(after[1], before[0]);
    assert_eq!(pair.ends[CLIENT].closed, []);
    let spare = pair.ends[CLIENT].record.cold.spare_remote.unwrap();
    assert_eq!((spare.sequence, spare.id()), (2, &after[1][..]));
    assert!(pair.is_at_rest());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// Whatever the network does, whoever updates keys, wherever the client moves: both streams arrive as they were
    /// sent, and afterwards nothing is left.
    #[test]
    fn streams_survive_foul_weather(seed in 0u64..1 << 40) {
        let mut pair = Pair::new(seed, Weather::FOUL);
        let mut wanted = [Vec::new(), Vec::new()];
        for round in 0..30u8 {
            let index = usize::from(pair.rng.random_bool(0.5));
            match pair.rng.random_range(0..10) {
                0 => {
                    let end = &mut pair.ends[index];
                    end.engine.update_keys(&mut end.record);
                }
                1 => {
                    let port = pair.rng.random_range(1000..60_000);
                    let host = pair.rng.random_range(1..3) * 2 - 1;
                    pair.rebind(&format!("10.0.0.{host}:{port}"));
                }
                2 => {
                    let end = &mut pair.ends[index];
                    end.engine.pause_reading(&mut end.record, round % 2 == 0);
                }
                _ => {
                    let length = pair.rng.random_range(1..6000);
                    let bytes = pattern(round, length);
                    wanted[1 - index].extend_from_slice(&bytes);
                    pair.ends[index].write(&bytes);
                }
            }
            let pause = pair.rng.random_range(0..400);
            pair.run_for(Duration::from_millis(pause));
        }
        for end in &mut pair.ends {
            end.engine.pause_reading(&mut end.record, false);
        }
        // A client that moved speaks up now and then, as devices do.
        for _ in 0..100 {
            let client = &mut pair.ends[CLIENT];
            client.engine.ping(&mut client.record);
            pair.run_for(Duration::from_secs(5));
            if [CLIENT, SERVER].iter().all(|&i| pair.ends[i].received.len() >= wanted[i].len()) {
                break;
            }
        }
        for index in [CLIENT, SERVER] {
            prop_assert!(pair.ends[index].received == wanted[index], "{:#?}", pair.summary());
            prop_assert_eq!(&pair.ends[index].closed, &[]);
        }
        pair.run_for(Duration::from_secs(20));
        prop_assert!(pair.is_at_rest(), "something is left: {:#?}", pair.summary());
    }
}
