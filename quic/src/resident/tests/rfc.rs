//! Single requirements of RFC 9000, 9001 and 9002, each named for what it asks.
//!
//! Long, because it is one list in the order of the sections, as `docs/rfc-coverage.md` refers to it.

use std::{net::SocketAddr, time::Duration};

use super::pair::{CLIENT, Pair, SERVER, Weather};
use crate::{
    CloseReason, close_code,
    resident::{
        Arrival, Note,
        error::Code,
        frame::{Frame, kind, put_ack, put_new_connection_id},
        output::Datagram,
        protect::{self, HeaderKey, PacketKey, PacketStart},
        record::{LocalId, State},
        recovery::DATAGRAM_BYTES,
        varint::{Reader, put_varint},
    },
};

const PADDING: &[u8] = &[0];
const PING: &[u8] = &[kind::PING];
const ELSEWHERE: &str = "10.7.7.7:7";
/// Of the engines of a pair.
const RESET_KEY: [u8; 64] = [9; 64];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn challenge(data: u8) -> Vec<u8> {
    [&[kind::PATH_CHALLENGE][..], &[data; 8]].concat()
}

fn new_id(sequence: u64, retire_prior_to: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let byte = sequence as u8;
    put_new_connection_id(&mut out, sequence, retire_prior_to, &[byte; 8], &[byte; 16]);
    out
}

fn with_numbers(kind: u8, numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![kind];
    for &number in numbers {
        put_varint(&mut out, number);
    }
    out
}

fn retire(sequence: u64) -> Vec<u8> {
    with_numbers(kind::RETIRE_CONNECTION_ID, &[sequence])
}

/// A packet as the peer of its receiver could make it.
struct Made<'a> {
    id: LocalId,
    number: u64,
    key: PacketKey,
    phase: bool,
    /// Bits of the first byte that are turned over before it is protected.
    flip: u8,
    frames: &'a [u8],
    /// Size of the datagram, at least.
    size: usize,
}

impl<'a> Made<'a> {
    /// The next packet in order.
    fn next(pair: &Pair, to: usize, frames: &'a [u8]) -> Self {
        let sender = &pair.ends[1 - to].record;
        Self {
            id: pair.ends[to].record.local_id,
            number: sender.next_number,
            key: sender.tx.key.clone(),
            phase: sender.key_phase,
            flip: 0,
            frames,
            size: 0,
        }
    }

    fn seal(self, header: &HeaderKey) -> Vec<u8> {
        let mut out = Vec::new();
        let acked = self.number.checked_sub(100);
        let start = PacketStart::write(&mut out, &self.id, self.number, acked, self.phase);
        out[0] ^= self.flip;
        out.extend_from_slice(self.frames);
        start.finish(&mut out, &self.key, header, self.size);
        out
    }

    fn hand(self, pair: &mut Pair, to: usize, from: SocketAddr) {
        let sender = &mut pair.ends[1 - to].record;
        sender.next_number = sender.next_number.max(self.number + 1);
        let packet = self.seal(&sender.tx.header.clone());
        pair.hand(to, from, packet);
    }

    /// From where the peer is.
    fn hand_from_home(self, pair: &mut Pair, to: usize) {
        let home = pair.ends[1 - to].addr;
        self.hand(pair, to, home);
    }
}

/// A datagram that an end sent, opened.
struct Seen {
    to: SocketAddr,
    bytes: usize,
    id: Vec<u8>,
    plaintext: Vec<u8>,
}

impl Seen {
    fn frames(&self) -> Vec<Frame<'_>> {
        let mut reader = Reader::new(&self.plaintext);
        let mut frames = Vec::new();
        while !reader.is_empty() {
            frames.push(Frame::read(&mut reader).unwrap());
        }
        frames
    }

    fn has(&self, is_it: impl Fn(&Frame<'_>) -> bool) -> bool {
        self.frames().iter().any(is_it)
    }

    fn challenge(&self) -> Option<[u8; 8]> {
        self.frames().iter().find_map(|frame| match frame {
            Frame::PathChallenge(data) => Some(*data),
            _ => None,
        })
    }
}

/// What an end sends now; nobody receives it.
fn poll(pair: &mut Pair, index: usize) -> Vec<Seen> {
    let now = pair.now;
    let end = &mut pair.ends[index];
    let mut seen = Vec::new();
    loop {
        let mut out = Vec::new();
        let number = end.record.next_number;
        let sent = end.engine.poll_transmit(&mut end.record, now, &mut out);
        let Some(Datagram { destination, bytes }) = sent else {
            let is_told = |note: &Note| matches!(note, Note::Closed(_));
            end.engine.notes.retain(is_told);
            return seen;
        };
        let number_at = 1 + 8;
        let header = protect::unmask(&end.record.tx.header, &mut out, number_at).unwrap();
        let (head, body) = out.split_at_mut(number_at + header.number_len);
        // One may have been left out.
        let plaintext = (number..number + 2).find_map(|number| {
            let mut body = body.to_vec();
            let opened = end.record.tx.key.open(number, head, &mut body).ok()?;
            Some(opened.to_vec())
        });
        seen.push(Seen {
            to: destination,
            bytes,
            id: head[1..number_at].to_vec(),
            plaintext: plaintext.expect("sealed with the key in use"),
        });
        assert!(seen.len() < 1000, "there is no end of datagrams");
    }
}

