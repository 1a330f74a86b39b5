//! Acknowledgements of what was never sent, and none of what was.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};

use super::{CLIENT, Code, SERVER, Scene, check, frame};
use crate::resident::recovery::SENT_MAX;

#[test]
fn packets_never_sent_cannot_be_acknowledged() {
    for victim in [CLIENT, SERVER] {
        // Both ends have sent the packets 0 to 8.
        for (largest, what) in [(9, "the next one"), (1 << 40, "one far ahead")] {
            let frames = frame(0x02, &[largest, 0, 0, 0]);
            check(victim, &frames, Code::PROTOCOL_VIOLATION, what);
        }
        let mut scene = Scene::new(victim);
        scene.inject(&frame(0x02, &[8, 0, 0, 8]));
        scene.goes_on();
    }
}

/// RFC 9000 §21.4: a number is left out now and then, and whoever acknowledges it acknowledges blindly.
#[test]
fn an_optimistic_acknowledgement_is_found_out() {
    for victim in [CLIENT, SERVER] {
        let mut found = 0;
        for round in 0..200 {
            let mut scene = Scene::new(victim);
            // Other rounds begin with other random numbers.
            let engine = &mut scene.pair.ends[victim].engine;
            engine.rng = StdRng::seed_from_u64(round);
            scene.pair.ends[victim].write(&[1; 3000]);
            scene.pump_to_nobody();
            let Some(skipped) = scene.active().and_then(|active| active.skipped) else {
                continue;
            };
            let next = scene.pair.ends[victim].record.next_number;
            assert!(skipped < next);
            scene.inject(&frame(0x02, &[next - 1, 0, 0, next - 1]));
            scene.ended_with(Code::PROTOCOL_VIOLATION, "blindly");
            found += 1;
        }
        assert!(
            (3..60).contains(&found),
            "{found} of 200 connections left a number out"
        );
    }
}

#[test]
fn acknowledgements_of_many_ranges_cost_no_memory() {
    let mut scene = Scene::new(SERVER);
    scene.pair.ends[SERVER].record.next_number = 2000;
    scene.pair.ends[SERVER].write(&[1; 9000]);
    scene.pump_to_nobody();
    // Every other number, as many as a packet holds, again and again.
    let mut fields = vec![1999, 0, 500, 0];
    fields.extend(std::iter::repeat_n(0, 1000));
    let before = scene.answers();
    for _ in 0..2000 {
        scene.inject(&frame(0x02, &fields));
    }
    scene.pair.pump();
    assert_eq!(
        scene.answers(),
        before,
        "an acknowledgement is not acknowledged"
    );
    scene.pair.weather.loss = 0.0;
    scene.pair.run_for(Duration::from_secs(3));
    scene.beside_goes_on();
}

/// Hears everything, says nothing: until the idle timeout little is sent, and then it is over.
#[test]
fn a_peer_that_never_acknowledges_is_probed_ever_more_rarely() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        scene.pair.weather.loss = 1.0;
        scene.pair.ends[victim].write(&[1; 200_000]);
        scene.pair.run_for(Duration::from_secs(25));
        let active = scene.active().unwrap();
        assert!(
            active.send.held() <= super::WINDOW + 700,
            "{}",
            active.send.held()
        );
        assert!(active.sent.len() < 40, "{} in flight", active.sent.len());
        assert!(scene.answers() < 40, "{} datagrams", scene.answers());
        scene.beside_goes_on();
        scene.pair.run_for(Duration::from_secs(30));
        assert!(scene.pair.ends[victim].ended);
    }
}

/// It stays alive by speaking, and acknowledges nothing for an hour.
#[test]
fn a_peer_that_speaks_and_never_acknowledges_holds_little() {
    let mut scene = Scene::new(SERVER);
    scene.pump_to_nobody();
    scene.pair.ends[SERVER].write(&[1; 200_000]);
    for _ in 0..720 {
        scene.inject(&[1]);
        scene.pair.run_for(Duration::from_secs(5));
    }
    assert!(scene.pair.ends[SERVER].closed.is_empty());
    let active = scene.active().unwrap();
    assert!(active.send.held() <= super::WINDOW + 700);
    assert!(
        active.sent.len() <= SENT_MAX,
        "{} in flight",
        active.sent.len()
    );
    assert!(scene.answers() < 2 * 720, "{} datagrams", scene.answers());
    scene.beside_goes_on();
}
