//! The engine that serves a connection once it is established and quiet.
//!
//! It speaks the 1-RTT part of RFC 9000, 9001 and 9002 with one bidirectional stream, on both roles, and nothing else:
//! no handshake, no other streams, no datagram frames, no ECN. A connection is a [`Record`]; one [`Engine`] serves all
//! records of a shard. Like the shard it has no socket, clock or task: packets, commands and `now` go in; datagrams,
//! [`Note`]s and the next deadline come out.
//!
//! | file | idea |
//! |---|---|
//! | `record`, `active` | what a connection is at rest, and what hangs off it while something is under way |
//! | `input` | packets in: protection, duplicates, key phases, frames |
//! | `output` | packets out: acknowledgements, control, the stream, the close |
//! | `stream`, `send_buffer`, `reassembly` | the one stream, both ways, and its credit |
//! | `recovery`, `rtt` | losses, probes, congestion |
//! | `ids`, `path` | connection IDs, and peers that change their address |
//! | `timers` | one deadline for each connection |
//! | `frame`, `protect`, `varint`, `window`, `error` | the wire |

mod active;
pub(crate) mod error;
#[cfg(feature = "sim")]
mod forge;
pub(crate) mod frame;
mod ids;
mod input;
mod output;
mod path;
pub(crate) mod protect;
mod reassembly;
mod record;
mod recovery;
mod rtt;
mod send_buffer;
mod stream;
mod timers;
pub(crate) mod varint;
mod window;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use ring::hmac;

use self::{
    active::{Active, Closing},
    error::Violation,
    record::State,
};
pub(crate) use self::{
    input::{Arrival, RESET_BYTES_MIN, short_id},
    record::{LocalId, Place, Record, ResetToken},
};
use crate::{CloseReason, Limits, cid::SharedCids};

/// Exponent of our own ACK delays: the default, as the handshake engine has it (RFC 9000 §18.2).
const ACK_DELAY_EXPONENT: u32 = 3;

/// How long a client's acknowledgement may wait for company: the default, which it does not declare.
const CLIENT_ACK_DELAY: Duration = Duration::from_millis(25);

/// Boxes kept for the next connections that do something. What a larger burst needed is given back: a few thousand of them,
/// strewn over the pages of that burst, would keep most of its memory.
const POOL_MAX: usize = 256;

/// Received bytes share chunks of this size.
const ARENA_BYTES: usize = 64 * 1024;

/// What an engine has to tell about the connection at hand, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The next bytes of the stream.
    Bytes(Bytes),
    /// There is room again.
    Writable,
    /// The application's view of the connection ends.
    Closed(CloseReason),
    /// A connection ID of ours came into use, or went out of it.
    IdAdded(LocalId),
    IdRemoved(LocalId),
    /// A reset token of the peer came into use, or went out of it.
    TokenAdded(ResetToken),
    TokenRemoved(ResetToken),
    /// The connection can be forgotten.
    Ended,
}

/// What the records of a shard have in common.
pub(crate) struct Engine {
    epoch: Instant,
    receive_window: u64,
    send_window: u64,
    cids: SharedCids,
    reset_key: hmac::Key,
    rng: StdRng,
    #[expect(
        clippy::vec_box,
        reason = "records hold boxes, and boxes are what is reused"
    )]
    pool: Vec<Box<Active>>,
    arena: BytesMut,
    /// Of the connection that was served last; whoever called drains them before the next one.
    pub(crate) notes: VecDeque<Note>,
    pub(crate) counts: Counts,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) packets_lost: u64,
    pub(crate) probes: u64,
    pub(crate) key_updates: u64,
    pub(crate) path_changes: u64,
    pub(crate) undecryptable: u64,
    pub(crate) duplicates: u64,
}