/// Both directions have a recent sample of the round-trip time, and nothing is under way.
fn settled() -> Pair {
    let mut pair = Pair::new(1, Weather::FAIR);
    for index in [CLIENT, SERVER] {
        pair.ends[index].write(b"hello");
        pair.run_for(Duration::from_secs(2));
    }
    assert!(pair.is_at_rest());
    for end in &mut pair.ends {
        end.received.clear();
    }
    pair
}

/// Moves the client in the eyes of the server to an address that is not proven, by a datagram of this size.
fn move_to(pair: &mut Pair, elsewhere: &str, size: usize) {
    let mut made = Made::next(pair, SERVER, PING);
    made.size = size;
    made.hand(pair, SERVER, addr(elsewhere));
    assert_eq!(pair.ends[SERVER].record.remote(), addr(elsewhere));
}

// Packets and frames.

/// RFC 9000 §17.3.1.
#[test]
fn a_packet_without_the_fixed_bit_is_dropped() {
    let mut pair = settled();
    let mut made = Made::next(&pair, SERVER, PING);
    made.flip = protect::FIXED_BIT;
    made.hand_from_home(&mut pair, SERVER);
    assert!(pair.ends[SERVER].record.active.is_none());
    assert_eq!(pair.ends[SERVER].closed, []);
}

/// RFC 9000 §17.3.1.
#[test]
fn reserved_bits_are_a_violation_once_the_packet_is_opened() {
    let mut pair = settled();
    let mut made = Made::next(&pair, SERVER, PING);
    made.flip = 0x08;
    made.hand_from_home(&mut pair, SERVER);
    assert_eq!(pair.violation(SERVER), Some(Code::PROTOCOL_VIOLATION.0));
}

/// RFC 9000 §12.3.
#[test]
fn a_packet_number_counts_once() {
    let mut pair = settled();
    let packet = pair.forge(SERVER, &[kind::STREAM | kind::STREAM_OFF, 0, 10, b'x']);
    let from = pair.ends[CLIENT].addr;
    for _ in 0..3 {
        pair.hand(SERVER, from, packet.clone());
    }
    assert_eq!(pair.ends[SERVER].received, b"x");
    assert_eq!(pair.ends[SERVER].engine.counts.duplicates, 2);
}

/// RFC 9000 §12.4.
#[test]
fn a_packet_without_frames_is_a_violation() {
    let mut pair = settled();
    let record = &pair.ends[CLIENT].record;
    // Header, four bytes of the number, and nothing but a tag: just enough to be sampled.
    let mut packet = vec![protect::FIXED_BIT | 3];
    packet.extend_from_slice(&pair.ends[SERVER].record.local_id);
    packet.extend_from_slice(&(record.next_number as u32).to_be_bytes());
    let tag = record
        .tx
        .key
        .seal(record.next_number, &packet.clone(), &mut []);
    packet.extend_from_slice(&tag);
    let mask = record.tx.header.mask(&packet[13..29]);
    packet[0] ^= mask[0] & 0x1f;
    for (byte, mask) in packet[9..13].iter_mut().zip(&mask[1..]) {
        *byte ^= mask;
    }
    let from = pair.ends[CLIENT].addr;
    pair.hand(SERVER, from, packet);
    assert_eq!(pair.violation(SERVER), Some(Code::PROTOCOL_VIOLATION.0));
}

