//! Serving connections: events and transmits.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use quinn_proto::{ConnectionError, Dir, Event as EngineEvent, Side, StreamEvent, VarInt};
use tracing::{debug, trace};

use super::{
    ShardCore,
    connection::{Flags, Life, Phase},
    first::{Flush, ReadEnd},
};
use crate::{CloseReason, ConnId, Event, Transmit, close_code};

/// Transmits of one connection before others have their turn.
const TRANSMITS_PER_VISIT: u32 = 4;

/// What a visit found out that ends the connection.
enum End {
    Lost(ConnectionError),
    Rule(u32),
}

impl ShardCore {
    /// The next event, if there is one.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let slot = self.ready.pop_front()?;
            self.visit(slot);
        }
    }

    /// The next datagrams to send, if there are any.
    ///
    /// Their payload is appended to `out`. What was polled cannot be given back: what the socket refuses the caller
    /// keeps, and polls no further until it went.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        self.now = now;
        let transmit = match self.replies.pop_front() {
            Some((transmit, bytes)) => {
                out.extend_from_slice(&bytes);
                transmit
            }
            None => self.poll_connections(now, out)?,
        };
        self.stats.datagrams_sent_total += transmit.datagrams() as u64;
        self.stats.bytes_sent_total += transmit.bytes as u64;
        Some(transmit)
    }

    /// Takes a connection through bookkeeping, events and reading.
    fn visit(&mut self, slot: u32) {
        let Some((id, conn)) = self.conns.at_mut(slot) else {
            return;
        };
        conn.flags.ready = false;
        // A resident connection tells its events at once.
        let Life::First(first) = &mut conn.life else {
            return;
        };
        let mut drained = false;
        while let Some(event) = first.proto.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(first.handle(), event) {
                first.proto.handle_event(event);
            }
        }
        if let Some(end) = self.take_events(id) {
            let reason = match end {
                End::Lost(error) => self.reason_of(id, error),
                End::Rule(code) => {
                    self.close_for_rule(id, code);
                    CloseReason::BrokenRule { code }
                }
            };
            self.end(id, reason);
        }
        if drained {
            self.free(id);
        } else if let Some(conn) = self.conns.get_mut(id) {
            let is_unread = conn.first().is_some_and(|first| first.is_unread);
            if is_unread && !conn.flags.paused && conn.phase == Phase::Open {
                Self::mark_ready(&mut self.ready, slot, &mut conn.flags);
            }
            Self::mark_sending(&mut self.sending, slot, &mut conn.flags);
        }
    }

    fn close_for_rule(&mut self, id: ConnId, code: u32) {
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(id)
            && conn.phase != Phase::Closing
            && let Life::First(first) = &mut conn.life
        {
            first.proto.close(now, VarInt::from_u32(code), Bytes::new());
            self.stats.rules_broken_total += 1;
        }
    }

    /// The engine's events, and the bytes they announce.
    fn take_events(&mut self, id: ConnId) -> Option<End> {
        let conn = self.conns.get_mut(id)?;
        let phase = conn.phase;
        let first = conn.first()?;
        let mut writable = false;
        let mut lost = None;
        let mut rule = None;
        while let Some(event) = first.proto.poll() {
            match event {
                EngineEvent::Connected => {
                    first.is_connected = true;
                    if first.side == Side::Client && !first.obtain_stream() {
                        rule = Some(close_code::STREAM_REFUSED);
                    }
                }
                EngineEvent::ConnectionLost { reason } => lost = Some(reason),
                EngineEvent::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    first.is_unread |= first.obtain_stream();
                }
                EngineEvent::Stream(StreamEvent::Readable { .. }) => first.is_unread = true,
                EngineEvent::Stream(StreamEvent::Writable { .. }) => writable = true,
                EngineEvent::Stream(StreamEvent::Stopped { .. }) => {
                    rule = Some(close_code::STREAM_STOPPED);
                }
                // Limits forbid unidirectional streams and datagrams; the rest needs no action.
                EngineEvent::Stream(
                    StreamEvent::Opened { dir: Dir::Uni }
                    | StreamEvent::Finished { .. }
                    | StreamEvent::Available { .. },
                )
                | EngineEvent::HandshakeDataReady
                | EngineEvent::DatagramReceived
                | EngineEvent::DatagramsUnblocked => {}
            }
        }
        if phase == Phase::Setup && first.is_connected && first.has_stream {
            self.open(id);
        }
        // What came before the end still counts.
        rule = self.read(id).or(rule);
        if writable {
            self.flush(id);
        }
        lost.map(End::Lost).or(rule.map(End::Rule))
    }

    fn open(&mut self, id: ConnId) {
        let rests_from = self.now + self.limits.hand_over_after;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.phase = Phase::Open;
        let refused = std::mem::take(&mut conn.flags.refused);
        let Some(first) = conn.first() else {
            return;
        };
        first.rests_from = Some(rests_from);
        match first.side {
            Side::Server => {
                self.stats.handshakes -= 1;
                self.stats.handshakes_completed_total += 1;
            }
            Side::Client => self.stats.connecting -= 1,
        }
        self.stats.connections += 1;
        let remote = first.proto.remote_address();
        trace!(conn = %id, %remote, "opened");
        self.events.push_back(Event::Opened { conn: id, remote });
        if refused {
            self.events.push_back(Event::Writable { conn: id });
        }
    }

    /// Hands out what has arrived; answers with a close code if the stream ended.
    fn read(&mut self, id: ConnId) -> Option<u32> {
        let conn = self.conns.get_mut(id)?;
        if conn.flags.paused || conn.phase != Phase::Open {
            return None;
        }
        let first = conn.first().filter(|first| first.is_unread)?;
        let mut taken = 0;
        let end = first.read(self.limits.read_bytes_per_visit as usize, |bytes| {
            taken += bytes.len() as u64;
            self.events.push_back(Event::Bytes { conn: id, bytes });
        });
        first.is_unread = end == ReadEnd::Limit;
        self.stats.stream_bytes_received_total += taken;
        match end {
            ReadEnd::Empty | ReadEnd::Limit => None,
            ReadEnd::Finished => Some(close_code::STREAM_FINISHED),
            ReadEnd::Reset => Some(close_code::STREAM_RESET),
        }
    }

    /// There is room: the unfinished send first, then the application.
    fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.phase != Phase::Open {
            return;
        }
        let refused = conn.flags.refused;
        let Some(first) = conn.first() else {
            return;
        };
        let before = first.remainder_bytes();
        let flush = first.flush();
        let moved = before - first.remainder_bytes();
        // A stream that takes nothing any more has ended the connection, or is about to.
        let has_room = flush == Flush::Done && refused && (moved == 0 || first.room_after_write());
        self.stats.remainder_bytes -= moved;
        if has_room {
            conn.flags.refused = false;
            self.events.push_back(Event::Writable { conn: id });
        }
    }

    fn reason_of(&mut self, id: ConnId, error: ConnectionError) -> CloseReason {
        match self.conns.get_mut(id).map(|conn| conn.phase) {
            Some(Phase::Setup) => CloseReason::of_handshake(error),
            _ => CloseReason::of_open(error),
        }
    }

    /// The application's view of a connection ends: exactly once, and only if it knew of it.
    pub(super) fn end(&mut self, id: ConnId, reason: CloseReason) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let side = conn.first().map(|first| first.side);
        let known = match (conn.phase, side) {
            (Phase::Closing, _) => return,
            (Phase::Open, _) | (_, None) => {
                self.stats.connections -= 1;
                true
            }
            (Phase::Setup, Some(Side::Client)) => {
                self.stats.connecting -= 1;
                true
            }
            (Phase::Setup, Some(Side::Server)) => {
                self.stats.handshakes -= 1;
                self.stats.handshakes_failed_total += 1;
                false
            }
        };
        debug!(conn = %id, %reason, "closed");
        conn.phase = Phase::Closing;
        self.stats.remainder_bytes -= conn.remainder_bytes();
        if let Some(first) = conn.first() {
            first.drop_remainder();
        }
        if known {
            self.events.push_back(Event::Closed { conn: id, reason });
        }
    }

    /// Connections in turn, each for a bounded number of transmits; one that has no more is given its timer.
    fn poll_connections(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        loop {
            let slot = *self.sending.front()?;
            let Some((id, conn)) = self.conns.at_mut(slot) else {
                self.next_sender();
                continue;
            };
            if self.visit_left == 0 {
                self.visit_left = TRANSMITS_PER_VISIT;
            }
            let transmit = match &mut conn.life {
                Life::First(first) => {
                    self.out.clear();
                    let segments = self.gso_segments_max;
                    let transmit = first.proto.poll_transmit(now, segments, &mut self.out);
                    transmit.map(|transmit| {
                        out.extend_from_slice(&self.out[..transmit.size]);
                        Transmit::of(&transmit)
                    })
                }
                Life::Resident(record) => {
                    self.residents
                        .poll_transmit(record, now, out)
                        .map(|datagram| Transmit {
                            destination: datagram.destination,
                            src_ip: record.local_ip(),
                            ecn: None,
                            segment_size: None,
                            bytes: datagram.bytes,
                        })
                }
            };
            if transmit.is_some() {
                self.visit_left -= 1;
                if self.visit_left == 0 {
                    self.next_sender();
                    self.sending.push_back(slot);
                }
                return transmit;
            }
            conn.flags.sending = false;
            self.next_sender();
            self.rest(now, id);
        }
    }

    /// A connection has nothing to send now: its timer is set, and if it is quiet it goes on to its second life.
    fn rest(&mut self, now: Instant, id: ConnId) {
        self.hand_over(now, id);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let deadline = match &mut conn.life {
            Life::First(first) => {
                // Sending itself may end a connection, for instance when a key's limit is reached (RFC 9001 §6.6).
                if first.proto.is_closed() && conn.phase != Phase::Closing {
                    Self::mark_ready(&mut self.ready, id.slot, &mut conn.flags);
                }
                first.deadline(conn.phase == Phase::Setup)
            }
            Life::Resident(record) => {
                // Likewise here.
                if !self.residents.notes.is_empty() {
                    return self.after_resident(id);
                }
                Some(self.residents.deadline(record))
            }
        };
        if let Some(at) = deadline {
            self.wheel.schedule(id.slot, at);
        }
    }

    fn next_sender(&mut self) {
        self.sending.pop_front();
        self.visit_left = 0;
    }

    pub(super) fn mark_ready(ready: &mut VecDeque<u32>, slot: u32, flags: &mut Flags) {
        if !flags.ready {
            flags.ready = true;
            ready.push_back(slot);
        }
    }

    pub(super) fn mark_sending(sending: &mut VecDeque<u32>, slot: u32, flags: &mut Flags) {
        if !flags.sending {
            flags.sending = true;
            sending.push_back(slot);
        }
    }
}
