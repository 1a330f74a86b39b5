//! Peers that break rules, and peers that keep to them in a way that hurts.
//!
//! In each scene one end is the victim. What its peer does is forged with the peer's keys, so the victim has to take
//! it seriously. Beside it another connection is served by the same engine, and has to notice nothing.

mod acks;
mod codes;
mod floods;
mod ids;
mod keys;
mod packets;
mod paths;
mod streams;

use std::time::Duration;

use super::pair::{CLIENT, Pair, SERVER, Weather};
use crate::{
    CloseReason,
    resident::{active::Active, error::Code, protect::PacketStart, varint::put_varint},
};

/// What a connection may send at once and keep for the peer to read, as `Limits` has it by default.
const WINDOW: u64 = 16 << 10;

/// Of the victim's stream when it is handed over: so far both sides are.
const HANDED_OVER_AT: u64 = 5;

struct Scene {
    pair: Pair,
    victim: usize,
    /// Shares its victim's engine with `pair`, whenever it is looked at.
    beside: Pair,
}

/// A frame of a type byte and integers.
fn frame(kind: u8, fields: &[u64]) -> Vec<u8> {
    let mut out = vec![kind];
    for &field in fields {
        put_varint(&mut out, field);
    }
    out
}

/// A STREAM frame with offset and length.
fn stream(id: u64, offset: u64, data: &[u8], is_last: bool) -> Vec<u8> {
    let mut out = frame(0x0e | u8::from(is_last), &[id, offset, data.len() as u64]);
    out.extend_from_slice(data);
    out
}

/// A NEW_CONNECTION_ID. Its ID and token are made of the sequence number.
fn new_id(sequence: u64, retire_prior_to: u64) -> Vec<u8> {
    let mut out = frame(0x18, &[sequence, retire_prior_to]);
    out.push(8);
    out.extend_from_slice(&id_bytes(sequence));
    out.extend_from_slice(&token_bytes(sequence));
    out
}

fn id_bytes(sequence: u64) -> [u8; 8] {
    (0xabab_0000_0000_0000 | sequence).to_be_bytes()
}

fn token_bytes(sequence: u64) -> [u8; 16] {
    (0xcdcd << 112 | u128::from(sequence)).to_be_bytes()
}

/// Which number, flags and length of number a packet has, where the peer's own do not do.
struct Header {
    number: u64,
    flags: u8,
    /// The number takes four bytes, so that a packet may be empty and still be sampled.
    is_long: bool,
}

impl Scene {
    fn new(victim: usize) -> Self {
        Self {
            pair: Pair::new(1, Weather::FAIR),
            victim,
            beside: Pair::new(2, Weather::FAIR),
        }
    }

    fn inject(&mut self, frames: &[u8]) {
        self.pair.inject(self.victim, frames);
    }

    /// A packet whose header is not the one that the peer would write next.
    fn forge_with(&mut self, header: &Header, frames: &[u8]) -> Vec<u8> {
        let id = self.pair.ends[self.victim].record.local_id;
        let sender = &self.pair.ends[1 - self.victim].record;
        let mut out = Vec::new();
        let acked = if header.is_long {
            None
        } else {
            sender.cold.largest_acked
        };
        let start = PacketStart::write(&mut out, &id, header.number, acked, sender.key_phase);
        out[start.at] |= header.flags;
        out.extend_from_slice(frames);
        start.finish(&mut out, &sender.tx.key, &sender.tx.header, 0);
        out
    }

    /// Hands the victim a datagram, as from its peer.
    fn hand(&mut self, datagram: Vec<u8>) {
        let from = self.pair.ends[1 - self.victim].addr;
        self.pair.hand(self.victim, from, datagram);
    }

    /// Datagrams that the victim sent so far.
    fn answers(&self) -> u64 {
        self.pair.sent[self.victim].0
    }

    fn active(&self) -> Option<&Active> {
        self.pair.ends[self.victim].record.active.as_deref()
    }

    /// What the victim said to its peer, in order, none of which the peer gets: it "never" acknowledges.
    fn pump_to_nobody(&mut self) {
        self.pair.weather.loss = 1.0;
        self.pair.pump();
    }

    /// The connection lives, and whatever was done to it, bytes go both ways.
    fn goes_on(&mut self) {
        exchange(&mut self.pair);
        self.beside_goes_on();
    }

    /// The other connection on the same engine lives.
    fn beside_goes_on(&mut self) {
        let (pair, beside) = (&mut self.pair, &mut self.beside);
        let victim = self.victim;
        std::mem::swap(
            &mut pair.ends[victim].engine,
            &mut beside.ends[victim].engine,
        );
        beside.now = beside.now.max(pair.now);
        for end in &mut beside.ends {
            end.record.restarted = end.engine.ticks(beside.now);
        }
        exchange(beside);
        std::mem::swap(
            &mut pair.ends[victim].engine,
            &mut beside.ends[victim].engine,
        );
    }

    /// The victim closed with this code, its peer was told so, and nobody else was harmed.
    fn ended_with(&mut self, code: Code, what: &str) {
        assert_eq!(self.pair.violation(self.victim), Some(code.0), "{what}");
        self.pair.weather.loss = 0.0;
        self.pair.run_for(Duration::from_secs(1));
        let told = &self.pair.ends[1 - self.victim].closed;
        assert!(
            matches!(told[..], [CloseReason::Transport { code: told, by_peer: true, .. }] if told == code.0),
            "{what}: told {told:?}"
        );
        assert_eq!(self.pair.ends[self.victim].closed.len(), 1, "{what}");
        self.pair.run_for(Duration::from_secs(10));
        assert!(self.pair.ends[self.victim].ended, "{what}");
        self.beside_goes_on();
    }
}

/// Some bytes in both directions, more than a window of them.
fn exchange(pair: &mut Pair) {
    let before = [CLIENT, SERVER].map(|index| pair.ends[index].received.len());
    let bytes = vec![7; 20_000];
    pair.ends[CLIENT].write(&bytes);
    pair.ends[SERVER].write(&bytes);
    pair.run_until(|pair| {
        [CLIENT, SERVER]
            .iter()
            .all(|&index| pair.ends[index].received.len() == before[index] + bytes.len())
    });
    assert!(pair.ends.iter().all(|end| end.closed.is_empty()));
}

/// One packet of these frames is answered with this code.
fn check(victim: usize, frames: &[u8], code: Code, what: &str) {
    let mut scene = Scene::new(victim);
    scene.inject(frames);
    scene.ended_with(code, what);
}

/// One packet of these frames does no harm.
fn check_harmless(victim: usize, frames: &[u8], what: &str) {
    let mut scene = Scene::new(victim);
    scene.inject(frames);
    assert!(scene.pair.ends[victim].closed.is_empty(), "{what}");
    scene.beside_goes_on();
}