/// RFC 9000 §19, §4, §5.1: what a wrong frame is answered with.
#[test]
fn wrong_frames_have_their_codes() {
    let window = u64::from(crate::Limits::default().receive_window_bytes);
    let last = (1 << 62) - 1;
    let stream = kind::STREAM | kind::STREAM_LEN;
    let far = kind::STREAM | kind::STREAM_OFF;
    let mut empty_id = new_id(5, 0);
    empty_id[3] = 0;
    let then = |mut frame: Vec<u8>, byte: u8| {
        frame.push(byte);
        frame
    };
    for (frame, code) in [
        (vec![0x1f], Code::FRAME_ENCODING_ERROR),
        // A type in two bytes where one would do (§12.4).
        (vec![0x40, kind::PING], Code::FRAME_ENCODING_ERROR),
        // A packet that is yet to be sent (§13.1), and one of a negative number (§19.3.1).
        (
            with_numbers(kind::ACK, &[5000, 0, 0, 0]),
            Code::PROTOCOL_VIOLATION,
        ),
        (
            with_numbers(kind::ACK, &[5, 0, 0, 6]),
            Code::FRAME_ENCODING_ERROR,
        ),
        // Streams that only the server could have opened, and further ones of the client.
        (
            with_numbers(kind::RESET_STREAM, &[3, 0, 0]),
            Code::STREAM_STATE_ERROR,
        ),
        (
            with_numbers(kind::STOP_SENDING, &[1, 0]),
            Code::STREAM_STATE_ERROR,
        ),
        (with_numbers(stream, &[1, 0]), Code::STREAM_STATE_ERROR),
        (
            with_numbers(kind::MAX_STREAM_DATA, &[1, 9]),
            Code::STREAM_STATE_ERROR,
        ),
        (
            with_numbers(kind::STREAM_DATA_BLOCKED, &[3, 9]),
            Code::STREAM_STATE_ERROR,
        ),
        (with_numbers(stream, &[4, 0]), Code::STREAM_LIMIT_ERROR),
        (with_numbers(stream, &[2, 0]), Code::STREAM_LIMIT_ERROR),
        // More than the window, and more than can be counted.
        (
            with_numbers(far, &[0, window + 10]),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            then(with_numbers(far, &[0, last]), 1),
            Code::FRAME_ENCODING_ERROR,
        ),
        (
            with_numbers(kind::RESET_STREAM, &[0, 0, window + 10]),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            with_numbers(kind::RESET_STREAM, &[0, 0, 3]),
            Code::FINAL_SIZE_ERROR,
        ),
        (
            with_numbers(kind::MAX_STREAMS_BIDI, &[(1 << 60) + 1]),
            Code::FRAME_ENCODING_ERROR,
        ),
        (
            with_numbers(kind::STREAMS_BLOCKED_UNI, &[(1 << 60) + 1]),
            Code::FRAME_ENCODING_ERROR,
        ),
        // What a client never says.
        (
            with_numbers(kind::CRYPTO, &[0, 0]),
            Code::CRYPTO_UNEXPECTED_MESSAGE,
        ),
        (
            then(with_numbers(kind::CRYPTO, &[last, 1]), 1),
            Code::FRAME_ENCODING_ERROR,
        ),
        (
            with_numbers(kind::NEW_TOKEN, &[1, 1]),
            Code::PROTOCOL_VIOLATION,
        ),
        (
            with_numbers(kind::NEW_TOKEN, &[0]),
            Code::FRAME_ENCODING_ERROR,
        ),
        (vec![kind::HANDSHAKE_DONE], Code::PROTOCOL_VIOLATION),
        // Connection IDs: of no length, below what it retires, another one of a known number, a third one; and IDs of
        // ours that were never given out, or that the packet itself came to.
        (empty_id, Code::FRAME_ENCODING_ERROR),
        (new_id(2, 3), Code::FRAME_ENCODING_ERROR),
        (new_id(1, 0), Code::PROTOCOL_VIOLATION),
        (new_id(2, 0), Code::CONNECTION_ID_LIMIT_ERROR),
        (retire(2), Code::PROTOCOL_VIOLATION),
        (retire(0), Code::PROTOCOL_VIOLATION),
    ] {
        let mut pair = settled();
        pair.inject(SERVER, &frame);
        assert_eq!(pair.violation(SERVER), Some(code.0), "{frame:x?}");
        // RFC 9000 §11.1.
        let said = poll(&mut pair, SERVER);
        let is_close = |f: &Frame<'_>| matches!(f, Frame::Close { code: c, .. } if *c == code.0);
        assert!(said.iter().any(|seen| seen.has(is_close)), "{frame:x?}");
    }
}

// Connection IDs.

/// RFC 9000 §19.16: sent, not only decided on.
#[test]
fn an_id_that_was_never_sent_cannot_be_retired() {
    let mut pair = settled();
    pair.inject(SERVER, &[retire(1), retire(2)].concat());
    assert_eq!(pair.violation(SERVER), Some(Code::PROTOCOL_VIOLATION.0));
}

/// What waits to be announced is bounded by the IDs that there are.
#[test]
fn announcements_that_only_seemed_lost_do_not_pile_up() {
    let mut pair = settled();
    for sequence in 1..100 {
        pair.inject(SERVER, &retire(sequence));
        poll(&mut pair, SERVER);
        if let Some(active) = pair.ends[SERVER].record.active.as_deref_mut() {
            active.leave_path();
        }
    }
    assert_eq!(pair.ends[SERVER].closed, []);
    let active = pair.ends[SERVER].record.active.as_deref().unwrap();
    assert_eq!(active.pending.announce, [100]);
}

/// RFC 9000 §19.15: numbers up to 2^62 can be said.
#[test]
fn the_largest_sequence_numbers_are_survived() {
    let bound = u64::from(u32::MAX);
    for sequence in [bound - 1, bound, bound + 1, (1 << 62) - 1] {
        let mut pair = settled();
        pair.inject(SERVER, &new_id(sequence, sequence));
        let expect = (sequence >= bound).then_some(Code::CONNECTION_ID_LIMIT_ERROR.0);
        assert_eq!(pair.violation(SERVER), expect, "{sequence}");
    }
}

/// RFC 9000 §5.1.2, §19.15: also when the ID itself is known.
#[test]
fn a_repeated_offer_may_take_back_older_ids() {
    let mut pair = settled();
    let spare = pair.ends[SERVER].record.cold.spare_remote.unwrap();
    let mut offer = Vec::new();
    put_new_connection_id(&mut offer, 1, 1, spare.id(), spare.token().unwrap());
    pair.inject(SERVER, &offer);
    assert_eq!(pair.ends[SERVER].record.cold.remote_id, spare);
    let said = poll(&mut pair, SERVER);
    let is_retirement = |f: &Frame<'_>| *f == Frame::RetireConnectionId(0);
    assert!(said.iter().any(|seen| seen.has(is_retirement)));
    assert!(said.iter().all(|seen| seen.id == spare.id()));
    assert_eq!(pair.ends[SERVER].closed, []);
}

