//! Datagrams in: to their connection, or to the door, where a client is accepted, asked to prove its address, refused
//! or ignored before any work is done for it.

use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, EndpointEvent, Incoming};
use tracing::{debug, trace};

use super::{ShardCore, connection::Conn, first::First};
use crate::{ConnId, Engine, Received, Transmit, handover};

/// The bit that distinguishes long headers from short ones (RFC 9000 §17.2).
pub(super) const LONG_HEADER: u8 = 0x80;

impl ShardCore {
    /// Takes one datagram.
    ///
    /// Peer input never panics. A datagram that belongs to nobody costs no memory beyond this call, except for one
    /// bounded reply.
    pub fn handle_datagram(&mut self, now: Instant, mut datagram: Received<'_>) {
        self.now = now;
        self.stats.datagrams_received_total += 1;
        self.stats.bytes_received_total += datagram.payload.len() as u64;
        let long_header = datagram
            .payload
            .first()
            .is_some_and(|byte| byte & LONG_HEADER != 0);
        if !long_header && self.handle_resident(now, &mut datagram) {
            return;
        }
        self.refill_ids();
        let mut reply = std::mem::take(&mut self.reply_scratch);
        reply.clear();
        let outcome = self.endpoint.handle(
            now,
            datagram.remote,
            datagram.local_ip,
            datagram.ecn.map(Into::into),
            BytesMut::from(&*datagram.payload),
            &mut reply,
        );
        match outcome {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let slot = self.slot_by_handle.get(handle.0).copied();
                if let Some((id, conn)) = slot.and_then(|slot| self.conns.at_mut(slot))
                    && let Some(first) = conn.first()
                {
                    first.proto.handle_event(event);
                    Self::mark_ready(&mut self.ready, id.slot, &mut conn.flags);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.at_the_door(now, incoming, &mut reply)
            }
            Some(DatagramEvent::Response(transmit)) => {
                // To a short header the engine's only answer is a stateless reset (RFC 9000 §10.3); to a long one
                // it is version negotiation or a refusal.
                if long_header {
                    if self.refusals.take(now) {
                        self.reply(&transmit, &reply);
                    } else {
                        self.stats.ignored_total += 1;
                    }
                } else if self.resets.take(now) {
                    self.stats.resets_total += u64::from(self.reply(&transmit, &reply));
                } else {
                    self.stats.resets_suppressed_total += 1;
                }
            }
        }
        self.reply_scratch = reply;
    }

    /// Decides about a client's first packet.
    fn at_the_door(&mut self, now: Instant, incoming: Incoming, reply: &mut Vec<u8>) {
        let remote = incoming.remote_address();
        let is_proven = incoming.remote_address_validated();
        let mut full = !self.accepting
            || self.conns.len() >= self.limits.connections_max as usize
            || self.stats.handshakes >= self.limits.handshakes_max;
        let mut unproven = self.stats.handshakes >= self.limits.retry_threshold && !is_proven;
        // Counted last: who is turned away for another reason has not begun.
        if !full && !unproven && !self.sources.take(now, remote.ip(), is_proven) {
            self.stats.sources_limited_total += 1;
            (full, unproven) = (is_proven, !is_proven);
        }
        // A client that has done its Retry cannot be asked again.
        unproven &= incoming.may_retry();
        if full || unproven {
            if !self.refusals.take(now) {
                self.stats.ignored_total += 1;
                self.endpoint.ignore(incoming);
                return;
            }
            if full {
                debug!(%remote, "refused");
                let transmit = self.endpoint.refuse(incoming, reply);
                self.stats.refused_total += u64::from(self.reply(&transmit, reply));
                return;
            }
            match self.endpoint.retry(incoming, reply) {
                Ok(transmit) => {
                    trace!(%remote, "asked to retry");
                    self.stats.retries_total += u64::from(self.reply(&transmit, reply));
                }
                // It was asked above whether it may be retried; should the engine see it otherwise, silence is safe.
                Err(error) => self.endpoint.ignore(error.into_incoming()),
            }
            return;
        }
        self.stats.handshakes_started_total += 1;
        match self.endpoint.accept(incoming, now, reply, None) {
            Ok((handle, proto)) => {
                self.stats.handshakes += 1;
                self.adopt(now, handle, proto);
            }
            Err(error) => {
                debug!(%remote, cause = %error.cause, "handshake failed at its first packet");
                self.stats.handshakes_failed_total += 1;
                if let Some(transmit) = error.response
                    && self.refusals.take(now)
                {
                    self.reply(&transmit, reply);
                }
            }
        }
    }

    /// Gives a new connection its slot.
    pub(super) fn adopt(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        proto: Connection,
    ) -> ConnId {
        // Taken in any case, so that it is not mistaken for that of the next connection.
        let tap = handover::take_tap().filter(|_| self.engine == Engine::Resident);
        let id = self.conns.insert(Conn::new(First::new(
            handle,
            proto,
            tap,
            now + self.limits.handshake_timeout,
        )));
        if self.slot_by_handle.len() <= handle.0 {
            self.slot_by_handle.resize(handle.0 + 1, u32::MAX);
        }
        self.slot_by_handle[handle.0] = id.slot;
        if let Some((_, conn)) = self.conns.at_mut(id.slot) {
            Self::mark_ready(&mut self.ready, id.slot, &mut conn.flags);
        }
        id
    }

    /// Makes the engine forget a connection that has not said so itself, and frees its slot.
    pub(super) fn forget(&mut self, id: ConnId) {
        if let Some(first) = self.conns.get_mut(id).and_then(Conn::first) {
            self.endpoint
                .handle_event(first.handle(), EndpointEvent::drained());
            self.free(id);
        }
    }

    /// Frees the slot of a connection that the engine has forgotten.
    pub(super) fn free(&mut self, id: ConnId) {
        if let Some(mut conn) = self.conns.remove(id) {
            if let Some(first) = conn.first() {
                self.slot_by_handle[first.handle().0] = u32::MAX;
            }
            self.wheel.remove(id.slot);
        }
    }

    /// Queues an answer; false if too many wait already.
    fn reply(&mut self, transmit: &quinn_proto::Transmit, bytes: &[u8]) -> bool {
        if self.replies.len() >= self.limits.replies_max {
            self.stats.replies_dropped_total += 1;
            return false;
        }
        let bytes = bytes.get(..transmit.size).unwrap_or(bytes);
        self.replies
            .push_back((Transmit::of(transmit), bytes.to_vec()));
        true
    }
}
