//! Every transport error code that a frame or a header can bring about, at its bound and one past it.

use super::{CLIENT, Code, HANDED_OVER_AT, Header, SERVER, Scene, WINDOW, check, check_harmless};
use super::{frame, id_bytes, new_id, stream};
use crate::resident::{
    protect::{CONFIDENTIALITY_LIMIT, RESERVED_BITS},
    record::RemoteId,
    varint::VARINT_MAX,
};

const BOTH: [usize; 2] = [CLIENT, SERVER];

#[test]
fn more_than_the_window_is_a_flow_control_error() {
    for victim in BOTH {
        for (frames, what) in [
            (stream(0, WINDOW, b"x", false), "a byte beyond the window"),
            (stream(0, WINDOW + 1, b"", false), "an offset beyond it"),
            (
                stream(0, VARINT_MAX - 1, b"x", false),
                "the last offset there is",
            ),
            (frame(0x04, &[0, 0, WINDOW + 1]), "a reset beyond it"),
        ] {
            check(victim, &frames, Code::FLOW_CONTROL_ERROR, what);
        }
        let last = stream(0, WINDOW - 1, b"x", false);
        check_harmless(victim, &last, "the last byte of the window");
    }
}

#[test]
fn streams_beyond_the_one_are_a_stream_limit_error() {
    for (victim, bidirectional, unidirectional) in [(SERVER, 4, 2), (CLIENT, 1, 3)] {
        for id in [bidirectional, unidirectional, bidirectional + 400] {
            for (frames, what) in [
                (stream(id, 0, b"x", false), "STREAM"),
                (frame(0x04, &[id, 0, 0]), "RESET_STREAM"),
                (frame(0x15, &[id, 0]), "STREAM_DATA_BLOCKED"),
            ] {
                check(victim, &frames, Code::STREAM_LIMIT_ERROR, what);
            }
        }
        for (frames, what) in [
            (frame(0x11, &[bidirectional, 9]), "MAX_STREAM_DATA"),
            (frame(0x05, &[bidirectional, 0]), "STOP_SENDING"),
        ] {
            check(victim, &frames, Code::STREAM_LIMIT_ERROR, what);
        }
    }
}

#[test]
fn streams_in_the_wrong_direction_or_never_opened_are_a_stream_state_error() {
    for (victim, own_bidirectional, own, of_peer) in [(SERVER, 1, 3, 2), (CLIENT, 4, 2, 3)] {
        for id in [own_bidirectional, own] {
            for (frames, what) in [
                (stream(id, 0, b"x", false), "STREAM"),
                (frame(0x04, &[id, 0, 0]), "RESET_STREAM"),
                (frame(0x05, &[id, 0]), "STOP_SENDING"),
                (frame(0x11, &[id, 9]), "MAX_STREAM_DATA"),
                (frame(0x15, &[id, 0]), "STREAM_DATA_BLOCKED"),
            ] {
                check(victim, &frames, Code::STREAM_STATE_ERROR, what);
            }
        }
        // Nothing is sent on a stream that the peer alone may send on (RFC 9000 §19.5, §19.10).
        for (frames, what) in [
            (frame(0x05, &[of_peer, 0]), "STOP_SENDING, receive-only"),
            (frame(0x11, &[of_peer, 9]), "MAX_STREAM_DATA, receive-only"),
        ] {
            check(victim, &frames, Code::STREAM_STATE_ERROR, what);
        }
    }
}

