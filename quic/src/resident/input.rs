//! Packets in.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::Bytes;

use super::{
    CLIENT_ACK_DELAY, Engine,
    active::OldKey,
    error::{Code, Violation},
    frame::{Frame, RESET_TOKEN_BYTES, kind},
    protect::{self, FIXED_BIT, KEY_PHASE_BIT, PacketKey, RESERVED_BITS, Unmasked},
    record::{LocalId, Record, State},
    stream::{Taken, check_id},
    timers,
    varint::Reader,
};
use crate::{CloseReason, cid::CID_BYTES, close_code, handover::OWN_MAX_ACK_DELAY};

/// A stateless reset is at least this long (RFC 9000 §10.3).
pub(crate) const RESET_BYTES_MIN: usize = 21;

/// Packets that may fail to open. RFC 9001 §6.6 allows 2^52 for AES-GCM; four bytes count as far as this.
const INTEGRITY_LIMIT: u32 = u32::MAX;

/// A packet's way here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) remote: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    /// Of the whole datagram.
    pub(crate) bytes: usize,
}

/// Which key opened a packet.
enum Phase {
    Current,
    /// Of the phase before.
    Old,
    /// Of the phase after: the peer updates its keys.
    Next(PacketKey),
}

/// What the frames of a packet were.
#[derive(Debug, Default)]
struct Contents {
    elicits_ack: bool,
    /// Something beside probes of a path.
    is_ordinary: bool,
}

