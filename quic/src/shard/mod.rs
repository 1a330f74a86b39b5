//! The inside of a shard: no socket, no clock, no task.

mod admission;
mod connection;
mod first;
#[cfg(feature = "sim")]
mod inside;
mod resident;
mod routes;
pub(crate) mod setup;
mod steering;
mod timers;
mod turn;

use std::{collections::VecDeque, fmt, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use quinn_proto::{Endpoint, VarInt};
use rand::{RngCore, SeedableRng, rngs::StdRng};

#[cfg(feature = "sim")]
pub use self::inside::Inside;
use self::{
    connection::{Conn, Life, Phase},
    routes::Routes,
};
use crate::{
    ClientSetup, CloseReason, ConfigError, ConnId, ConnectError, Engine, Event, Limits, SendError,
    ShardConfig, Stats, Transmit,
    budget::Budget,
    cid::SharedCids,
    resident::{Engine as Residents, Record},
    slab::{Slab, Slot},
    socket::Sent,
    sources::Sources,
    tickets::DayTickets,
    wheel::Wheel,
};

/// A shard without I/O: what comes in is handled, what shall go out is polled.
///
/// A turn of its driver is: [`handle_datagram`](Self::handle_datagram) for each one received;
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) has passed;
/// [`poll_event`](Self::poll_event) until there is none; [`poll_transmit`](Self::poll_transmit) until there is none.
/// One reading of the clock serves the whole turn. `now` never runs backwards.
///
/// Each connection is served in the order: engine bookkeeping, events, transmits, timer. A visit is bounded, and
/// connections take turns.
pub struct ShardCore {
    endpoint: Endpoint,
    conns: Slab<Conn>,
    /// From the engine's index of a connection to ours.
    slot_by_handle: Vec<u32>,
    engine: Engine,
    residents: Residents,
    routes: Routes,
    cids: SharedCids,
    wheel: Wheel,
    /// Slots to be asked for events. Each at most once, so bounded by the number of slots.
    ready: VecDeque<u32>,
    /// Slots to be asked for transmits. Bounded likewise.
    sending: VecDeque<u32>,
    /// Transmits that the first of `sending` may still make before others have their turn.
    visit_left: u32,
    /// What one visit to a connection brought; the next visit waits until it is empty.
    events: VecDeque<Event>,
    /// Answers without a connection. Bounded by `replies_max`; more are dropped, as the network might.
    replies: VecDeque<(Transmit, Vec<u8>)>,
    /// Where the handshake engine writes its next datagrams. Allocated once.
    out: Vec<u8>,
    /// Where the engine writes a reply first.
    reply_scratch: Vec<u8>,
    limits: Limits,
    gso_segments_max: usize,
    resets: Budget,
    refusals: Budget,
    sources: Sources,
    accepting: bool,
    tickets: Arc<DayTickets>,
    /// Everything but the gauges that are computed when asked for.
    stats: Stats,
    now: Instant,
}

impl ShardCore {
    /// A shard without connections.
    ///
    /// The seed feeds connection IDs, packet number gaps and padding. In production it has to be secret and drawn
    /// from the operating system; a fixed one makes tests repeatable. TLS has its own source.
    ///
    /// # Errors
    ///
    /// If the configuration cannot work.
    pub fn new(config: &ShardConfig, seed: [u8; 32], now: Instant) -> Result<Self, ConfigError> {
        config.limits.check()?;
        let mut seeds = StdRng::from_seed(seed);
        let mut endpoint_seed = [0; 32];
        let mut cid_seed = [0; 32];
        seeds.fill_bytes(&mut endpoint_seed);
        seeds.fill_bytes(&mut cid_seed);
        let mut resident_seed = [0; 32];
        seeds.fill_bytes(&mut resident_seed);

        let cids = SharedCids::new(config.shard, cid_seed);
        let tickets = Arc::new(DayTickets::new(&config.keys));
        let server = match &config.server {
            Some(server) => {
                let server =
                    setup::server(server, &config.keys, &config.limits, Arc::clone(&tickets))?;
                Some(Arc::new(server))
            }
            None => None,
        };
        let endpoint_config = Arc::new(setup::endpoint(config, cids.clone())?);
        let limits = config.limits.clone();
        Ok(Self {
            accepting: server.is_some(),
            endpoint: Endpoint::new(endpoint_config, server, false, Some(endpoint_seed)),
            conns: Slab::new(),
            slot_by_handle: Vec::new(),
            engine: config.engine,
            residents: Residents::new(
                &config.limits,
                cids.clone(),
                config.keys.reset(),
                resident_seed,
                now,
            ),
            routes: Routes::default(),
            cids,
            wheel: Wheel::new(now),
            ready: VecDeque::new(),
            sending: VecDeque::new(),
            visit_left: 0,
            events: VecDeque::new(),
            replies: VecDeque::new(),
            out: Vec::new(),
            reply_scratch: Vec::new(),
            gso_segments_max: 1,
            resets: Budget::new(limits.resets_per_second, now),
            refusals: Budget::new(limits.refusals_per_second, now),
            sources: Sources::new(
                limits.source_handshakes_per_second,
                limits.source_exempt.clone(),
                now,
            ),
            limits,
            tickets,
            stats: Stats::default(),
            now,
        })
    }