#[test]
fn a_final_size_that_changes_is_a_final_size_error() {
    let at = HANDED_OVER_AT;
    let cases: [(&str, &[Vec<u8>]); 7] = [
        ("an end before bytes read", &[stream(0, at - 2, b"", true)]),
        (
            "an end before bytes held",
            &[stream(0, at + 20, b"x", false), stream(0, at, b"", true)],
        ),
        (
            "bytes beyond the end",
            &[
                stream(0, at + 20, b"", true),
                stream(0, at + 20, b"x", false),
            ],
        ),
        (
            "a later end",
            &[stream(0, at + 20, b"", true), stream(0, at + 30, b"", true)],
        ),
        (
            "an earlier end",
            &[stream(0, at + 20, b"", true), stream(0, at + 10, b"", true)],
        ),
        ("a reset before bytes read", &[frame(0x04, &[0, 0, at - 1])]),
        (
            "a reset elsewhere than the end",
            &[stream(0, at + 20, b"", true), frame(0x04, &[0, 0, at + 30])],
        ),
    ];
    for victim in BOTH {
        for (what, packets) in &cases {
            // In one packet, and in several.
            check(victim, &packets.concat(), Code::FINAL_SIZE_ERROR, what);
            let mut scene = Scene::new(victim);
            for packet in *packets {
                scene.inject(packet);
            }
            scene.ended_with(Code::FINAL_SIZE_ERROR, what);
        }
    }
}

#[test]
fn what_cannot_be_read_is_a_frame_encoding_error() {
    let beyond = stream(0, VARINT_MAX, b"x", false);
    let mut no_id = frame(0x18, &[2, 0]);
    no_id.extend([0; 17]);
    let mut long_id = frame(0x18, &[2, 0]);
    long_id.push(21);
    long_id.extend([1; 21 + 16]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![0x1f], "an unknown type"),
        (vec![0x30, 0], "a datagram, which nobody offered"),
        (vec![0x40, 0x01], "PING in two bytes"),
        (vec![0xff; 8], "the largest type"),
        (vec![0x1a, 1, 2, 3], "a challenge that is cut"),
        (frame(0x08 | 0x02, &[0, 5]), "STREAM without its data"),
        (frame(0x02, &[5, 0, 0, 6]), "ACK below 0"),
        (
            frame(0x02, &[8, 0, 1, 0, 8, 0]),
            "ACK whose gap goes below 0",
        ),
        (frame(0x02, &[8, 0, VARINT_MAX, 0]), "ACK of endless ranges"),
        (frame(0x03, &[8, 0, 0, 0, 1]), "ACK_ECN without its counts"),
        (frame(0x12, &[(1 << 60) + 1]), "MAX_STREAMS beyond 2^60"),
        (frame(0x17, &[(1 << 60) + 1]), "STREAMS_BLOCKED beyond 2^60"),
        (beyond, "STREAM beyond 2^62 - 1"),
        (frame(0x06, &[VARINT_MAX, 1, 0]), "CRYPTO beyond 2^62 - 1"),
        (new_id(2, 3), "an ID that retires itself"),
        (no_id, "an ID of no bytes"),
        (long_id, "an ID of 21 bytes"),
        (vec![0x07, 0x00], "an empty token"),
        (vec![0x1c, 0, 0, 40], "a close without its reason"),
    ];
    for victim in BOTH {
        for (frames, what) in &cases {
            check(victim, frames, Code::FRAME_ENCODING_ERROR, what);
            let after_others = [&frame(0x10, &[9]), &vec![1], frames]
                .map(|f| &f[..])
                .concat();
            check(victim, &after_others, Code::FRAME_ENCODING_ERROR, what);
        }
    }
}

#[test]
fn frames_of_servers_are_not_taken_from_clients() {
    for (frames, code, what) in [
        (vec![0x1e], Code::PROTOCOL_VIOLATION, "HANDSHAKE_DONE"),
        (vec![0x07, 1, 9], Code::PROTOCOL_VIOLATION, "NEW_TOKEN"),
        // RFC 9001 §6: whatever a client has to say to TLS now, it would be a KeyUpdate.
        (
            vec![0x06, 0, 1, 24],
            Code::CRYPTO_UNEXPECTED_MESSAGE,
            "CRYPTO",
        ),
    ] {
        check(SERVER, &frames, code, what);
        check_harmless(CLIENT, &frames, what);
    }
}