/// RFC 9000 §19.15: the same frame twice is no error, and one below what is retired is retired again.
#[test]
fn offers_that_come_twice_or_late_are_no_errors() {
    let retired = |pair: &mut Pair| -> Vec<u64> {
        let mut all = Vec::new();
        for seen in poll(pair, SERVER) {
            all.extend(seen.frames().iter().filter_map(|frame| match frame {
                Frame::RetireConnectionId(sequence) => Some(*sequence),
                _ => None,
            }));
        }
        all.sort_unstable();
        all
    };
    let mut pair = settled();
    pair.inject(SERVER, &new_id(2, 2));
    assert_eq!(pair.ends[SERVER].record.cold.remote_id.sequence, 2);
    assert_eq!(retired(&mut pair), [0, 1]);
    pair.inject(SERVER, &new_id(2, 2));
    assert_eq!(retired(&mut pair), [0u64; 0]);
    pair.inject(SERVER, &new_id(1, 0));
    assert_eq!(retired(&mut pair), [1]);
    assert_eq!(pair.ends[SERVER].closed, []);
}

/// RFC 9000 §10.3.1.
#[test]
fn only_the_token_of_the_id_in_use_ends_a_connection() {
    let reset = |pair: &mut Pair, token: &[u8; 16], length: usize| {
        let mut packet = vec![0x55; length - 16];
        packet[1..9].copy_from_slice(&pair.ends[SERVER].record.local_id);
        packet.extend_from_slice(token);
        let from = pair.ends[CLIENT].addr;
        pair.hand(SERVER, from, packet);
    };
    // Long enough to be tried as a packet, and too short for that.
    for length in [40, 25] {
        let mut pair = settled();
        let cold = &pair.ends[SERVER].record.cold;
        let spare = *cold.spare_remote.unwrap().token().unwrap();
        let used = *cold.remote_id.token().unwrap();
        reset(&mut pair, &spare, length);
        assert_eq!(pair.ends[SERVER].closed, [], "an ID that was never used");
        pair.inject(SERVER, &new_id(2, 1));
        reset(&mut pair, &used, length);
        assert_eq!(pair.ends[SERVER].closed, [], "an ID that is retired");
        reset(&mut pair, &spare, length);
        assert_eq!(pair.ends[SERVER].closed, [CloseReason::Reset]);
        assert!(poll(&mut pair, SERVER).is_empty(), "draining");
    }
}

/// RFC 9000 §10.3.2: the token that goes along with an ID is the one by which the handshake engine, which knows nothing
/// of residents, resets what it does not know.
#[test]
fn announced_tokens_are_those_of_later_resets() {
    let mut pair = settled();
    pair.inject(SERVER, &retire(1));
    let said = poll(&mut pair, SERVER);
    let frames = said[0].frames();
    let offer = frames.iter().find_map(|frame| match frame {
        Frame::NewConnectionId(offer) => Some(offer),
        _ => None,
    });
    let offer = offer.unwrap();
    let key: &dyn quinn_proto::crypto::HmacKey =
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &RESET_KEY);
    let mut signature = vec![0; key.signature_len()];
    key.sign(offer.id, &mut signature);
    assert_eq!(offer.reset_token, signature[..16]);
}

/// The end of a connection is told once.
#[test]
fn a_reset_in_closing_is_not_told() {
    let mut pair = settled();
    pair.inject(SERVER, &[0x1f]);
    let mut packet = vec![0x55; 24];
    packet[1..9].copy_from_slice(&pair.ends[SERVER].record.local_id);
    packet.extend_from_slice(pair.ends[SERVER].record.cold.remote_id.token().unwrap());
    let from = pair.ends[CLIENT].addr;
    pair.hand(SERVER, from, packet);
    assert_eq!(pair.ends[SERVER].closed.len(), 1);
    assert!(poll(&mut pair, SERVER).is_empty(), "draining");
}

// Paths.

/// RFC 9000 §8.2.2: whatever the size of the challenge.
#[test]
fn a_response_on_a_proven_path_has_full_size() {
    for index in [CLIENT, SERVER] {
        let mut pair = settled();
        pair.inject(index, &challenge(9));
        let said = poll(&mut pair, index);
        assert!(said[0].has(|f| *f == Frame::PathResponse([9; 8])));
        assert_eq!(said[0].bytes, DATAGRAM_BYTES);
    }
}

/// RFC 9000 §8.2.2, §8: elsewhere it goes back where the challenge came from, within three times its size; and it tells
/// nothing of the path in use (§9.4).
#[test]
fn a_response_to_elsewhere_is_bounded_and_stands_alone() {
    for (size, bound) in [(50, 150), (399, 399 * 3), (400, DATAGRAM_BYTES)] {
        let mut pair = settled();
        let probe = challenge(9);
        let mut made = Made::next(&pair, SERVER, &probe);
        made.size = size;
        made.hand(&mut pair, SERVER, addr(ELSEWHERE));
        let home = pair.ends[CLIENT].addr;
        assert_eq!(
            pair.ends[SERVER].record.remote(),
            home,
            "a probe moves nothing"
        );
        let said = poll(&mut pair, SERVER);
        assert_eq!(said[0].to, addr(ELSEWHERE));
        assert!(said[0].has(|f| *f == Frame::PathResponse([9; 8])));
        let is_full = said[0].bytes == DATAGRAM_BYTES;
        assert!(said[0].bytes <= bound && is_full == (bound == DATAGRAM_BYTES));
        let active = pair.ends[SERVER].record.active.as_deref();
        assert_eq!(active.map_or(0, |active| active.in_flight), 0);
    }
}

