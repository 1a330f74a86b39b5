//! Packets out.

use std::{net::SocketAddr, time::Instant};

use super::{
    Engine,
    active::Active,
    frame::{self, ACK_BYTES_MAX, kind, put_close, put_new_connection_id, put_stream_head},
    protect::{CONFIDENTIALITY_LIMIT, PacketStart, TAG_BYTES},
    record::{Cold, Record, State},
    recovery::{DATAGRAM_BYTES, NO_SEQUENCE, Sent},
    stream::{STREAM, has_ended},
    timers::{self, FULL_ALLOWANCE, MIN_ALLOWANCE},
    varint::put_varint,
};
use crate::close_code;

/// Packets sent with one key before it is replaced: half of what RFC 9001 §6.6 allows.
const UPDATE_AFTER: u64 = CONFIDENTIALITY_LIMIT / 2;

/// Packets with a key that no update can replace any more. Those left tell the peer of the end, which is said again at
/// each power of two of what it sends on: without them only a stateless reset were left (RFC 9001 §6.6).
const LAST_WITH_KEY: u64 = CONFIDENTIALITY_LIMIT - 64;

/// Bytes that a packet has to have left for stream data to be put into it.
const STREAM_ROOM_MIN: usize = 32;

/// How often a peer is reminded that it holds us up, at the most.
const BLOCKED_REPEAT_US: u64 = 2_000_000;

/// Most bytes of what reminds it: a type, the stream's number, a limit.
const BLOCKED_BYTES_MAX: usize = 1 + 1 + 8;

/// Most bytes of credit, one ID retired, one announced, and a ping.
const CONTROL_BYTES_MAX: usize = (1 + 8) + (1 + 1 + 8) + (1 + 8) + (1 + 8 + 1 + 1 + 8 + 16) + 1;

/// A datagram that was appended to the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) destination: SocketAddr,
    pub(crate) bytes: usize,
}

/// What a packet under construction holds.
struct Draft {
    sent: Sent,
    elicits_ack: bool,
    /// The datagram has to have full size (RFC 9000 §8.2.1, §8.2.2).
    is_padded: bool,
}