/// What ends the processing of a packet's frames.
enum Stop {
    Violation(Violation),
    /// The peer broke a rule of this crate.
    Broken(u32),
    /// The packet counts as lost.
    Dropped,
    /// The peer closed the connection.
    Closed(CloseReason),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl Engine {
    /// Takes one packet with a short header that carries one of the record's IDs. It is scrambled afterwards.
    pub(crate) fn handle_packet(
        &mut self,
        record: &mut Record,
        now: Instant,
        arrival: Arrival,
        packet: &mut [u8],
    ) {
        let now = self.us(now);
        // A client takes packets from its server only (RFC 9000 §9).
        let is_elsewhere = arrival.remote != record.remote();
        if record.state == State::Draining || (record.is_client && is_elsewhere) {
            return;
        }
        self.count_path_bytes(record, arrival);
        if let Err(stop) = self.handle_sealed(record, now, arrival, packet) {
            match stop {
                Stop::Violation(violation) => self.violated(record, now, violation),
                Stop::Broken(code) => self.broken(record, now, code),
                Stop::Dropped => {}
                Stop::Closed(reason) => self.drain(record, now, reason),
            }
        }
        self.note_room(record);
        self.rest(record);
    }

    fn handle_sealed(
        &mut self,
        record: &mut Record,
        now: u64,
        arrival: Arrival,
        packet: &mut [u8],
    ) -> Result<(), Stop> {
        let Some(&used) = packet[1..].first_chunk::<CID_BYTES>() else {
            return Ok(());
        };
        // The token, if it is a reset, lies where header protection does not reach. Looked at only if the packet cannot be
        // opened (RFC 9000 §10.3.1).
        let trailer = packet.last_chunk::<RESET_TOKEN_BYTES>().copied();
        let trailer = trailer.filter(|_| packet.len() >= RESET_BYTES_MIN);
        let is_reset = |record: &Record| trailer.is_some_and(|token| record.is_reset_token(&token));
        let Some(header) = protect::unmask(&record.rx.header, packet, 1 + CID_BYTES) else {
            let reset = Err(Stop::Closed(CloseReason::Reset));
            return if is_reset(record) { reset } else { Ok(()) };
        };
        let number =
            protect::full_number(record.received.largest, header.truncated, header.number_len);
        let (head, body) = packet.split_at_mut(1 + CID_BYTES + header.number_len);
        let Some((phase, plaintext)) = open(record, number, header, head, body) else {
            self.counts.undecryptable += 1;
            if is_reset(record) {
                return Err(Stop::Closed(CloseReason::Reset));
            }
            record.cold.forged = record.cold.forged.saturating_add(1);
            if record.cold.forged == INTEGRITY_LIMIT {
                let reason = "too many packets that cannot be opened";
                return Err(Violation::new(Code::AEAD_LIMIT_REACHED, reason).into());
            }
            return Ok(());
        };
        if record.state == State::Closing {
            self.answer_in_closing(record);
            return Ok(());
        }
        // RFC 9000 §17.3.1: reserved bits are looked at only after the packet was opened.
        if header.first & RESERVED_BITS != 0 {
            return Err(Violation::new(Code::PROTOCOL_VIOLATION, "reserved bits are set").into());
        }
        self.enter_phase(record, now, number, phase)?;
        if record.received.contains(number) {
            self.counts.duplicates += 1;
            return Ok(());
        }
        let is_largest = number > record.received.largest;
        let last_id = record.local_id;
        let is_other_id = self.note_local_id(record, used);
        let contents = self.handle_frames(record, now, arrival, plaintext)?;
        self.note_received(record, now, number, &contents);
        if contents.is_ordinary && is_largest && !record.is_client {
            self.follow(record, now, arrival, is_other_id);
        }
        if is_other_id && arrival.remote != record.remote() {
            // A probe of another path says nothing of the ID that is used on this one.
            self.note_local_id(record, last_id);
        }
        Ok(())
    }

    /// Commits to the key phase of a packet that was opened.
    ///
    /// # Errors
    ///
    /// KEY_UPDATE_ERROR for phases out of order, and for an update before the last one was answered (RFC 9001 §6.2, §6.4).
    fn enter_phase(
        &mut self,
        record: &mut Record,
        now: u64,
        number: u64,
        phase: Phase,
    ) -> Result<(), Violation> {
        let fault = |reason| Err(Violation::new(Code::KEY_UPDATE_ERROR, reason));
        let expires_at = now + 3 * record.cold.probe_timeout_us();
        match phase {
            Phase::Current => {
                if let Some(old) = record.active.as_mut().and_then(|a| a.old_key.as_mut()) {
                    // The answer to our own update, or a packet of the new phase that was overtaken.
                    old.new_from = Some(old.new_from.map_or(number, |n| n.min(number)));
                    old.expires_at = old.expires_at.or(Some(expires_at));
                }
                Ok(())
            }
            // It is only tried for packets older than the first of the new phase (RFC 9001 §6.4).
            Phase::Old => Ok(()),
            Phase::Next(key) => {
                // Nothing was sent with the keys that the peer leaves behind: it cannot know that we have them.
                if record.next_number <= record.cold.phase_first && record.cold.phase_first > 0 {
                    return fault("a key update before the last one was answered");
                }
                // So older keys were used for a larger number (RFC 9001 §6.4).
                if number < record.received.largest {
                    return fault("a new key for an old packet");
                }
                let _ = record.tx.update();
                let secret = record.rx.secret.next();
                record.rx.secret = secret;
                let old = std::mem::replace(&mut record.rx.key, key);
                self.begin_phase(record, old, Some(number), Some(expires_at));
                Ok(())
            }
        }
    }

    /// Starts an update of our own.
    pub(super) fn begin_key_update(&mut self, record: &mut Record) {
        let _ = record.tx.update();
        let old = record.rx.update();
        self.begin_phase(record, old, None, None);
        self.active(record).pending.ping = true;
    }

    fn begin_phase(
        &mut self,
        record: &mut Record,
        old: PacketKey,
        new_from: Option<u64>,
        expires_at: Option<u64>,
    ) {
        self.counts.key_updates += 1;
        record.key_phase = !record.key_phase;
        record.is_phase_acked = false;
        let active = self.active(record);
        active.old_key = Some(OldKey {
            key: old,
            new_from,
            expires_at,
        });
        record.cold.phase_first = record.next_number;
    }

    fn handle_frames(
        &mut self,
        record: &mut Record,
        now: u64,
        arrival: Arrival,
        plaintext: &[u8],
    ) -> Result<Contents, Stop> {
        let mut reader = Reader::new(plaintext);
        let mut contents = Contents::default();
        if reader.is_empty() {
            // RFC 9000 §12.4.
            return Err(Violation::new(Code::PROTOCOL_VIOLATION, "a packet without frames").into());
        }
        while !reader.is_empty() {
            let frame = Frame::read(&mut reader)?;
            contents.elicits_ack |= frame.elicits_ack();
            contents.is_ordinary |= !frame.is_probing();
            self.handle_frame(record, now, arrival, frame)?;
        }
        Ok(contents)
    }

    fn handle_frame(
        &mut self,
        record: &mut Record,
        now: u64,
        arrival: Arrival,
        frame: Frame<'_>,
    ) -> Result<(), Stop> {
        let taken = match frame {
            Frame::Padding | Frame::Ping | Frame::MaxStreams => Taken::Yes,
            // The peer waits for credit that it has, or gets as the application reads (RFC 9000 §4.1).
            Frame::DataBlocked | Frame::StreamsBlocked => Taken::Yes,
            Frame::StreamDataBlocked { stream } => {
                check_id(record, stream, kind::STREAM_DATA_BLOCKED)?;
                Taken::Yes
            }
            Frame::Ack(ack) => {
                self.counts.packets_lost += record.handle_ack(&ack, now)?;
                Taken::Yes
            }
            Frame::Stream(stream) => self.handle_stream(record, stream)?,
            Frame::ResetStream {
                stream, final_size, ..
            } => self.handle_reset(record, stream, final_size)?,
            Frame::StopSending { stream, .. } => {
                check_id(record, stream, kind::STOP_SENDING)?;
                Taken::Broken(close_code::STREAM_STOPPED)
            }
            Frame::MaxData(limit) => {
                self.handle_max_data(record, limit);
                Taken::Yes
            }
            Frame::MaxStreamData { stream, limit } => {
                self.handle_max_stream_data(record, stream, limit)?;
                Taken::Yes
            }
            Frame::NewConnectionId(offer) => {
                self.handle_new_id(record, offer)?;
                Taken::Yes
            }
            Frame::RetireConnectionId(sequence) => {
                self.handle_retire(record, sequence)?;
                Taken::Yes
            }
            Frame::PathChallenge(data) => {
                // As much as may go to an address that is not proven (RFC 9000 §8.2.2). The newest one counts.
                let is_proven = arrival.remote == record.remote()
                    && record.active.as_ref().is_none_or(|a| a.path.is_none());
                let room = if is_proven {
                    usize::MAX
                } else {
                    3 * arrival.bytes
                };
                self.active(record).path_response = Some((arrival.remote, data, room));
                Taken::Yes
            }
            Frame::PathResponse(data) => {
                self.handle_path_response(record, now, data);
                Taken::Yes
            }
            Frame::Crypto { .. } | Frame::NewToken | Frame::HandshakeDone => {
                check_of_server(record, &frame)?;
                Taken::Yes
            }
            Frame::Close {
                is_application,
                code,
                reason,
            } => return Err(Stop::Closed(reason_of_peer(is_application, code, reason))),
        };
        match taken {
            Taken::Yes => Ok(()),
            Taken::No => Err(Stop::Dropped),
            Taken::Broken(code) => Err(Stop::Broken(code)),
        }
    }

    /// The packet counts as received: it will be acknowledged, and keeps the connection alive.
    fn note_received(&mut self, record: &mut Record, now: u64, number: u64, contents: &Contents) {
        let is_in_order = record.received.insert(number);
        record.restarted = timers::ticks(now);
        record.has_sent_since = false;
        let is_client = record.is_client;
        if contents.elicits_ack {
            let is_largest = record.received.largest == number;
            // After a key update and out of order the peer waits for it (RFC 9001 §6.2, RFC 9000 §13.2.1).
            let is_new_phase = record.next_number <= record.cold.phase_first;
            let is_urgent = !is_in_order || is_new_phase;
            let delay = if is_client {
                CLIENT_ACK_DELAY
            } else {
                OWN_MAX_ACK_DELAY
            };
            let active = self.active(record);
            // When a larger one came before all this is not known any more; the peer shall not take it for a delay
            // (RFC 9000 §13.2.5).
            if is_largest || active.largest_at == 0 {
                active.largest_at = now;
            }
            active.owe_ack(now, is_urgent, delay.as_micros() as u64);
        } else if let Some(active) = record.active.as_deref_mut()
            && record.received.largest == number
        {
            active.largest_at = now;
        }
    }
}

/// Opens a packet with the key of its phase (RFC 9001 §6.3, §6.5). Nothing is changed. Without the fixed bit it is no
/// packet of this version (RFC 9000 §17.3.1).
fn open<'a>(
    record: &Record,
    number: u64,
    header: Unmasked,
    head: &[u8],
    body: &'a mut [u8],
) -> Option<(Phase, &'a [u8])> {
    if header.first & FIXED_BIT == 0 {
        return None;
    }
    let is_current = (header.first & KEY_PHASE_BIT != 0) == record.key_phase;
    if is_current {
        let plaintext = record.rx.key.open(number, head, body).ok()?;
        return Some((Phase::Current, plaintext));
    }
    let old = record.active.as_ref().and_then(|a| a.old_key.as_ref());
    if let Some(old) = old
        && old.new_from.is_none_or(|new| number < new)
    {
        let plaintext = old.key.open(number, head, body).ok()?;
        return Some((Phase::Old, plaintext));
    }
    let key = record.rx.secret.next().packet_key();
    let plaintext = key.open(number, head, body).ok()?;
    Some((Phase::Next(key), plaintext))
}

