//! Key updates that break the rules (RFC 9001 §6), and updates without end.

use super::{CLIENT, Code, Header, SERVER, Scene};

/// The peer goes on to its next keys, asking nobody.
fn update(scene: &mut Scene) {
    let peer = &mut scene.pair.ends[1 - scene.victim];
    peer.engine.begin_key_update(&mut peer.record);
}

/// RFC 9001 §6.2: an update before the last one was answered.
#[test]
fn an_update_upon_another_is_a_key_update_error() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        update(&mut scene);
        scene.inject(&[1]);
        assert_eq!(scene.pair.violation(victim), None);
        update(&mut scene);
        scene.inject(&[1]);
        let code = scene.pair.violation(victim);
        assert_eq!(code, Some(Code::KEY_UPDATE_ERROR.0));
        scene.beside_goes_on();
    }
}

#[test]
fn updates_without_end_cost_one_old_key() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for round in 1..=1000 {
            update(&mut scene);
            // Twice, so that it is acknowledged at once.
            scene.inject(&[1]);
            scene.inject(&[1]);
            scene.pair.pump();
            let counts = scene.pair.ends[victim].engine.counts;
            assert_eq!(counts.key_updates, round);
            assert!(scene.active().is_some_and(|active| active.sent.is_empty()));
        }
        assert!(scene.answers() <= 2 * 1000);
        scene.goes_on();
    }
}

/// A packet whose key phase bit was flipped on the way, or that was made up: trying the next keys changes nothing.
#[test]
fn a_forged_key_phase_changes_no_keys() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for number in 9..200 {
            // The header is protected with the right key, so only the seal tells.
            let header = Header {
                number,
                flags: 0x04,
                is_long: false,
            };
            let mut packet = scene.forge_with(&header, &[1; 40]);
            let last = packet.len() - 1;
            packet[last] ^= 1;
            scene.hand(packet);
        }
        let counts = scene.pair.ends[victim].engine.counts;
        assert_eq!((counts.key_updates, counts.undecryptable), (0, 191));
        assert!(scene.active().is_none(), "nothing hangs off the record");
        assert_eq!(scene.answers(), 0);
        scene.goes_on();
    }
}

/// RFC 9001 §6.4: the keys left behind open nothing that is newer than what the new keys opened.
#[test]
fn an_old_key_opens_no_newer_packet() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let late = scene.pair.forge(victim, &[1]);
        let header = Header {
            number: 40,
            flags: 0,
            is_long: false,
        };
        let newer = scene.forge_with(&header, &[1]);
        update(&mut scene);
        scene.inject(&[1]);
        let before = scene.pair.ends[victim].engine.counts.undecryptable;
        scene.hand(newer);
        let counts = scene.pair.ends[victim].engine.counts;
        assert_eq!(counts.undecryptable, before + 1);
        scene.hand(late);
        let received = scene.pair.ends[victim].record.received;
        assert!(received.contains(9) && !received.contains(40));
        scene.goes_on();
    }
}