impl Engine {
    /// The next datagram of a connection, appended to `out`.
    pub(crate) fn poll_transmit(
        &mut self,
        record: &mut Record,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Datagram> {
        let now = self.us(now);
        record.active.as_ref()?;
        match record.state {
            State::Draining => None,
            State::Closing => self.write_close(record, out),
            State::Open => {
                self.replace_worn_key(record, now);
                if has_ended(record) {
                    self.broken(record, now, close_code::STREAM_FINISHED);
                    return None;
                }
                let datagram = self
                    .write_path_response(record, now, out)
                    .or_else(|| self.write_packet(record, now, out));
                if datagram.is_none() {
                    self.rest(record);
                }
                datagram
            }
        }
    }

    /// Updates keys long before they may not be used any more (RFC 9001 §6.6).
    fn replace_worn_key(&mut self, record: &mut Record, now: u64) {
        let used = record.next_number - record.cold.phase_first.min(record.next_number);
        if used < UPDATE_AFTER {
            return;
        }
        let is_over = record.active.as_ref().is_none_or(|a| a.old_key.is_none());
        if record.is_phase_acked && is_over {
            self.begin_key_update(record);
        } else if used >= LAST_WITH_KEY {
            let code = super::error::Code::AEAD_LIMIT_REACHED;
            let reason = "the peer lets no key be replaced";
            self.violated(record, now, super::error::Violation::new(code, reason));
        }
    }

    /// Answers a challenge where it came from, alone in a full datagram, since that path may be another one
    /// (RFC 9000 §8.2.2).
    fn write_path_response(
        &mut self,
        record: &mut Record,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Option<Datagram> {
        let to_peer = record.remote();
        let active = record.active.as_mut()?;
        // Only congestion may delay it, also on behalf of a peer that acknowledges none of them (RFC 9000 §8.2.2, §21.7).
        let has_window = active.has_window();
        let response = &mut active.path_response;
        let (to, data, room) = response.take_if(|(to, ..)| has_window || *to != to_peer)?;
        let start = start_packet(record, out);
        out.push(kind::PATH_RESPONSE);
        out.extend_from_slice(&data);
        let draft = Draft {
            sent: empty_sent(record.next_number, now),
            // Elsewhere it tells nothing of the path in use (RFC 9000 §9.4), and is not sent again in any case.
            elicits_ack: to == to_peer,
            is_padded: room >= DATAGRAM_BYTES,
        };
        Some(finish_packet(record, start, out, to, draft))
    }

    fn write_packet(
        &mut self,
        record: &mut Record,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Option<Datagram> {
        let to = record.remote();
        let wants_writable = record.wants_writable;
        let active = record.active.as_deref()?;
        let allowance = active.path.as_deref().map_or(u64::MAX, |p| p.allowance());
        let size = usize::try_from(allowance).map_or(DATAGRAM_BYTES, |a| a.min(DATAGRAM_BYTES));
        let is_wanted = if allowance < FULL_ALLOWANCE {
            active.pending.challenge && allowance >= MIN_ALLOWANCE
        } else {
            wants_packet(active, &record.cold, wants_writable, now)
        };
        if !is_wanted {
            return None;
        }
        let start = start_packet(record, out);
        let room_end = start.at + size - TAG_BYTES;
        let Record {
            active,
            cold,
            received,
            next_number,
            local_id,
            wants_writable,
            ..
        } = record;
        let active = active.as_deref_mut()?;
        let mut draft = Draft {
            sent: empty_sent(*next_number, now),
            elicits_ack: false,
            is_padded: false,
        };
        // First, since an unproven address may allow for nothing more.
        put_challenge(active, cold, out, &mut draft, now);
        // An acknowledgement goes along whenever something goes (RFC 9000 §13.2.1), and with every probe: the last one may
        // be lost, and a peer whose window it would open may have no other way to ask for it.
        let is_held = allowance < FULL_ALLOWANCE;
        if (active.ack_at.is_some() || active.probes > 0) && !is_held {
            active.put_ack(out, *received, now);
        }
        if active.has_window() && !is_held {
            self.put_control(active, cold, *local_id, out, &mut draft);
            put_stream(active, cold, out, room_end, &mut draft, now);
            let has_room = out.len() + BLOCKED_BYTES_MAX <= room_end;
            if has_room && is_newly_blocked(active, cold, *wants_writable) {
                put_blocked(active, cold, out, &mut draft, now);
            }
        }
        if draft.is_padded && size < DATAGRAM_BYTES {
            draft.is_padded = false;
            if let Some(check) = active.path.as_deref_mut() {
                check.was_small = true;
            }
        }
        if start.payload_len(out) == 0 {
            out.truncate(start.at);
            return None;
        }
        Some(finish_packet(record, start, out, to, draft))
    }

    fn put_control(
        &self,
        active: &mut Active,
        cold: &Cold,
        local_id: super::LocalId,
        out: &mut Vec<u8>,
        draft: &mut Draft,
    ) {
        let pending = &mut active.pending;
        if std::mem::take(&mut pending.credit) {
            out.push(kind::MAX_DATA);
            put_varint(out, cold.own_max_data);
            out.push(kind::MAX_STREAM_DATA);
            put_varint(out, STREAM);
            put_varint(out, cold.own_max_data);
            (draft.elicits_ack, draft.sent.has_credit) = (true, true);
        }
        if let Some(sequence) = pending.retire.pop() {
            out.push(kind::RETIRE_CONNECTION_ID);
            put_varint(out, sequence.into());
            (draft.elicits_ack, draft.sent.retired) = (true, sequence);
        }
        while let Some(sequence) = pending.announce.pop() {
            let spare = cold.spare_local.filter(|spare| spare.sequence == sequence);
            let id = match spare {
                Some(spare) => Some(spare.id),
                None => (cold.local_sequence == sequence).then_some(local_id),
            };
            // One that was retired meanwhile needs no announcement.
            if let Some(id) = id {
                let token = self.reset_token(&id);
                put_new_connection_id(out, sequence.into(), 0, &id, &token);
                (draft.elicits_ack, draft.sent.announced) = (true, sequence);
                pending.unsaid = pending.unsaid.filter(|&unsaid| unsaid != sequence);
                break;
            }
        }
        if std::mem::take(&mut pending.ping) {
            out.push(kind::PING);
            draft.elicits_ack = true;
        }
    }

    /// A received packet of a connection that we have closed: say so again, less and less often (RFC 9000 §10.2.1).
    pub(super) fn answer_in_closing(&mut self, record: &mut Record) {
        if let Some(closing) = record.active.as_mut().and_then(|a| a.closing.as_mut()) {
            closing.heard += 1;
            closing.is_pending |= closing.heard.is_power_of_two();
        }
    }

    fn write_close(&mut self, record: &mut Record, out: &mut Vec<u8>) -> Option<Datagram> {
        let active = record.active.as_mut()?;
        let allowance = active.path.as_deref().map_or(u64::MAX, |p| p.allowance());
        let closing = active.closing.as_mut()?;
        // RFC 9000 §10.2.1: no more than three times of what came from an address that is not proven.
        if allowance < MIN_ALLOWANCE || !std::mem::take(&mut closing.is_pending) {
            return None;
        }
        let size = usize::try_from(allowance).map_or(DATAGRAM_BYTES, |a| a.min(DATAGRAM_BYTES));
        let (is_application, code, frame) = (closing.is_application, closing.code, closing.frame);
        let reason = closing.reason.clone();
        let to = record.remote();
        let start = start_packet(record, out);
        let room = size - TAG_BYTES - (out.len() - start.at);
        put_close(out, is_application, code, frame, &reason, room);
        let draft = Draft {
            sent: empty_sent(record.next_number, 0),
            elicits_ack: false,
            is_padded: false,
        };
        Some(finish_packet(record, start, out, to, draft))
    }
}

/// Whether there is a reason to send a packet now.
fn wants_packet(active: &Active, cold: &Cold, wants_writable: bool, now: u64) -> bool {
    if active.ack_at.is_some_and(|at| at <= now) {
        return true;
    }
    let pending = &active.pending;
    if pending.challenge {
        return true;
    }
    let has_control = pending.credit
        || pending.ping
        || !pending.retire.is_empty()
        || !pending.announce.is_empty();
    let has_bytes = active.send.has_new(cold.credit()) || may_resend(active, now);
    let is_blocked = is_newly_blocked(active, cold, wants_writable);
    (has_control || has_bytes || is_blocked) && active.has_window()
}

/// Whether credit is all that is missing, and the peer was not told yet. It keeps the connection from falling silent
/// when the credit went astray (RFC 9000 §4.1).
fn is_newly_blocked(active: &Active, cold: &Cold, wants_writable: bool) -> bool {
    active.blocked_at != Some(cold.credit()) && is_blocked(active, cold, wants_writable)
}

/// Whether credit is all that is missing.
pub(super) fn is_blocked(active: &Active, cold: &Cold, wants_writable: bool) -> bool {
    let credit = cold.credit();
    active.send.has_used(credit) && (wants_writable || active.send.end() > credit)
}

fn put_blocked(active: &mut Active, cold: &Cold, out: &mut Vec<u8>, draft: &mut Draft, now: u64) {
    if cold.peer_max_stream_data <= cold.peer_max_data {
        out.push(kind::STREAM_DATA_BLOCKED);
        put_varint(out, STREAM);
        put_varint(out, cold.peer_max_stream_data);
    } else {
        out.push(kind::DATA_BLOCKED);
        put_varint(out, cold.peer_max_data);
    }
    active.blocked_at = Some(cold.credit());
    active.blocked_again_at = now + BLOCKED_REPEAT_US.max(3 * cold.probe_timeout_us());
    (draft.elicits_ack, draft.sent.has_blocked) = (true, true);
}

/// Lost bytes go in a small burst, and then spread over the round trip (RFC 9002 §7.7).
fn may_resend(active: &Active, now: u64) -> bool {
    active.send.has_lost()
        && (active.resend_burst > 0 || active.resend_at.is_none_or(|at| at <= now))
}

fn put_challenge(active: &mut Active, cold: &Cold, out: &mut Vec<u8>, draft: &mut Draft, now: u64) {
    if !std::mem::take(&mut active.pending.challenge) {
        return;
    }
    if let Some(check) = active.path.as_deref_mut() {
        check.repeat_at = now + cold.probe_timeout_us();
        out.push(kind::PATH_CHALLENGE);
        out.extend_from_slice(&check.challenge);
        (draft.elicits_ack, draft.is_padded) = (true, true);
    }
}

fn put_stream(
    active: &mut Active,
    cold: &Cold,
    out: &mut Vec<u8>,
    room_end: usize,
    draft: &mut Draft,
    now: u64,
) {
    // The bytes already sent have the smaller offsets.
    let offset_bound = active.send.end();
    let head = frame::stream_head_len(STREAM, offset_bound.max(1));
    let Some(room) = room_end
        .checked_sub(out.len() + head)
        .filter(|&room| room >= STREAM_ROOM_MIN)
    else {
        return;
    };
    let range = if may_resend(active, now) {
        let range = active.send.take_lost(room);
        if active.resend_burst > 0 {
            active.resend_burst -= 1;
        }
        // One datagram for each share of the window in a round trip.
        let share = u64::from(cold.rtt.smoothed_us) * DATAGRAM_BYTES as u64;
        active.resend_at = Some(now + share / u64::from(active.window.max(1)));
        range
    } else {
        active.send.take_new(room, cold.credit())
    };
    let Some((offset, length)) = range else {
        return;
    };
    put_stream_head(out, STREAM, offset, length);
    active.send.copy(offset, length, out);
    draft.elicits_ack = true;
    draft.sent.offset = offset;
    // Below the size of a datagram.
    draft.sent.length = length as u16;
}

fn empty_sent(number: u64, at: u64) -> Sent {
    Sent {
        number,
        at,
        offset: 0,
        length: 0,
        bytes: 0,
        announced: NO_SEQUENCE,
        retired: NO_SEQUENCE,
        has_credit: false,
        has_blocked: false,
        is_acked: false,
    }
}

fn start_packet(record: &Record, out: &mut Vec<u8>) -> PacketStart {
    PacketStart::write(
        out,
        record.cold.remote_id.id(),
        record.next_number,
        record.cold.largest_acked,
        record.key_phase,
    )
}

/// Seals the packet and notes that it is on its way.
fn finish_packet(
    record: &mut Record,
    start: PacketStart,
    out: &mut Vec<u8>,
    to: SocketAddr,
    draft: Draft,
) -> Datagram {
    let at = start.at;
    let datagram_len = if draft.is_padded { DATAGRAM_BYTES } else { 0 };
    start.finish(out, &record.tx.key, &record.tx.header, datagram_len);
    record.next_number += 1;
    let bytes = out.len() - at;
    if draft.elicits_ack {
        note_sent(record, draft.sent, bytes);
    }
    if let Some(check) = record.active.as_mut().and_then(|a| a.path.as_mut())
        && record.remote == to.into()
    {
        check.sent_bytes += bytes as u64;
    }
    Datagram {
        destination: to,
        bytes,
    }
}

fn note_sent(record: &mut Record, mut sent: Sent, bytes: usize) {
    // The idle timer starts anew with the first of several packets that wait for an answer (RFC 9000 §10.1).
    if !record.has_sent_since {
        record.has_sent_since = true;
        record.restarted = timers::ticks(sent.at);
    }
    let Some(active) = record.active.as_deref_mut() else {
        return;
    };
    // A datagram is far below 64 KiB.
    sent.bytes = bytes as u16;
    active.in_flight += bytes as u32;
    active.probes = active.probes.saturating_sub(1);
    active.sent.push_back(sent);
}

/// The acknowledgement and control frames leave room for at least some of the stream.
const _: () = assert!(ACK_BYTES_MAX + CONTROL_BYTES_MAX + 50 < FULL_ALLOWANCE as usize);