impl Engine {
    pub(crate) fn new(
        limits: &Limits,
        cids: SharedCids,
        reset_key: &[u8],
        seed: [u8; 32],
        epoch: Instant,
    ) -> Self {
        Self {
            epoch,
            receive_window: limits.receive_window_bytes.into(),
            send_window: limits.send_window_bytes.into(),
            cids,
            reset_key: hmac::Key::new(hmac::HMAC_SHA256, reset_key),
            rng: StdRng::from_seed(seed),
            pool: Vec::new(),
            arena: BytesMut::new(),
            notes: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Microseconds since the engine was made.
    fn us(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// The clock of idle timers: coarse, so that four bytes last for eight years.
    pub(crate) fn ticks(&self, now: Instant) -> u32 {
        timers::ticks(self.us(now))
    }

    /// A connection was handed over; whoever waits for room may have it now.
    pub(crate) fn begin(&mut self, record: &mut Record) {
        self.note_room(record);
    }

    /// The peer says that it has lost its state (RFC 9000 §10.3.1).
    pub(crate) fn handle_reset_packet(&mut self, record: &mut Record, now: Instant) {
        if record.state != State::Draining {
            self.drain(record, self.us(now), CloseReason::Reset);
        }
    }

    /// What is under way on a connection; made if there was nothing.
    fn active<'a>(&mut self, record: &'a mut Record) -> &'a mut Active {
        let Record {
            active,
            cold,
            send_offset,
            next_number,
            ..
        } = record;
        active.get_or_insert_with(|| {
            let mut active = self.pool.pop().unwrap_or_default();
            active.send.restart(*send_offset);
            active.window = cold.window;
            active.threshold = u32::MAX;
            // Now and then a packet number is left out, so that acknowledging blindly is found out
            // (RFC 9000 §21.4).
            if self.rng.next_u32().is_multiple_of(16) {
                active.skipped = Some(*next_number);
                *next_number += 1;
            }
            active
        })
    }

    /// Takes back what a connection has no use for any more.
    fn rest(&mut self, record: &mut Record) {
        if !record.active.as_ref().is_some_and(|a| a.is_at_rest()) {
            return;
        }
        let Some(mut active) = record.active.take() else {
            return;
        };
        record.send_offset = active.send.end();
        // A window that was reduced stays so; a grown one is not kept over a pause (RFC 9002 §7.8, RFC 5681 §4.1).
        record.cold.window = active.window.min(recovery::INITIAL_WINDOW);
        if self.pool.len() < POOL_MAX {
            active.renew();
            self.pool.push(active);
        }
    }

    /// Closes a connection for the application.
    pub(crate) fn close(&mut self, record: &mut Record, now: Instant, code: u32, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        self.begin_closing(record, self.us(now), true, code.into(), 0, reason);
    }

    /// Tells the peer of an end, and waits a while for what is still on its way (RFC 9000 §10.2.1).
    fn begin_closing(
        &mut self,
        record: &mut Record,
        now: u64,
        is_application: bool,
        code: u64,
        frame: u64,
        reason: Bytes,
    ) {
        if record.state != State::Open {
            return;
        }
        record.state = State::Closing;
        let ends_at = now + 3 * record.cold.probe_timeout_us();
        let active = self.active(record);
        // Nothing else matters any more, but how much may go to an address that is not proven (RFC 9000 §10.2.1).
        let path = active.path.take();
        active.renew();
        active.path = path;
        active.closing = Some(Box::new(Closing {
            is_application,
            code,
            frame,
            reason,
            is_pending: true,
            heard: 0,
            ends_at,
        }));
    }

    /// The peer broke a rule of QUIC.
    fn violated(&mut self, record: &mut Record, now: u64, violation: Violation) {
        // Packets that cannot be opened may reach their limit when the end was told already.
        if record.state != State::Open {
            return;
        }
        let Violation {
            code,
            frame,
            reason,
        } = violation;
        let words = Bytes::from_static(reason.as_bytes());
        self.begin_closing(record, now, false, code.0, frame, words);
        self.notes.push_back(Note::Closed(CloseReason::Transport {
            code: code.0,
            reason: reason.to_owned(),
            by_peer: false,
        }));
    }

    /// The peer broke a rule of this crate.
    fn broken(&mut self, record: &mut Record, now: u64, code: u32) {
        self.begin_closing(record, now, true, code.into(), 0, Bytes::new());
        self.notes
            .push_back(Note::Closed(CloseReason::BrokenRule { code }));
    }

    /// The peer ended it: silence until nothing can come any more (RFC 9000 §10.2.2). Told only if we had not ended it
    /// before.
    fn drain(&mut self, record: &mut Record, now: u64, reason: CloseReason) {
        let was_open = record.state == State::Open;
        record.state = State::Draining;
        let ends_at = now + 3 * record.cold.probe_timeout_us();
        let active = self.active(record);
        active.renew();
        active.closing = Some(Box::new(Closing {
            is_application: false,
            code: 0,
            frame: 0,
            reason: Bytes::new(),
            is_pending: false,
            heard: 0,
            ends_at,
        }));
        if was_open {
            self.notes.push_back(Note::Closed(reason));
        }
    }

    /// A copy of received bytes, in memory that many of them share.
    fn share(&mut self, data: &[u8]) -> Bytes {
        if self.arena.capacity() < data.len() {
            self.arena.reserve(ARENA_BYTES.max(data.len()));
        }
        self.arena.extend_from_slice(data);
        self.arena.split().freeze()
    }
}
