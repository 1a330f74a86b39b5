//! Connection IDs that come and go without end, and words of parting that are not the peer's.

use std::time::Duration;

use super::{CLIENT, Code, SERVER, Scene, check, frame, new_id, token_bytes};
use crate::{
    CloseReason,
    resident::{active::RETIREMENTS_MAX, varint::VARINT_MAX},
};

#[test]
fn more_ids_than_two_are_too_many() {
    for victim in [CLIENT, SERVER] {
        let limit = Code::CONNECTION_ID_LIMIT_ERROR;
        check(victim, &new_id(2, 0), limit, "a third");
        for sequence in [u64::from(u32::MAX), 1 << 32, VARINT_MAX] {
            check(victim, &new_id(sequence, 0), limit, "numbers without end");
            check(
                victim,
                &new_id(sequence, sequence),
                limit,
                "and in their place",
            );
        }
    }
}

#[test]
fn ids_that_replace_each_other_in_one_packet_are_bounded() {
    for victim in [CLIENT, SERVER] {
        let replacing = |count| {
            (2..2 + count)
                .flat_map(|n| new_id(n, n))
                .collect::<Vec<_>>()
        };
        let most = RETIREMENTS_MAX as u64 - 1;
        let mut scene = Scene::new(victim);
        scene.inject(&replacing(most));
        assert_eq!(
            scene.active().map(|a| a.pending.retire.len()),
            Some(RETIREMENTS_MAX)
        );
        assert_eq!(scene.pair.violation(victim), None);
        check(
            victim,
            &replacing(most + 1),
            Code::CONNECTION_ID_LIMIT_ERROR,
            "one more than may wait to be retired",
        );
    }
}

/// RFC 9000 §5.1.2, §21.11: retirements that are never acknowledged must not pile up.
#[test]
fn a_flood_of_ids_without_acknowledgements_is_cut_off() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for sequence in 2..2000 {
            scene.inject(&new_id(sequence, sequence));
            scene.pump_to_nobody();
            let Some(active) = scene.active() else { break };
            assert!(active.pending.retire.len() <= RETIREMENTS_MAX);
            assert!(active.sent.len() < 1200, "{}", active.sent.len());
            assert!(scene.pair.ends[victim].record.cold.spare_remote.is_none());
            if scene.pair.violation(victim).is_some() {
                break;
            }
        }
        let code = scene.pair.violation(victim);
        assert_eq!(code, Some(Code::CONNECTION_ID_LIMIT_ERROR.0));
        assert!(scene.answers() < 1200);
        scene.beside_goes_on();
    }
}

#[test]
fn an_id_said_again_and_again_is_one_id() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        scene.inject(&new_id(2, 1));
        for _ in 0..1000 {
            scene.inject(&new_id(2, 1).repeat(30));
        }
        assert_eq!(scene.active().map(|a| a.pending.retire.len()), Some(1));
        assert!(scene.pair.ends[victim].closed.is_empty());
        scene.beside_goes_on();
    }
}

/// RFC 9000 §19.16.
#[test]
fn ids_never_given_out_cannot_be_retired() {
    for victim in [CLIENT, SERVER] {
        for (sequence, what) in [(2, "the next"), (VARINT_MAX, "the last"), (0, "its own")] {
            check(
                victim,
                &frame(0x19, &[sequence]),
                Code::PROTOCOL_VIOLATION,
                what,
            );
        }
        // The one that replaces another was given out only when it was said.
        let twice = [frame(0x19, &[1]), frame(0x19, &[2])].concat();
        check(victim, &twice, Code::PROTOCOL_VIOLATION, "not said yet");
    }
}

#[test]
fn retirements_as_fast_as_ids_come_pile_nothing_up() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for sequence in 1..3000 {
            scene.inject(&frame(0x19, &[sequence]).repeat(20));
            scene.pump_to_nobody();
            // The peer has heard of the next ID, so it may.
            let next = scene.pair.ends[victim].record.next_number;
            scene.inject(&frame(0x02, &[next - 1, 0, 0, 0]));
            let waiting = scene
                .active()
                .map_or(0, |active| active.pending.announce.len());
            assert!(waiting <= 1, "{waiting}");
            assert_eq!(scene.pair.ends[victim].ids.len(), 2);
            if scene.pair.violation(victim).is_some() {
                // A number was left out on purpose just there.
                break;
            }
        }
        assert!(scene.answers() <= 2 * 3000);
        scene.beside_goes_on();
    }
}

#[test]
fn a_reset_needs_the_token_of_the_id_in_use() {
    let reset = |id: &[u8; 8], token: [u8; 16]| {
        let mut packet = vec![0x40];
        packet.extend_from_slice(id);
        packet.extend([3; 20]);
        packet.extend(token);
        packet
    };
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let id = scene.pair.ends[victim].record.local_id;
        let cold = &scene.pair.ends[victim].record.cold;
        let used = *cold.remote_id.token().unwrap();
        // RFC 9000 §10.3.1: those of IDs that were not used yet, or are retired, count for nothing.
        let unused = *cold.spare_remote.unwrap().token().unwrap();
        let mut wrong = used;
        wrong[15] ^= 1;
        for token in [unused, wrong, [0; 16], token_bytes(1)] {
            scene.hand(reset(&id, token));
        }
        assert!(scene.pair.ends[victim].closed.is_empty());
        scene.goes_on();
        scene.hand(reset(&id, used));
        assert_eq!(scene.pair.ends[victim].closed, [CloseReason::Reset]);
        let before = scene.answers();
        scene.pair.run_for(Duration::from_secs(5));
        assert_eq!(scene.answers(), before, "a reset is not answered");
        scene.beside_goes_on();
    }
}

#[test]
fn tokens_are_known_to_the_shard_as_long_as_their_id_is_in_use() {
    use crate::resident::Note;
    for victim in [CLIENT, SERVER] {
        let mut pair = super::Pair::new(1, super::Weather::FAIR);
        let first: Vec<_> = pair.ends[victim].record.reset_tokens().collect();
        let mut known = first.clone();
        for sequence in 2..6 {
            let packet = pair.forge(victim, &new_id(sequence, sequence));
            let end = &mut pair.ends[victim];
            let arrival = crate::resident::Arrival {
                remote: end.record.remote(),
                local_ip: None,
                bytes: packet.len(),
            };
            let mut packet = packet;
            end.engine
                .handle_packet(&mut end.record, pair.now, arrival, &mut packet);
            for note in std::mem::take(&mut end.engine.notes) {
                match note {
                    Note::TokenAdded(token) => known.push(token),
                    Note::TokenRemoved(token) => {
                        let at = known.iter().position(|k| *k == token).unwrap();
                        known.remove(at);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(known, end.record.reset_tokens().collect::<Vec<_>>());
            assert_eq!(known, [token_bytes(sequence)]);
        }
    }
}