/// RFC 9000 §8.2.1, §8.2.3: a challenge that had to be small proves the address, and another one the size.
#[test]
fn a_small_challenge_is_followed_by_a_full_one() {
    let mut pair = settled();
    move_to(&mut pair, ELSEWHERE, 0);
    let respond = |pair: &mut Pair, data: [u8; 8]| {
        let frames = [&[kind::PATH_RESPONSE][..], &data].concat();
        Made::next(pair, SERVER, &frames).hand(pair, SERVER, addr(ELSEWHERE));
    };
    pair.ends[SERVER].write(&[1; 5000]);
    let said = poll(&mut pair, SERVER);
    assert_eq!(said.len(), 1);
    assert!(said[0].bytes < DATAGRAM_BYTES && said[0].to == addr(ELSEWHERE));
    let first = said[0].challenge().unwrap();
    respond(&mut pair, first);
    let said = poll(&mut pair, SERVER);
    let second = said[0].challenge().unwrap();
    assert_ne!(second, first);
    assert_eq!(
        (said[0].bytes, said[0].to),
        (DATAGRAM_BYTES, addr(ELSEWHERE))
    );
    // The address is proven: bytes flow.
    let bytes: usize = said.iter().map(|seen| seen.bytes).sum();
    assert!(bytes > 5000, "{bytes}");
    respond(&mut pair, second);
    let active = pair.ends[SERVER].record.active.as_deref().unwrap();
    assert!(active.path.is_none());
}

/// RFC 9000 §8.2.1.
#[test]
fn a_challenge_has_full_size_where_that_is_allowed() {
    let mut pair = settled();
    move_to(&mut pair, ELSEWHERE, 400);
    let said = poll(&mut pair, SERVER);
    let data = said[0].challenge().unwrap();
    assert_eq!(said[0].bytes, DATAGRAM_BYTES);
    let frames = [&[kind::PATH_RESPONSE][..], &data].concat();
    // RFC 9000 §8.2.3: on whatever path it comes.
    Made::next(&pair, SERVER, &frames).hand(&mut pair, SERVER, addr(ELSEWHERE));
    let active = pair.ends[SERVER].record.active.as_deref().unwrap();
    assert!(active.path.is_none() && !active.pending.challenge);
}

/// RFC 9000 §9.5: who probes a path with another ID, and then moves there, is followed with another ID.
#[test]
fn a_move_after_a_probe_changes_the_id() {
    for speaks_at_home_between in [false, true] {
        let mut pair = settled();
        let record = &pair.ends[SERVER].record;
        let spare = record.cold.spare_remote.unwrap();
        let ids: Vec<_> = record.local_ids().collect();
        let probe = challenge(1);
        let mut made = Made::next(&pair, SERVER, &probe);
        made.id = ids[1];
        made.hand(&mut pair, SERVER, addr(ELSEWHERE));
        if speaks_at_home_between {
            let mut made = Made::next(&pair, SERVER, PADDING);
            made.id = ids[0];
            made.hand_from_home(&mut pair, SERVER);
        }
        let mut made = Made::next(&pair, SERVER, PING);
        made.id = ids[1];
        made.hand(&mut pair, SERVER, addr(ELSEWHERE));
        let record = &pair.ends[SERVER].record;
        assert_eq!(record.remote(), addr(ELSEWHERE));
        assert_eq!(record.cold.remote_id, spare);
        assert_eq!(record.local_id, ids[1]);
    }
}

/// RFC 9000 §9.3: an older packet from elsewhere moves nothing.
#[test]
fn only_the_newest_packet_moves_the_peer() {
    let mut pair = settled();
    let old = Made::next(&pair, SERVER, PING);
    let mut new = Made::next(&pair, SERVER, PING);
    new.number += 1;
    new.hand_from_home(&mut pair, SERVER);
    old.hand(&mut pair, SERVER, addr(ELSEWHERE));
    assert_eq!(pair.ends[SERVER].record.remote(), pair.ends[CLIENT].addr);
}

/// RFC 9000 §9.3.2: a path is a pair of addresses.
#[test]
fn a_move_that_fails_is_taken_back_whole() {
    let mut pair = settled();
    let here = Some("192.0.2.1".parse().unwrap());
    let there = Some("192.0.2.2".parse().unwrap());
    pair.ends[SERVER].record.cold.set_local_ip(here);
    let mut packet = pair.forge(SERVER, PING);
    let arrival = Arrival {
        remote: addr(ELSEWHERE),
        local_ip: there,
        bytes: packet.len(),
    };
    let now = pair.now;
    let server = &mut pair.ends[SERVER];
    server
        .engine
        .handle_packet(&mut server.record, now, arrival, &mut packet);
    assert_eq!(server.record.local_ip(), there);
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.ends[SERVER].record.remote(), pair.ends[CLIENT].addr);
    assert_eq!(pair.ends[SERVER].record.local_ip(), here);
}

