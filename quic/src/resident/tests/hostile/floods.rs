//! Very many frames and packets that are each allowed: the work is bounded by what came, the memory by a constant.

use std::time::Duration;

use super::{CLIENT, SERVER, Scene, frame, stream};
use crate::resident::active::{Active, KEPT_MAX};

const PACKETS: u64 = 5000;

/// One kind of packet, very often, from a peer that hears nothing. At most one answer for each.
fn check_flood(victim: usize, frames: &[u8], what: &str) {
    let mut scene = Scene::new(victim);
    for _ in 0..PACKETS {
        scene.inject(frames);
        scene.pump_to_nobody();
    }
    let end = &scene.pair.ends[victim];
    assert!(end.closed.is_empty(), "{what}: {:?}", end.closed);
    assert!(end.engine.notes.is_empty(), "{what}");
    assert!(scene.answers() <= PACKETS, "{what}: {}", scene.answers());
    if let Some(active) = scene.active() {
        assert!(active.sent.len() <= 2, "{what}: {}", active.sent.len());
        assert_eq!(active.reassembly.held(), 0, "{what}");
        assert!(active.pending.announce.is_empty() && active.pending.retire.is_empty());
    }
    scene.pair.weather.loss = 0.0;
    scene.goes_on();
    scene.pair.run_for(Duration::from_secs(5));
    assert!(scene.active().is_none(), "{what}: it rests again");
}

#[test]
fn tiny_frames_by_the_thousand() {
    for victim in [CLIENT, SERVER] {
        for (frames, what) in [
            (vec![1; 1100], "PING"),
            ([[1, 0]; 550].concat(), "PING and PADDING"),
            (vec![0; 1100], "PADDING"),
            (frame(0x10, &[1]).repeat(500), "MAX_DATA"),
            (frame(0x11, &[0, 1]).repeat(300), "MAX_STREAM_DATA"),
            (frame(0x12, &[1 << 60]).repeat(100), "MAX_STREAMS"),
            (frame(0x14, &[1]).repeat(500), "DATA_BLOCKED"),
            (frame(0x15, &[0, 1]).repeat(300), "STREAM_DATA_BLOCKED"),
            (frame(0x16, &[1]).repeat(500), "STREAMS_BLOCKED"),
            (frame(0x02, &[8, 0, 0, 8]).repeat(200), "ACK"),
            (stream(0, 5, b"", false).repeat(250), "STREAM without data"),
            (
                stream(0, 0, b"hello", false).repeat(100),
                "STREAM said before",
            ),
            (
                frame(0x1b, &[]).into_iter().chain([3; 8]).collect(),
                "PATH_RESPONSE",
            ),
        ] {
            check_flood(victim, &frames, what);
        }
    }
    for frames in [vec![0x1e; 1100], frame(0x06, &[0, 0]).repeat(300)] {
        check_flood(CLIENT, &frames, "HANDSHAKE_DONE, CRYPTO");
    }
}

#[test]
fn single_pings_are_answered_every_other_time() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for _ in 0..PACKETS {
            scene.inject(&[1]);
            scene.pair.pump();
        }
        assert!(scene.answers() <= PACKETS / 2 + 1, "{}", scene.answers());
        scene.goes_on();
    }
}

/// Bytes one at a time, each of which the application gets: credit is renewed for halves of a window only.
#[test]
fn single_bytes_are_answered_every_other_time() {
    for victim in [CLIENT, SERVER] {
        let mut scene = Scene::new(victim);
        for number in 0..PACKETS {
            scene.inject(&stream(0, 5 + number, b"x", false));
            scene.pair.pump();
        }
        assert_eq!(scene.pair.ends[victim].received.len() as u64, PACKETS);
        assert!(scene.answers() <= PACKETS / 2 + 10, "{}", scene.answers());
        scene.beside_goes_on();
    }
}

#[test]
fn a_box_that_grew_large_gives_its_memory_back() {
    let mut active = Active::default();
    active.sent.reserve(1000);
    active.renew();
    assert!(
        active.sent.capacity() <= KEPT_MAX,
        "{}",
        active.sent.capacity()
    );
    active.sent.reserve(KEPT_MAX / 2);
    let capacity = active.sent.capacity();
    active.renew();
    assert_eq!(active.sent.capacity(), capacity, "a small one is kept");
}