/// Frames that only a server sends.
///
/// # Errors
///
/// RFC 9000 §19.7 and §19.20 of NEW_TOKEN and HANDSHAKE_DONE; RFC 9001 §6 of TLS messages of a client after the
/// handshake, which could only be a key update.
fn check_of_server(record: &Record, frame: &Frame<'_>) -> Result<(), Violation> {
    if record.is_client {
        // Tickets that come after the hand-over are let go.
        return Ok(());
    }
    let (code, kind) = match frame {
        Frame::Crypto { .. } => (Code::CRYPTO_UNEXPECTED_MESSAGE, kind::CRYPTO),
        Frame::NewToken => (Code::PROTOCOL_VIOLATION, kind::NEW_TOKEN),
        _ => (Code::PROTOCOL_VIOLATION, kind::HANDSHAKE_DONE),
    };
    Err(Violation::in_frame(
        code,
        kind.into(),
        "only a server sends this",
    ))
}

fn reason_of_peer(is_application: bool, code: u64, reason: &[u8]) -> CloseReason {
    if is_application {
        CloseReason::ByPeer {
            code,
            reason: Bytes::copy_from_slice(reason),
        }
    } else {
        CloseReason::Transport {
            code,
            reason: String::from_utf8_lossy(reason).into_owned(),
            by_peer: true,
        }
    }
}

/// The connection ID that a packet with a short header is addressed to.
pub(crate) fn short_id(packet: &[u8]) -> Option<LocalId> {
    packet.get(1..)?.first_chunk::<CID_BYTES>().copied()
}
