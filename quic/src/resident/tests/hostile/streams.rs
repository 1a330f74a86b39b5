//! Stream data in pieces, in disorder and beyond its end, and peers that never read.

use std::time::Duration;

use super::{CLIENT, HANDED_OVER_AT, SERVER, Scene, WINDOW, frame, stream};
use crate::{CloseReason, close_code, resident::reassembly::PIECES_MAX};

fn byte(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn piece(start: u64, end: u64) -> Vec<u8> {
    let data: Vec<u8> = (start..end).map(byte).collect();
    stream(0, start, &data, false)
}

fn wanted(end: u64) -> Vec<u8> {
    (HANDED_OVER_AT..end).map(byte).collect()
}

#[test]
fn a_thousand_overlapping_pieces_are_one_buffer() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let end = HANDED_OVER_AT + 8000;
        for round in 0..1000 {
            // From behind, each over the one before and beyond.
            let start = end - 1 - round * 77 % 7900;
            scene.inject(&piece(start, (start + 300).min(end)));
            let held = scene.active().map_or(0, |active| active.reassembly.held());
            assert!(held as u64 <= WINDOW);
            scene.pair.pump();
        }
        assert!(scene.pair.ends[victim].received.is_empty());
        scene.inject(&piece(HANDED_OVER_AT, HANDED_OVER_AT + 500));
        assert!(scene.pair.ends[victim].received == wanted(end));
        assert!(
            scene
                .active()
                .is_none_or(|active| active.reassembly.is_empty())
        );
        assert!(scene.answers() <= 2 * 1000);
        scene.beside_goes_on();
    }
}

#[test]
fn more_pieces_than_may_lie_apart_count_as_lost() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let apart = PIECES_MAX as u64;
        let at = |number: u64| HANDED_OVER_AT + 10 + 10 * number;
        for number in 0..apart + 100 {
            scene.inject(&piece(at(number), at(number) + 1));
        }
        let held = scene.active().map(|active| active.reassembly.held() as u64);
        assert_eq!(held, Some(at(apart - 1) + 1 - HANDED_OVER_AT));
        // Those that were turned away are not acknowledged, so an honest peer sends them again.
        let received = scene.pair.ends[victim].record.received;
        assert_eq!(received.largest, 8 + apart);
        // What is next in order needs no place, and is always taken.
        scene.inject(&piece(HANDED_OVER_AT, HANDED_OVER_AT + 2));
        assert_eq!(scene.pair.ends[victim].received, wanted(HANDED_OVER_AT + 2));
        scene.inject(&piece(HANDED_OVER_AT + 2, at(apart + 5)));
        assert!(scene.pair.ends[victim].received == wanted(at(apart + 5)));
        scene.beside_goes_on();
    }
}

/// A window's worth is kept behind one missing byte, and then bytes come one by one: each of them moves the front.
#[test]
fn single_bytes_before_a_full_buffer_cost_little() {
    let mut scene = Scene::new(SERVER);
    scene.inject(&piece(WINDOW - 1000, WINDOW));
    let end = WINDOW - 1001;
    let mut at = HANDED_OVER_AT;
    while at < end {
        let next = (at + 200).min(end);
        let frames: Vec<u8> = (at..next).flat_map(|at| piece(at, at + 1)).collect();
        scene.inject(&frames);
        at = next;
        let held = scene.active().map_or(0, |active| active.reassembly.held());
        assert_eq!(held as u64, WINDOW - at);
    }
    scene.inject(&piece(end, end + 1));
    assert!(scene.pair.ends[SERVER].received == wanted(WINDOW));
    scene.beside_goes_on();
}

#[test]
fn bytes_said_before_may_differ_and_are_not_looked_at() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        scene.inject(&piece(5, 105));
        scene.inject(&stream(0, 5, &[0xee; 100], false));
        scene.inject(&stream(0, 0, &[0xee; 105], false));
        assert!(scene.pair.ends[victim].received == wanted(105));
        scene.beside_goes_on();
    }
}

/// Beginnings, endings and nothing at all, in frames without a byte.
#[test]
fn empty_stream_frames_are_nothing() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for offset in [0, 3, 5, 6, 4000, WINDOW] {
            scene.inject(&stream(0, offset, b"", false).repeat(200));
        }
        assert!(scene.pair.ends[victim].received.is_empty());
        assert!(
            scene
                .active()
                .is_none_or(|active| active.reassembly.is_empty())
        );
        scene.goes_on();
    }
}