#[test]
fn ids_that_contradict_each_other_are_protocol_violations() {
    let used_id = |scene: &Scene| scene.pair.ends[scene.victim].record.cold.remote_id;
    for victim in BOTH {
        let mut other_id = new_id(1, 0);
        other_id[4] ^= 1;
        let mut again = new_id(9, 0);
        again[4..12].copy_from_slice(used_id(&Scene::new(victim)).id());
        for (frames, what) in [
            (other_id, "two IDs of one number"),
            (again, "one ID of two numbers"),
        ] {
            check(victim, &frames, Code::PROTOCOL_VIOLATION, what);
        }
        // A peer that chose to have none (RFC 9000 §19.15).
        let mut scene = Scene::new(victim);
        let cold = &mut scene.pair.ends[victim].record.cold;
        (cold.remote_id, cold.spare_remote) = (RemoteId::new(0, &[], None), None);
        scene.inject(&new_id(1, 0));
        assert_eq!(
            scene.pair.violation(victim),
            Some(Code::PROTOCOL_VIOLATION.0)
        );
        scene.beside_goes_on();
    }
    assert_eq!(id_bytes(1)[0], 0xab, "not an ID of the pair");
}

#[test]
fn headers_that_are_wrong_are_protocol_violations() {
    for victim in BOTH {
        for flags in [0x08, 0x10, RESERVED_BITS] {
            let mut scene = Scene::new(victim);
            let header = Header {
                number: 9,
                flags,
                is_long: false,
            };
            let packet = scene.forge_with(&header, &[1]);
            scene.hand(packet);
            scene.ended_with(Code::PROTOCOL_VIOLATION, "reserved bits");
        }
        let mut scene = Scene::new(victim);
        let header = Header {
            number: 0x80_0000,
            flags: 0,
            is_long: true,
        };
        let packet = scene.forge_with(&header, &[]);
        scene.hand(packet);
        scene.ended_with(Code::PROTOCOL_VIOLATION, "no frames");
    }
}

#[test]
fn a_key_that_cannot_be_replaced_ends_at_its_limit() {
    for victim in BOTH {
        let mut scene = Scene::new(victim);
        let record = &mut scene.pair.ends[victim].record;
        record.is_phase_acked = false;
        record.next_number = record.cold.phase_first + CONFIDENTIALITY_LIMIT - 80;
        // Every other one is acknowledged, and later each power of two answered.
        for _ in 0..5000 {
            scene.inject(&[1]);
            scene.pump_to_nobody();
        }
        // The peer cannot follow a leap of numbers like this, so whether it is told is not looked at.
        let code = scene.pair.violation(victim);
        assert_eq!(code, Some(Code::AEAD_LIMIT_REACHED.0));
        let record = &scene.pair.ends[victim].record;
        let used = record.next_number - record.cold.phase_first;
        assert!(
            used <= CONFIDENTIALITY_LIMIT,
            "{} too many",
            used - CONFIDENTIALITY_LIMIT
        );
        scene.beside_goes_on();
    }
}

#[test]
fn forged_packets_end_a_connection_at_their_limit() {
    for victim in BOTH {
        let mut scene = Scene::new(victim);
        scene.pair.ends[victim].record.cold.forged = u32::MAX - 2;
        for is_last in [false, true] {
            assert_eq!(scene.pair.violation(victim), None);
            let mut packet = scene.pair.forge(victim, &[1]);
            packet[20] ^= 1;
            scene.hand(packet);
            assert_eq!(scene.pair.violation(victim).is_some(), is_last);
        }
        // It is said once, whatever else comes.
        let mut packet = scene.pair.forge(victim, &[1]);
        packet[20] ^= 1;
        scene.hand(packet);
        scene.ended_with(Code::AEAD_LIMIT_REACHED, "forged packets");
    }
}