    /// Lets one [`Transmit`] carry up to so many datagrams (GSO). 1, the default, switches it off.
    pub fn set_gso_segments_max(&mut self, segments: usize) {
        self.gso_segments_max = segments.max(1);
    }

    /// Sends bytes on the connection's stream, all of them or none.
    ///
    /// They are shared, not copied, and held until the peer has acknowledged them. A part may go out at once and the
    /// rest wait: at most one unfinished rest for each connection, which goes before everything else.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] gives the bytes back; [`Event::Writable`] follows as soon as there is room. Before
    /// [`Event::Opened`] a connection is always full. [`SendError::Gone`] if the connection is closed or the ID stale.
    pub fn send(&mut self, conn: ConnId, bytes: Bytes) -> Result<(), SendError> {
        let Some(c) = self.conns.get_mut(conn) else {
            return Err(SendError::Gone);
        };
        let len = bytes.len() as u64;
        let result = match (&mut c.life, c.phase) {
            (_, Phase::Closing) => return Err(SendError::Gone),
            (_, _) if bytes.is_empty() => return Ok(()),
            (_, Phase::Setup) => Err(SendError::Full(bytes)),
            (Life::First(first), Phase::Open) => first.send(bytes),
            (Life::Resident(record), Phase::Open) => self.residents.send(record, bytes),
        };
        match &result {
            Ok(()) => {
                self.stats.stream_bytes_sent_total += len;
                // The remainder was empty before, else the answer were `Full`.
                self.stats.remainder_bytes += c.remainder_bytes();
            }
            // The resident engine remembers it by itself.
            Err(SendError::Full(_)) => c.flags.refused |= matches!(c.life, Life::First(_)),
            Err(SendError::Gone) => {}
        }
        // Also when full, since the peer is to be told that it holds us up (RFC 9000 §4.1).
        if c.phase == Phase::Open {
            Self::mark_sending(&mut self.sending, conn.slot, &mut c.flags);
        }
        result
    }

    /// Closes a connection: the peer is told code and reason, and [`Event::Closed`] with [`CloseReason::Local`]
    /// follows. Bytes that the peer has not acknowledged may never arrive.
    ///
    /// Does nothing if the connection is closed already or the ID is stale. A reason too long for one packet is cut.
    pub fn close(&mut self, conn: ConnId, code: u32, reason: &[u8]) {
        let Some(c) = self.conns.get_mut(conn) else {
            return;
        };
        if c.phase == Phase::Closing {
            return;
        }
        match &mut c.life {
            Life::First(first) => first.proto.close(
                self.now,
                VarInt::from_u32(code),
                Bytes::copy_from_slice(reason),
            ),
            Life::Resident(record) => self.residents.close(record, self.now, code, reason),
        }
        Self::mark_sending(&mut self.sending, conn.slot, &mut c.flags);
        self.end(conn, CloseReason::Local { code });
    }

    /// Stops or resumes handing out bytes of a connection. While it is paused the peer can send what the receive
    /// window allows, and no more. A stale ID does nothing.
    pub fn pause_reading(&mut self, conn: ConnId, paused: bool) {
        let Some(c) = self.conns.get_mut(conn) else {
            return;
        };
        c.flags.paused = paused;
        match &mut c.life {
            Life::First(first) if !paused && first.is_unread => {
                Self::mark_ready(&mut self.ready, conn.slot, &mut c.flags);
            }
            Life::First(_) => {}
            Life::Resident(record) => {
                self.residents.pause_reading(record, paused);
                self.after_resident(conn);
            }
        }
    }

