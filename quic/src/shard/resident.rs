//! The second life of connections: how they come into it, what their engine has to say, and how they leave.

use std::time::Instant;

use quinn_proto::EndpointEvent;
use tracing::trace;

use super::{
    ShardCore,
    admission::LONG_HEADER,
    connection::{Life, Phase},
};
use crate::{
    CloseReason, ConnId, Event, Received,
    resident::{Arrival, LocalId, Note, Place, RESET_BYTES_MIN, Record, short_id},
};

impl ShardCore {
    /// Takes a datagram that belongs to a resident connection. False if it belongs to none.
    pub(super) fn handle_resident(&mut self, now: Instant, datagram: &mut Received<'_>) -> bool {
        let Some(id) = short_id(datagram.payload) else {
            return false;
        };
        let Some(slot) = self.route(id) else {
            return self.handle_reset(now, datagram);
        };
        let Some((conn_id, conn)) = self.conns.at_mut(slot) else {
            return false;
        };
        let Some(record) = conn.resident() else {
            return false;
        };
        let arrival = Arrival {
            remote: datagram.remote,
            local_ip: datagram.local_ip,
            bytes: datagram.payload.len(),
        };
        self.residents
            .handle_packet(record, now, arrival, datagram.payload);
        self.after_resident(conn_id);
        true
    }

    /// A datagram that will be handled soon, in any order with others: has the memory of its connection fetched meanwhile.
    /// Changes nothing.
    pub(crate) fn foresee(&self, payload: &[u8]) {
        let is_long = payload.first().is_none_or(|byte| byte & LONG_HEADER != 0);
        if !is_long && let Some(slot) = short_id(payload).and_then(|id| self.route(id)) {
            self.foresee_slot(slot);
        }
    }

    /// A connection that will be served soon.
    pub(super) fn foresee_slot(&self, slot: u32) {
        if let Some(Life::Resident(record)) = self.conns.at(slot).map(|conn| &conn.life) {
            std::hint::black_box(record.touch());
        }
    }

    /// A packet to nobody may be the word of a peer that has lost its state (RFC 9000 §10.3.1).
    fn handle_reset(&mut self, now: Instant, datagram: &Received<'_>) -> bool {
        if datagram.payload.len() < RESET_BYTES_MIN {
            return false;
        }
        let Some(token) = datagram.payload.last_chunk() else {
            return false;
        };
        let conns = &self.conns;
        let is_its = |slot: u32| match conns.at(slot).map(|conn| &conn.life) {
            Some(Life::Resident(record)) => {
                record.remote() == datagram.remote && record.is_reset_token(token)
            }
            _ => false,
        };
        let Some(slot) = self.routes.by_token(token, is_its) else {
            return false;
        };
        if let Some((id, conn)) = self.conns.at_mut(slot)
            && let Some(record) = conn.resident()
        {
            self.residents.handle_reset_packet(record, now);
            self.after_resident(id);
        }
        true
    }

    /// The slot of the resident connection that an ID belongs to.
    fn route(&self, id: LocalId) -> Option<u32> {
        self.routes.by_id(id, |slot| self.is_resident_id(slot, id))
    }

    fn is_resident_id(&self, slot: u32, id: LocalId) -> bool {
        match self.conns.at(slot).map(|conn| &conn.life) {
            Some(Life::Resident(record)) => record.has_local_id(id),
            _ => false,
        }
    }

    /// Makes sure that the next connection IDs are ones that no resident connection has.
    pub(super) fn refill_ids(&self) {
        self.cids.refill(|id| self.route(id).is_some());
    }

    /// Tells what the engine noted about a connection, and has it asked for what it wants to send.
    pub(super) fn after_resident(&mut self, id: ConnId) {
        let slot = id.slot;
        let mut is_ended = false;
        while let Some(note) = self.residents.notes.pop_front() {
            match note {
                Note::Bytes(bytes) => {
                    self.stats.stream_bytes_received_total += bytes.len() as u64;
                    self.events.push_back(Event::Bytes { conn: id, bytes });
                }
                Note::Writable => self.events.push_back(Event::Writable { conn: id }),
                Note::Closed(reason) => {
                    let is_rule = matches!(reason, CloseReason::BrokenRule { .. });
                    self.stats.rules_broken_total += u64::from(is_rule);
                    self.end(id, reason);
                }
                Note::IdAdded(id) => self.routes.add_id(id, slot),
                Note::IdRemoved(id) => self.routes.remove_id(id, slot),
                Note::TokenAdded(token) => self.routes.add_token(&token, slot),
                Note::TokenRemoved(token) => self.routes.remove_token(&token, slot),
                Note::Ended => is_ended = true,
            }
        }
        if is_ended {
            self.free_resident(id);
        } else if let Some(conn) = self.conns.get_mut(id) {
            Self::mark_sending(&mut self.sending, slot, &mut conn.flags);
        }
    }

    /// Gives a quiet connection to the resident engine, and makes the handshake engine forget it.
    pub(super) fn hand_over(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.phase != Phase::Open {
            return;
        }
        let Life::First(first) = &mut conn.life else {
            return;
        };
        let Some(taken) = first.take(now) else {
            return;
        };
        let own = u64::try_from(self.limits.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        let peer = taken.peer.max_idle_timeout.map_or(u64::MAX, |timeout| {
            u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
        });
        let place = Place {
            remote: first.proto.remote_address(),
            local_ip: first.local_ip(),
            rtt: first.proto.rtt(),
            idle_timeout_ms: u32::try_from(own.min(peer)).unwrap_or(u32::MAX),
            now_ticks: self.residents.ticks(now),
            is_paused: conn.flags.paused,
            wants_writable: conn.flags.refused,
        };
        let handle = first.handle();
        let record = Record::new(taken, place);
        trace!(conn = %id, "rests");
        for local in record.local_ids() {
            self.routes.add_id(local, id.slot);
        }
        for token in record.reset_tokens() {
            self.routes.add_token(&token, id.slot);
        }
        conn.flags.refused = false;
        conn.life = Life::Resident(record);
        self.endpoint.handle_event(handle, EndpointEvent::drained());
        self.slot_by_handle[handle.0] = u32::MAX;
        self.stats.residents += 1;
        self.stats.residents_total += 1;
        if let Some(record) = self.conns.get_mut(id).and_then(|conn| conn.resident()) {
            self.residents.begin(record);
        }
    }

    fn free_resident(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        if let Some(record) = conn.resident() {
            for local in record.local_ids() {
                self.routes.remove_id(local, id.slot);
            }
            for token in record.reset_tokens() {
                self.routes.remove_token(&token, id.slot);
            }
            self.stats.residents -= 1;
        }
        self.wheel.remove(id.slot);
    }
}
