//! Challenges without end, and peers that are here, there and nowhere (RFC 9000 §8.2, §9.3).

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use super::{CLIENT, SERVER, Scene, frame};
use crate::resident::recovery::SENT_MAX;

fn challenge(number: u64) -> Vec<u8> {
    let mut out = vec![0x1a];
    out.extend_from_slice(&number.to_be_bytes());
    out
}

fn elsewhere(number: u16) -> SocketAddr {
    ([192, 0, 2, 1], number).into()
}

/// What the victim has to send now, as destination and bytes.
fn take_answers(scene: &mut Scene) -> Vec<(SocketAddr, usize)> {
    let now = scene.pair.now;
    let end = &mut scene.pair.ends[scene.victim];
    let mut out = Vec::new();
    let next = || end.engine.poll_transmit(&mut end.record, now, &mut out);
    std::iter::from_fn(next)
        .map(|d| (d.destination, d.bytes))
        .collect()
}

#[test]
fn a_packet_full_of_challenges_has_one_answer() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        scene.inject(&(0..100).flat_map(challenge).collect::<Vec<_>>());
        let answers = take_answers(&mut scene);
        assert!(answers.len() <= 2, "{answers:?}");
        scene.goes_on();
    }
}

/// RFC 9000 §21.7: whoever sends challenges, and never an acknowledgement, gets answers and leaves nothing behind.
#[test]
fn a_flood_of_challenges_is_bounded() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let mut bytes_in = 0;
        for number in 0..5000 {
            let packet = scene.pair.forge(victim, &challenge(number));
            bytes_in += packet.len() as u64;
            scene.hand(packet);
            scene.pump_to_nobody();
        }
        assert!(scene.answers() <= 2 * 5000);
        assert!(scene.pair.sent[victim].1 <= 3 * bytes_in);
        let active = scene.active().unwrap();
        assert!(
            active.sent.len() <= SENT_MAX,
            "{} in flight",
            active.sent.len()
        );
        assert!(scene.pair.ends[victim].closed.is_empty());
        scene.beside_goes_on();
    }
}

#[test]
fn a_challenge_from_elsewhere_brings_no_more_than_three_times_its_bytes() {
    let mut scene = Scene::new(SERVER);
    for padding in [0, 100, 383, 384, 1100] {
        let mut frames = challenge(1);
        frames.resize(frames.len() + padding, 0);
        let packet = scene.pair.forge(SERVER, &frames);
        let bytes = packet.len();
        scene.pair.hand(SERVER, elsewhere(9), packet);
        let answers = take_answers(&mut scene);
        let there: Vec<_> = answers
            .iter()
            .filter(|(to, _)| *to == elsewhere(9))
            .collect();
        assert_eq!(there.len(), 1, "padding {padding}");
        assert!(there[0].1 <= 3 * bytes, "{} for {bytes}", there[0].1);
        let is_full = there[0].1 == 1200;
        assert_eq!(is_full, 3 * bytes >= 1200, "RFC 9000 §8.2.2");
    }
    assert_eq!(scene.pair.ends[SERVER].engine.counts.path_changes, 0);
    scene.goes_on();
}

#[test]
fn a_response_to_no_challenge_is_nothing() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for number in 0..1000u64 {
            let mut frames = challenge(number);
            frames[0] = 0x1b;
            scene.inject(&frames.repeat(100));
            scene.pair.pump();
        }
        assert!(scene.answers() <= 1000);
        scene.goes_on();
    }
}

/// Every packet from another address: none of them gets more than three times what came from it, and the last one that
/// was proven is not forgotten.
#[test]
fn addresses_without_end_are_answered_sparingly() {
    let mut scene = Scene::new(SERVER);
    let home = scene.pair.ends[SERVER].record.remote();
    scene.pair.ends[SERVER].write(&[7; 30_000]);
    take_answers(&mut scene);
    let mut account: HashMap<SocketAddr, (usize, usize)> = HashMap::new();
    for round in 0..5000u16 {
        let from = elsewhere(1 + round % 2500);
        let packet = scene.pair.forge(SERVER, &[1]);
        account.entry(from).or_default().0 += packet.len();
        scene.pair.hand(SERVER, from, packet);
        for (to, bytes) in take_answers(&mut scene) {
            account.entry(to).or_default().1 += bytes;
        }
    }
    for (at, (came, went)) in account {
        assert!(at == home || went <= 3 * came, "{went} for {came} at {at}");
    }
    let active = scene.active().unwrap();
    assert!(active.sent.len() <= 8, "{} in flight", active.sent.len());
    assert_eq!(active.path.as_ref().map(|path| path.previous), Some(home));
    scene.pair.run_for(Duration::from_secs(20));
    assert_eq!(scene.pair.ends[SERVER].record.remote(), home);
    assert_eq!(scene.pair.ends[CLIENT].received.len(), 30_000);
    scene.beside_goes_on();
}

/// An address that never proves itself gets challenges only, and is given up, however much is said from there.
#[test]
fn an_address_that_never_answers_challenges_is_given_up() {
    let mut scene = Scene::new(SERVER);
    let home = scene.pair.ends[SERVER].record.remote();
    for _ in 0..60 {
        let packet = scene.pair.forge(SERVER, &[1]);
        scene.pair.hand(SERVER, elsewhere(7), packet);
        scene.pair.run_for(Duration::from_millis(100));
    }
    assert!(scene.answers() <= 2 * 60, "{}", scene.answers());
    scene.pair.run_for(Duration::from_secs(5));
    assert_eq!(scene.pair.ends[SERVER].record.remote(), home);
    scene.goes_on();
}

#[test]
fn a_client_does_not_follow_its_server() {
    let mut scene = Scene::new(CLIENT);
    let home = scene.pair.ends[CLIENT].record.remote();
    let packet = scene.pair.forge(CLIENT, &frame(0x1c, &[1, 0, 0]));
    scene.pair.hand(CLIENT, elsewhere(1), packet);
    assert_eq!(scene.pair.ends[CLIENT].record.remote(), home);
    scene.goes_on();
}
