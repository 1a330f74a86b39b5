//! Fuzz target: datagrams of all kinds, from all over, into a shard that serves a connection at rest.

use std::{cell::OnceCell, net::SocketAddr};

use super::{Siege, input::Input};
use crate::sim::Identity;

/// Steps of one input, and of time at most two seconds each, so that nothing times out by itself.
const STEPS_MAX: usize = 64;

/// Largest payload of a datagram that is made up.
const BYTES_MAX: usize = 1500;

thread_local! {
    static IDENTITY: OnceCell<Identity> = const { OnceCell::new() };
}

/// Does what `data` says, step by step: a kind, and what belongs to it.
///
/// # Panics
///
/// If the connection is harmed, an address gets more than it may, or something is kept.
pub fn datagrams(data: &[u8]) {
    // Making a certificate would take most of the time.
    let identity = IDENTITY.with(|cell| cell.get_or_init(Identity::new).clone());
    let mut siege = Siege::with(identity);
    let client = siege.connect();
    let slots = siege.server().stats().slots;
    let mut input = Input::new(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut siege, &mut input, client);
    }
    siege.assert_sparing();
    siege.exchange(client);
    let stats = siege.server().stats();
    assert_eq!((stats.connections, stats.slots), (1, slots), "{stats:?}");
}

fn stranger(number: u8) -> SocketAddr {
    ([192, 0, 2, 1 + number % 4], 1000 + u16::from(number)).into()
}

fn step(siege: &mut Siege, input: &mut Input<'_>, client: usize) {
    let kind = input.byte();
    let home = siege.client_addr(client);
    let from = if kind & 0x80 == 0 {
        home
    } else {
        stranger(input.byte())
    };
    let datagram = match kind % 8 {
        // Anything.
        0 => input.bytes(BYTES_MAX).to_vec(),
        // Something seen before, cut, or with bytes that are wrong, or with more behind it.
        1 => seen(siege, input),
        2 => {
            let mut datagram = seen(siege, input);
            datagram.truncate(usize::from(input.number()));
            datagram
        }
        3 => {
            let mut datagram = seen(siege, input);
            let at = usize::from(input.number()) % datagram.len().max(1);
            for (byte, wrong) in datagram[at..].iter_mut().zip(input.bytes(64)) {
                *byte ^= wrong;
            }
            datagram
        }
        4 => {
            let (mut datagram, other) = (seen(siege, input), seen(siege, input));
            datagram.extend_from_slice(input.bytes(BYTES_MAX));
            datagram.extend_from_slice(&other);
            datagram
        }
        // What looks like a packet of the connection.
        5 => {
            let mut datagram = short_header(siege, home);
            datagram.extend_from_slice(input.bytes(BYTES_MAX));
            datagram
        }
        // Of a client's first packet: version, lengths and IDs as they please.
        6 => {
            let mut datagram = vec![0xc0 | input.byte()];
            datagram.extend_from_slice(input.bytes(64));
            datagram.resize(1200, 0);
            datagram
        }
        _ => {
            siege.run_for(input.pause() / 16);
            return;
        }
    };
    if kind & 0x40 == 0 {
        siege.inject(from, &datagram);
    } else {
        let server = siege.server_addr();
        let from = if kind & 0x80 == 0 { server } else { from };
        siege.inject_to_client(client, from, &datagram);
    }
}

fn seen(siege: &Siege, input: &mut Input<'_>) -> Vec<u8> {
    let all = siege.seen();
    let index = usize::from(input.byte()) % all.len().max(1);
    all.get(index)
        .map(|seen| seen.bytes.clone())
        .unwrap_or_default()
}

/// First byte and connection ID of the last packet with a short header from there.
fn short_header(siege: &Siege, from: SocketAddr) -> Vec<u8> {
    let packets = siege.seen().iter().rev();
    let mut short = packets.filter(|seen| seen.from == from && seen.bytes[0] & 0x80 == 0);
    short
        .next()
        .map(|seen| seen.bytes[..9].to_vec())
        .unwrap_or_default()
}