#[test]
fn an_end_is_the_end_of_the_connection_whenever_it_is_read() {
    let finished = CloseReason::BrokenRule {
        code: close_code::STREAM_FINISHED,
    };
    let at = HANDED_OVER_AT;
    let head = stream(0, at, b"some", false);
    let tail = stream(0, at + 4, b" words", true);
    for victim in [CLIENT, SERVER] {
        for is_paused in [false, true] {
            for frames in [[&head, &tail], [&tail, &head]] {
                let mut scene = Scene::new(victim);
                let end = &mut scene.pair.ends[victim];
                end.engine.pause_reading(&mut end.record, is_paused);
                for frames in frames {
                    scene.inject(frames);
                }
                if is_paused {
                    scene.pair.run_for(Duration::from_secs(1));
                    let end = &mut scene.pair.ends[victim];
                    assert!(end.closed.is_empty(), "not while nobody reads");
                    end.engine.pause_reading(&mut end.record, false);
                    scene.pair.run_for(Duration::from_secs(1));
                }
                let end = &scene.pair.ends[victim];
                assert_eq!(end.received, b"some words");
                assert_eq!(
                    end.closed,
                    std::slice::from_ref(&finished),
                    "paused: {is_paused}"
                );
                scene.pair.run_for(Duration::from_secs(5));
                assert!(scene.pair.ends[victim].ended);
                assert_eq!(scene.pair.ends[1 - victim].closed.len(), 1);
                scene.beside_goes_on();
            }
        }
    }
}

#[test]
fn a_stream_given_up_is_the_end_too() {
    for victim in [CLIENT, SERVER] {
        for (frames, code) in [
            (frame(0x04, &[0, 9, 50]), close_code::STREAM_RESET),
            (frame(0x05, &[0, 9]), close_code::STREAM_STOPPED),
        ] {
            let mut scene = Scene::new(victim);
            scene.inject(&frames);
            let closed = &scene.pair.ends[victim].closed;
            assert_eq!(closed[..], [CloseReason::BrokenRule { code }]);
            scene.beside_goes_on();
        }
    }
}

/// No credit ever: what is accepted stays within the window, and the peer is reminded every two seconds at most.
#[test]
fn a_peer_that_never_reads_holds_one_window() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        let peer = &mut scene.pair.ends[1 - victim];
        peer.engine.pause_reading(&mut peer.record, true);
        scene.pair.ends[victim].write(&[7; 300_000]);
        scene.pair.run_for(Duration::from_secs(2));
        let before = scene.answers();
        scene.pair.run_for(Duration::from_secs(600));
        let reminders = scene.answers() - before;
        assert!((30..=310).contains(&reminders), "{reminders}");
        let held = scene.active().map_or(0, |active| active.send.held());
        assert!(held <= 700, "{held} bytes beyond the credit");
        let kept = &scene.pair.ends[1 - victim].record.active;
        let kept = kept.as_ref().map_or(0, |active| active.reassembly.held());
        assert!(kept as u64 <= WINDOW);
        let peer = &mut scene.pair.ends[1 - victim];
        peer.engine.pause_reading(&mut peer.record, false);
        scene.pair.run_for(Duration::from_secs(60));
        assert_eq!(scene.pair.ends[1 - victim].received.len(), 300_000);
        scene.beside_goes_on();
    }
}

#[test]
fn limits_that_fall_or_rise_without_end_do_nothing() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for limit in [0, 1, WINDOW - 1] {
            scene.inject(&[frame(0x10, &[limit]), frame(0x11, &[0, limit])].concat());
        }
        assert_eq!(scene.pair.ends[victim].record.cold.credit(), WINDOW);
        let most = crate::resident::varint::VARINT_MAX;
        scene.inject(&[frame(0x10, &[most]), frame(0x11, &[0, most])].concat());
        scene.pair.ends[victim].write(&[7; 100_000]);
        assert!(scene.active().unwrap().send.held() <= WINDOW + 700);
        scene.beside_goes_on();
    }
}