    /// Asks the peer for a sign of life, which keeps the connection and what lies on its way from being forgotten
    /// (RFC 9000 §10.1.2). A stale ID does nothing.
    pub fn ping(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(conn) else {
            return;
        };
        match &mut c.life {
            Life::First(first) => first.proto.ping(),
            Life::Resident(record) => self.residents.ping(record),
        }
        Self::mark_sending(&mut self.sending, conn.slot, &mut c.flags);
    }

    /// Begins a key update (RFC 9001 §6), if the connection rests and its last update is over. Whether it did.
    ///
    /// There is no need to call it: keys are replaced long before they are worn out.
    pub fn update_keys(&mut self, conn: ConnId) -> bool {
        let Some(c) = self.conns.get_mut(conn) else {
            return false;
        };
        let is_begun = c
            .resident()
            .is_some_and(|record| self.residents.update_keys(record));
        Self::mark_sending(&mut self.sending, conn.slot, &mut c.flags);
        is_begun
    }

    /// From now on refuses every new client. Connections and handshakes in progress go on.
    pub fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// Begins a connection in the client role.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]. A failure later on comes as [`Event::Closed`].
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        server_name: &str,
        setup: &ClientSetup,
    ) -> Result<ConnId, ConnectError> {
        self.now = now;
        self.refill_ids();
        if self.conns.len() >= self.limits.connections_max as usize {
            return Err(ConnectError::TooMany);
        }
        let (handle, proto) = self
            .endpoint
            .connect(now, setup.inner.clone(), remote, server_name)
            .map_err(ConnectError::of)?;
        self.stats.connecting += 1;
        Ok(self.adopt(now, handle, proto))
    }

    /// The peer's address, which may change during the life of a connection. `None` for a stale ID.
    #[must_use]
    pub fn remote(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conns.get(conn).map(|c| match &c.life {
            Life::First(first) => first.proto.remote_address(),
            Life::Resident(record) => record.remote(),
        })
    }

    /// Whether there may be events to be polled.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !(self.ready.is_empty() && self.events.is_empty())
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_transmits(&self) -> bool {
        !(self.sending.is_empty() && self.replies.is_empty())
    }

    /// A snapshot of all gauges and counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Stats {
            connections,
            handshakes,
            connecting,
            ..
        } = self.stats;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Stats {
            lingering: count(self.conns.len())
                .saturating_sub(connections)
                .saturating_sub(handshakes)
                .saturating_sub(connecting),
            slots: count(self.conns.capacity()),
            memory_bytes: self.memory_bytes(),
            tickets_accepted_total: self.tickets.opened(),
            event_bytes: self.events.iter().map(Self::event_bytes).sum(),
            reply_bytes: self
                .replies
                .iter()
                .map(|(_, bytes)| bytes.len() as u64)
                .sum(),
            ..self.stats
        }
    }

    /// The driver tells how the socket took a transmit.
    pub(crate) fn note_sent(&mut self, sent: Sent) {
        match sent {
            Sent::Yes => {}
            Sent::Blocked => self.stats.sends_blocked_total += 1,
            Sent::Failed => self.stats.sends_failed_total += 1,
        }
    }

    fn memory_bytes(&self) -> u64 {
        let slots = (self.conns.capacity() * size_of::<Slot<Conn>>()) as u64;
        let residents = u64::from(self.stats.residents) * Record::COLD_BYTES;
        slots + residents + self.routes.memory_bytes() + self.wheel.memory_bytes()
    }

    fn event_bytes(event: &Event) -> u64 {
        match event {
            Event::Bytes { bytes, .. } => bytes.len() as u64,
            Event::Closed {
                reason: CloseReason::ByPeer { reason, .. },
                ..
            } => reason.len() as u64,
            _ => 0,
        }
    }
}

impl fmt::Debug for ShardCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardCore")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one connection costs in its slab, without what hangs off it. Raise the number only with a reason.
    #[test]
    fn a_slot_keeps_within_its_budget() {
        let bytes = size_of::<Slot<Conn>>();
        assert!(bytes <= 272, "a slot is {bytes} bytes");
    }

    #[test]
    fn a_core_can_be_made_on_one_thread_and_run_on_another() {
        fn assert_send<T: Send>() {}
        assert_send::<ShardCore>();
    }
}