/// RFC 9000 §8, §10.2.1.
#[test]
fn a_close_to_an_unproven_address_is_bounded() {
    let mut pair = settled();
    let mut received = Made::next(&pair, SERVER, PING)
        .seal(&pair.ends[CLIENT].record.tx.header)
        .len();
    move_to(&mut pair, ELSEWHERE, 0);
    let bytes = |said: &[Seen]| -> usize { said.iter().map(|seen| seen.bytes).sum() };
    let mut sent = bytes(&poll(&mut pair, SERVER));
    let now = pair.now;
    let server = &mut pair.ends[SERVER];
    server
        .engine
        .close(&mut server.record, now, 77, &[b'x'; 5000]);
    sent += bytes(&poll(&mut pair, SERVER));
    assert!(sent <= 3 * received, "{sent} for {received}");
    // What comes from there pays for it.
    let mut made = Made::next(&pair, SERVER, PING);
    made.size = 300;
    made.hand(&mut pair, SERVER, addr(ELSEWHERE));
    received += 300;
    let said = poll(&mut pair, SERVER);
    sent += bytes(&said);
    assert!(said[0].has(|f| matches!(f, Frame::Close { code: 77, .. })));
    assert!(sent <= 3 * received, "{sent} for {received}");
}

/// RFC 9002 §5.2, §5.3; RFC 9000 §9.4.
#[test]
fn a_new_path_begins_with_a_round_trip_time_of_its_own() {
    let mut pair = settled();
    pair.weather.delay = Duration::from_millis(400);
    pair.rebind("10.9.9.9:9");
    pair.ends[CLIENT].write(b"here I am");
    pair.run_for(Duration::from_millis(1300));
    let rtt = pair.ends[SERVER].record.cold.rtt;
    assert!((790_000..900_000).contains(&rtt.smoothed_us), "{rtt:?}");
    assert!((790_000..900_000).contains(&rtt.min_us), "{rtt:?}");
}

// Keys.

/// RFC 9001 §6.4: newer keys belong to larger numbers.
#[test]
fn a_key_update_by_an_older_packet_is_an_error() {
    let mut pair = settled();
    let mut older = Made::next(&pair, SERVER, PING);
    older.key = pair.ends[CLIENT].record.tx.secret.next().packet_key();
    older.phase = !older.phase;
    let mut newer = Made::next(&pair, SERVER, PING);
    newer.number += 1;
    newer.hand_from_home(&mut pair, SERVER);
    older.hand_from_home(&mut pair, SERVER);
    assert_eq!(pair.violation(SERVER), Some(Code::KEY_UPDATE_ERROR.0));
}

/// RFC 9001 §6.1, §6.2.
#[test]
fn a_key_update_is_answered_in_its_own_phase() {
    let mut pair = settled();
    let now = pair.now;
    let client = &mut pair.ends[CLIENT];
    assert!(client.engine.update_keys(&mut client.record));
    let is_acked = client.engine.update_keys(&mut client.record);
    assert!(!is_acked, "nothing of this phase is acknowledged");
    let mut out = Vec::new();
    client
        .engine
        .poll_transmit(&mut client.record, now, &mut out)
        .unwrap();
    let from = client.addr;
    pair.hand(SERVER, from, out);
    let server = &mut pair.ends[SERVER];
    assert!(server.record.key_phase);
    assert!(!server.engine.update_keys(&mut server.record), "nor here");
    // Opened with the server's new key, at once.
    assert!(poll(&mut pair, SERVER)[0].has(|f| matches!(f, Frame::Ack(_))));
}

/// RFC 9001 §6.6.
#[test]
fn a_key_is_replaced_before_it_is_worn_out() {
    let mut pair = settled();
    pair.ends[SERVER].record.next_number += protect::CONFIDENTIALITY_LIMIT / 2;
    pair.ends[SERVER].write(b"one more");
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.ends[SERVER].engine.counts.key_updates, 1);
    assert_eq!(pair.ends[CLIENT].engine.counts.key_updates, 1);
    assert_eq!(pair.ends[CLIENT].received, b"one more");
}

/// RFC 9001 §6.6: not even by words of parting.
#[test]
fn no_more_packets_than_a_key_allows() {
    let mut pair = settled();
    let record = &mut pair.ends[SERVER].record;
    // The peer acknowledges nothing of this phase, so no update may begin.
    record.is_phase_acked = false;
    let first = record.cold.phase_first;
    record.next_number = first + protect::CONFIDENTIALITY_LIMIT - 150;
    for _ in 0..400 {
        let server = &mut pair.ends[SERVER];
        server.engine.ping(&mut server.record);
        poll(&mut pair, SERVER);
        pair.inject(SERVER, PING);
        poll(&mut pair, SERVER);
        let server = &mut pair.ends[SERVER];
        if let Some(active) = server.record.active.as_deref_mut() {
            active.in_flight = 0;
        }
    }
    let server = &pair.ends[SERVER];
    assert_eq!(server.record.state, State::Closing);
    assert_eq!(pair.violation(SERVER), Some(Code::AEAD_LIMIT_REACHED.0));
    let used = server.record.next_number - first;
    assert!(used <= protect::CONFIDENTIALITY_LIMIT, "{used}");
}

// Acknowledgements, losses, congestion.

