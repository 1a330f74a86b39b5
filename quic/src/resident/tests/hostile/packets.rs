//! Datagrams that are damaged, cut, repeated or made up.

use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use super::{CLIENT, SERVER, Scene, stream};

/// Neither counts nor memory of the victim betray that anything came, but for the packets that could not be opened.
fn assert_untouched(scene: &Scene, undecryptable: u64) {
    let end = &scene.pair.ends[scene.victim];
    assert_eq!(end.engine.counts.undecryptable, undecryptable);
    assert!(end.record.active.is_none());
    assert!(end.closed.is_empty() && end.received.is_empty());
    assert_eq!(scene.answers(), 0);
}

#[test]
fn a_packet_cut_anywhere_is_nothing() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let whole = scene.pair.forge(victim, &stream(0, 5, &[7; 100], false));
        // What has no room for an ID is never given to the engine, and what cannot be sampled is not looked at.
        for end in 9..whole.len() {
            scene.hand(whole[..end].to_vec());
        }
        assert_untouched(&scene, (whole.len() - 29) as u64);
        // Something behind it does not belong to it, and nothing tells where it begins: RFC 9000 §12.2.
        scene.hand([&whole[..], &whole[..]].concat());
        assert_untouched(&scene, (whole.len() - 28) as u64);
        scene.hand(whole);
        assert_eq!(scene.pair.ends[victim].received, [7; 100]);
        scene.beside_goes_on();
    }
}

#[test]
fn a_packet_with_any_bit_wrong_is_nothing() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let whole = scene.pair.forge(victim, &stream(0, 5, &[7; 20], false));
        let mut tried = 0;
        for bit in 0..8 * whole.len() {
            // Another ID is another connection's; fixed and form bit are the shard's business.
            if (8..72).contains(&bit) || matches!(bit, 6 | 7) {
                continue;
            }
            let mut packet = whole.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            scene.hand(packet);
            tried += 1;
        }
        assert_untouched(&scene, tried);
        scene.goes_on();
    }
}

#[test]
fn noise_to_a_known_id_costs_nothing() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let mut rng = StdRng::seed_from_u64(5);
        let id = scene.pair.ends[victim].record.local_id;
        for round in 0..10_000u32 {
            let mut packet = vec![0; rng.random_range(29..1400)];
            rng.fill_bytes(&mut packet);
            packet[0] = 0x40 | packet[0] & 0x3f;
            packet[1..9].copy_from_slice(&id);
            let from = ([192, 0, 2, 1], round as u16).into();
            scene.pair.hand(victim, from, packet);
        }
        // A client looks at nothing from elsewhere (RFC 9000 §9).
        let looked_at = if victim == SERVER { 10_000 } else { 0 };
        assert_untouched(&scene, looked_at);
        scene.goes_on();
    }
}

#[test]
fn packets_that_come_again_count_once() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let packets: Vec<_> = (0..200)
            .map(|n| {
                scene
                    .pair
                    .forge(victim, &stream(0, 5 + n, &[n as u8], false))
            })
            .collect();
        for packet in &packets {
            scene.hand(packet.clone());
        }
        scene.pair.pump();
        let before = scene.answers();
        let wanted: Vec<u8> = (0..200).collect();
        let moved = scene.pair.ends[victim].engine.counts.path_changes;
        for round in 0..50 {
            for packet in &packets {
                // Also from elsewhere, which is no move: RFC 9000 §9.3 asks for the newest packet.
                let from = ([192, 0, 2, 1], round).into();
                scene.pair.hand(victim, from, packet.clone());
                scene.hand(packet.clone());
            }
        }
        scene.pair.pump();
        let end = &scene.pair.ends[victim];
        assert_eq!(end.received, wanted);
        assert_eq!(end.engine.counts.path_changes, moved);
        // The numbers of the oldest are too short to be told from those that are due next.
        let counts = end.engine.counts;
        assert!(counts.duplicates > 0 && counts.duplicates + counts.undecryptable >= 50 * 200);
        assert_eq!(scene.answers(), before, "a repetition is not answered");
        scene.beside_goes_on();
    }
}

/// A close is answered ever more rarely (RFC 9000 §10.2.1).
#[test]
fn whoever_goes_on_after_the_end_is_told_a_few_times() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        scene.inject(&[0x1f]);
        scene.pump_to_nobody();
        let before = scene.answers();
        for _ in 0..10_000 {
            scene.inject(&[1]);
            scene.pair.pump();
        }
        assert_eq!(
            scene.answers() - before,
            14,
            "at each power of two up to 8192"
        );
        assert_eq!(scene.pair.ends[victim].closed.len(), 1);
        assert!(scene.pair.ends[victim].received.is_empty());
        scene.beside_goes_on();
    }
}