/// RFC 9000 §13.2.5: also when the largest packet came while nothing was under way.
#[test]
fn an_ack_delay_is_no_longer_than_it_was() {
    let mut pair = settled();
    let late = Made::next(&pair, SERVER, PING);
    let mut first = Made::next(&pair, SERVER, PADDING);
    first.number += 1;
    first.hand_from_home(&mut pair, SERVER);
    assert!(pair.ends[SERVER].record.active.is_none());
    late.hand_from_home(&mut pair, SERVER);
    let said = poll(&mut pair, SERVER);
    assert!(said[0].has(|f| matches!(f, Frame::Ack(ack) if ack.delay == 0)));
}

/// RFC 9000 §13.2.1.
#[test]
fn acknowledgements_keep_to_the_delay_that_was_declared() {
    let is_ack = |f: &Frame<'_>| matches!(f, Frame::Ack(_));
    for (index, declared_ms) in [(CLIENT, 25), (SERVER, 250)] {
        let mut pair = settled();
        pair.inject(index, PING);
        assert!(poll(&mut pair, index).is_empty());
        pair.now += Duration::from_millis(declared_ms);
        let end = &pair.ends[index];
        assert_eq!(end.engine.deadline(&end.record), pair.now);
        assert!(poll(&mut pair, index)[0].has(is_ack));
        // A second packet, and one after a gap, are acknowledged at once.
        pair.inject(index, PING);
        pair.inject(index, PING);
        assert!(poll(&mut pair, index)[0].has(is_ack));
        let mut made = Made::next(&pair, index, PING);
        made.number += 1;
        made.hand_from_home(&mut pair, index);
        assert!(poll(&mut pair, index)[0].has(is_ack));
        // What elicits none gets none, whatever the gap.
        let mut ack = Vec::new();
        put_ack(&mut ack, pair.ends[index].record.next_number - 1, 1, 0);
        let mut made = Made::next(&pair, index, &ack);
        made.number += 1;
        made.hand_from_home(&mut pair, index);
        assert!(poll(&mut pair, index).is_empty());
    }
}

/// RFC 9002 §7.
#[test]
fn no_packet_goes_beyond_the_congestion_window() {
    let mut pair = settled();
    pair.ends[SERVER].write(&vec![1; 16_000]);
    poll(&mut pair, SERVER);
    for room in [300, 700, 1100, 1200, 2399] {
        let active = pair.ends[SERVER].record.active.as_deref_mut().unwrap();
        active.window = active.in_flight + room;
        poll(&mut pair, SERVER);
        let active = pair.ends[SERVER].record.active.as_deref().unwrap();
        let (in_flight, window) = (active.in_flight, active.window);
        assert!(in_flight <= window, "{in_flight} of {window}");
        assert!(
            room < 1200 || in_flight + 1200 > window,
            "{in_flight} of {window}"
        );
    }
}

/// Acknowledges `count` packets of the server down from `largest`.
fn acknowledge(pair: &mut Pair, largest: u64, count: u32) {
    let mut ack = Vec::new();
    put_ack(&mut ack, largest, u64::MAX >> (64 - count), 0);
    pair.inject(SERVER, &ack);
}

/// RFC 9002 §7.3.1, §7.3.2, §7.3.3; and §5.1 of what is acknowledged again.
#[test]
fn losses_halve_the_window_once_a_round_trip() {
    let mut pair = settled();
    pair.ends[SERVER].write(&[1; 11_000]);
    poll(&mut pair, SERVER);
    let active = pair.ends[SERVER].record.active.as_deref().unwrap();
    let (before, first) = (active.window, active.sent[0].number);
    pair.now += Duration::from_millis(20);
    // Two packets are lost, and then others of the same flight.
    acknowledge(&mut pair, first + 5, 4);
    let window = |pair: &Pair| pair.ends[SERVER].record.active.as_deref().unwrap().window;
    let halved = window(&pair);
    // What this acknowledges itself counts before it is halved.
    assert!(halved <= (before + 4 * DATAGRAM_BYTES as u32) / 2);
    let rtt = pair.ends[SERVER].record.cold.rtt;
    pair.now += Duration::from_secs(3);
    acknowledge(&mut pair, first + 5, 4);
    assert_eq!(pair.ends[SERVER].record.cold.rtt, rtt, "nothing new");
    pair.now -= Duration::from_secs(3);
    acknowledge(&mut pair, first + 9, 1);
    assert_eq!(window(&pair), halved);
    assert!(pair.ends[SERVER].engine.counts.packets_lost >= 3);
    // Afterwards it grows by a datagram for each window, and not faster.
    for _ in 0..2 {
        pair.now += Duration::from_millis(20);
        pair.ends[SERVER].write(&[1; 11_000]);
        poll(&mut pair, SERVER);
        let before = window(&pair);
        // All but the newest, which keeps something under way.
        let sent = &pair.ends[SERVER].record.active.as_deref().unwrap().sent;
        let (largest, count) = (sent.back().unwrap().number - 1, sent.len() - 1);
        pair.now += Duration::from_millis(20);
        acknowledge(&mut pair, largest, count as u32);
        let growth = window(&pair) - before;
        assert!(growth <= DATAGRAM_BYTES as u32, "{growth} of {before}");
    }
    assert!(window(&pair) > halved);
}

/// RFC 9002 §7.6.
#[test]
fn a_long_loss_leaves_the_least_window() {
    let mut pair = settled();
    for _ in 0..8 {
        pair.ends[SERVER].write(&[1; 1000]);
        poll(&mut pair, SERVER);
        pair.now += Duration::from_secs(1);
    }
    let number = pair.ends[SERVER].record.next_number - 1;
    acknowledge(&mut pair, number, 1);
    let active = pair.ends[SERVER].record.active.as_deref().unwrap();
    assert_eq!(active.window, 2 * DATAGRAM_BYTES as u32);
}

/// RFC 9002 §6.2.4: whatever became of what the oldest packet held.
#[test]
fn a_probe_elicits_an_acknowledgement() {
    let mut pair = settled();
    let is_offer = |f: &Frame<'_>| matches!(f, Frame::NewConnectionId(_));
    for sequence in [1, 2] {
        // The peer has the new ID, and gives it back; its acknowledgement went astray.
        pair.inject(SERVER, &retire(sequence));
        assert!(poll(&mut pair, SERVER)[0].has(is_offer));
    }
    for probes in 1..4 {
        let server = &mut pair.ends[SERVER];
        let at = server.engine.deadline(&server.record);
        assert!(at - pair.now < Duration::from_secs(5), "no probe is set");
        pair.now = at;
        server.engine.handle_timeout(&mut server.record, at);
        let said = poll(&mut pair, SERVER);
        assert_eq!(pair.ends[SERVER].engine.counts.probes, probes);
        assert!(said.iter().any(|seen| seen.has(|f| f.elicits_ack())));
    }
}

/// RFC 9002 §6.2, §6.2.1, §7.5: it marks nothing as lost, goes whatever the window says, and comes later each time.
#[test]
fn probes_back_off_and_lose_nothing() {
    let mut pair = settled();
    pair.ends[SERVER].write(&[1; 500]);
    poll(&mut pair, SERVER);
    let mut waits = Vec::new();
    for count in 1..6 {
        let end = &mut pair.ends[SERVER];
        end.record.active.as_deref_mut().unwrap().window = 0;
        let at = end.engine.deadline(&end.record);
        waits.push(at - pair.now);
        pair.now = at;
        end.engine.handle_timeout(&mut end.record, at);
        let said = poll(&mut pair, SERVER);
        assert_eq!(said.len(), 1);
        assert!(said[0].has(|f| matches!(f, Frame::Stream(_))));
        let active = pair.ends[SERVER].record.active.as_deref().unwrap();
        assert_eq!(active.sent.len(), 1 + count);
    }
    assert!(
        waits.windows(2).all(|two| two[1] == 2 * two[0]),
        "{waits:?}"
    );
    assert_eq!(pair.ends[SERVER].engine.counts.packets_lost, 0);
}

/// What hangs off a connection is bounded, whatever a peer asks and does not acknowledge.
#[test]
fn challenges_without_end_cost_no_memory() {
    for from in ["10.0.0.1:1000", ELSEWHERE] {
        let mut pair = settled();
        let probe = challenge(1);
        for _ in 0..3000 {
            Made::next(&pair, SERVER, &probe).hand(&mut pair, SERVER, addr(from));
            poll(&mut pair, SERVER);
        }
        let active = pair.ends[SERVER].record.active.as_deref();
        let sent = active.map_or(0, |active| active.sent.len());
        assert!(sent <= 1025, "{sent} from {from}");
    }
}

// The stream.

/// RFC 9000 §3.2: an end that came while the application wanted nothing is seen when it does.
#[test]
fn an_end_that_waited_is_seen() {
    let mut pair = settled();
    let server = &mut pair.ends[SERVER];
    server.engine.pause_reading(&mut server.record, true);
    let fin = kind::STREAM | kind::STREAM_OFF | kind::STREAM_FIN;
    pair.inject(SERVER, &[fin, 0, 10, b'x']);
    let server = &mut pair.ends[SERVER];
    assert!(server.received.is_empty() && server.closed.is_empty());
    server.engine.pause_reading(&mut server.record, false);
    pair.run_for(Duration::from_secs(1));
    let code = close_code::STREAM_FINISHED;
    assert_eq!(pair.ends[SERVER].received, b"x");
    assert_eq!(pair.ends[SERVER].closed, [CloseReason::BrokenRule { code }]);
}

/// RFC 9000 §4.1, §4.2.
#[test]
fn credit_only_grows_and_is_kept_to() {
    let mut pair = settled();
    let credit = pair.ends[SERVER].record.cold.credit();
    pair.inject(SERVER, &with_numbers(kind::MAX_DATA, &[100]));
    pair.inject(SERVER, &with_numbers(kind::MAX_STREAM_DATA, &[0, 100]));
    assert_eq!(pair.ends[SERVER].record.cold.credit(), credit);
    let client = &mut pair.ends[CLIENT];
    client.engine.pause_reading(&mut client.record, true);
    pair.ends[SERVER].write(&vec![1; 40_000]);
    pair.run_for(Duration::from_secs(10));
    let client = &mut pair.ends[CLIENT];
    let held = client.record.active.as_deref().unwrap().reassembly.held();
    assert_eq!(client.record.recv_offset + held as u64, credit);
    client.engine.pause_reading(&mut client.record, false);
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.ends[CLIENT].received.len(), 40_000);
    assert!(pair.ends.iter().all(|end| end.closed.is_empty()));
}
