//! The sessions of one shard: what joins connections, the protocol and `delivery`.
//!
//! What it is: the application on a `petrel_quic` driver. It owns the sessions of its devices, feeds what they send to
//! their protocol machines, sends what their outboxes let through, and works off its mailbox in bounded turns.
//!
//! What it never does: decide what is owed or dropped, touch the store, block, or know of HTTP.

mod admission;
mod commands;
mod drain;
mod session;
mod stats;
mod walk;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_core::{InFlight, Route};
use petrel_protocol::session::{BrokerEvent, BrokerSession};
use petrel_protocol::{ErrorCode, MessageId, Ordinal};
use petrel_quic::{App, ConnId, Event, Pace, SendError, ShardCore, Turn};

pub use self::stats::{ShardStats, SharedStats};

use self::drain::Drain;
use self::session::Session;
use self::walk::Walk;
use crate::delivery::{Batch, Command, Delivery};
use crate::fanout::Sequencer;
use crate::presence::{Mailbox, Place, ShardId};
use crate::telemetry::{self, Metric};

/// Commands taken from the mailbox in one turn.
const COMMANDS_PER_TURN: usize = 512;

/// How long a device has to close after it was told why, before the broker closes (PROTO-10).
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// How long to wait before the store is asked again after it took no more operations.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Most acks kept while the store takes no more operations; further ones are dropped, which costs a redelivery that
/// the SDK drops by its id.
const ACKS_KEPT_MAX: usize = 65_536;

/// Most acks in one session for what is not in flight there; further ones are ignored. An earlier session leaves at most
/// a window of them behind.
const STRANGE_ACKS_MAX: u16 = 4096;

/// Most requests of one session that wait for their answer; further ones are refused.
const REQUESTS_MAX: u16 = 64;

/// A device's cursor moves on after this many acks at the earliest: it is a hint, not worth a frame for each message.
const ACKS_PER_SETTLED: u16 = 64;

/// Bytes of frames that a session may have unsent before nothing more is read from its device.
const UNSENT_BYTES_PAUSE: usize = 64 * 1024;

/// What a shard is told by the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ShardSettings {
    /// How long a connection may take to say who it is (PROTO-12).
    pub hello_timeout: Duration,
    /// How long a device may stay silent, as told in `Welcome`.
    pub keep_alive: Duration,
}

/// One shard. Runs on a driver of `petrel_quic`.
pub struct Shard {
    id: ShardId,
    settings: ShardSettings,
    delivery: Arc<Delivery>,
    sequencer: Arc<Sequencer>,
    mailbox: Arc<Mailbox<Command>>,
    stats: SharedStats,
    /// By slot of the connection.
    sessions: Vec<Option<Box<Session>>>,
    session_count: usize,
    /// Sum over all sessions.
    unsent_bytes: usize,
    /// When the statistics have to be published, if anything happened since they were.
    stats_at: Option<Instant>,
    commands: Vec<Command>,
    walks: VecDeque<Walk>,
    pace: Pace,
    /// The oldest walk waits for answers.
    is_paced: bool,
    /// Both in the order of their deadlines, because each has one duration.
    openings: VecDeque<(Instant, ConnId)>,
    closings: VecDeque<(Instant, ConnId)>,
    /// Acks and scans that the store had no room for.
    kept_acks: VecDeque<(Ordinal, MessageId, Option<Route>)>,
    rescans: Vec<ConnId>,
    retry_at: Option<Instant>,
    drain: Option<Drain>,
}

impl Shard {
    /// A shard without sessions.
    ///
    /// # Panics
    /// If there is no mailbox of that number.
    #[must_use]
    pub fn new(
        id: ShardId,
        settings: ShardSettings,
        delivery: Arc<Delivery>,
        sequencer: Arc<Sequencer>,
        stats: SharedStats,
        pace: Pace,
    ) -> Self {
        let mailbox = Arc::clone(&delivery.mailboxes()[usize::from(id.0)]);
        Self {
            id,
            settings,
            delivery,
            sequencer,
            mailbox,
            stats,
            sessions: Vec::new(),
            session_count: 0,
            unsent_bytes: 0,
            stats_at: None,
            commands: Vec::new(),
            walks: VecDeque::new(),
            pace,
            is_paced: false,
            openings: VecDeque::new(),
            closings: VecDeque::new(),
            kept_acks: VecDeque::new(),
            rescans: Vec::new(),
            retry_at: None,
            drain: None,
        }
    }

    fn place(&self, conn: ConnId) -> Place {
        Place {
            shard: self.id,
            conn,
        }
    }

    /// Takes a session out of its slot; [`Shard::put_back`] returns it. A panic in between leaves the slot empty.
    fn take(&mut self, conn: ConnId) -> Option<Box<Session>> {
        let slot = self.sessions.get_mut(conn.slot as usize)?;
        slot.take_if(|session| session.conn == conn)
    }

    fn put_back(&mut self, session: Box<Session>) {
        let slot = session.conn.slot as usize;
        self.sessions[slot] = Some(session);
    }

    /// Does something to a session, if it is still there.
    fn with_session(
        &mut self,
        core: &mut ShardCore,
        conn: ConnId,
        act: impl FnOnce(&mut Self, &mut ShardCore, &mut Session),
    ) {
        let Some(mut session) = self.take(conn) else {
            return;
        };
        let (device, unsent_bytes) = (session.device, session.unsent_bytes);
        let acted = catch_unwind(AssertUnwindSafe(|| {
            act(self, core, &mut session);
            session
        }));
        match acted {
            Ok(session) => self.put_back(session),
            Err(_) => {
                // One device's fault must not take the others along: it is closed and counted.
                telemetry::counter(Metric::ShardPanics, 1);
                tracing::error!("a panic in handling one device closed that device");
                self.session_count -= 1;
                self.unsent_bytes = self.unsent_bytes.saturating_sub(unsent_bytes);
                if let Some(device) = device {
                    self.delivery.detach(device.ordinal, self.place(conn));
                }
                core.close(conn, ErrorCode::Internal as u32, b"internal");
            }
        }
    }

    fn opened(&mut self, conn: ConnId, now: Instant) {
        let slot = conn.slot as usize;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        self.sessions[slot] = Some(Box::new(Session::new(conn, now)));
        self.session_count += 1;
        self.openings
            .push_back((now + self.settings.hello_timeout, conn));
    }

    fn closed(&mut self, conn: ConnId) {
        if let Some(mut session) = self.take(conn) {
            self.session_count -= 1;
            self.unsent_bytes -= session.unsent_bytes;
            self.leave(&mut session);
        }
    }

    /// The session no longer counts as attached.
    fn leave(&mut self, session: &mut Session) {
        if let Some(device) = session.device {
            self.delivery
                .detach(device.ordinal, self.place(session.conn));
        }
        let transient = session.outbox.take_transient();
        if transient > 0 {
            self.delivery.transient_lost(transient);
        }
    }

    fn handle_bytes(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        bytes: Bytes,
        now: Instant,
    ) {
        session.protocol.handle_bytes(bytes);
        session.outbox.heard(now);
        self.handle_frames(core, session, now);
        self.scan(core, session, now);
    }

    /// Works off the frames that have arrived, as far as the session's state lets them be looked at.
    fn handle_frames(&mut self, core: &mut ShardCore, session: &mut Session, now: Instant) {
        while let Some(event) = session.protocol.poll_event() {
            match event {
                BrokerEvent::Opening(opening) => self.open(core, session, opening, now),
                BrokerEvent::Request(request) => self.request(core, session, request),
                BrokerEvent::Ack { epoch, sequences } => {
                    for sequence in sequences {
                        self.ack(session, MessageId { epoch, sequence }, now);
                    }
                    self.tell_settled(core, session);
                }
                BrokerEvent::Report(report) => {
                    tracing::trace!(kind = report.kind, "a device reports");
                }
                BrokerEvent::State(change) => {
                    if let Some(minimum) = change.minimum_urgency {
                        let before = std::mem::replace(&mut session.minimum_urgency, minimum);
                        if minimum < before {
                            session.outbox.mark();
                        }
                    }
                }
                BrokerEvent::Goodbye => {
                    self.leave(session);
                    core.close(session.conn, ErrorCode::Goodbye as u32, b"goodbye");
                }
                BrokerEvent::Ignored => telemetry::counter(Metric::ShardFramesIgnored, 1),
                BrokerEvent::Fault { code, message } => {
                    self.end(core, session, code, &message, 0, now);
                }
            }
        }
    }

    fn ack(&mut self, session: &mut Session, id: MessageId, now: Instant) {
        let Some(device) = session.device else {
            return;
        };
        let route = session.outbox.ack(id).map(|acked: InFlight| acked.route);
        if route == Some(Route::Broadcast) {
            self.pace.answered();
        }
        if route.is_none() {
            // Of an earlier session, or made up: the store is asked, so not without end.
            session.strange_acks = session.strange_acks.saturating_add(1);
            if session.strange_acks > STRANGE_ACKS_MAX {
                telemetry::counter(Metric::ShardAcksDropped, 1);
                return;
            }
        }
        if self.drain.is_some() && route.is_some() && session.outbox.in_flight().next().is_none() {
            self.close_soon(session.conn, now);
        }
        session.acks_since_settled = session.acks_since_settled.saturating_add(1);
        if self.delivery.ack(device.ordinal, id, route).is_err() {
            if self.kept_acks.len() < ACKS_KEPT_MAX {
                self.kept_acks.push_back((device.ordinal, id, route));
            } else {
                telemetry::counter(Metric::ShardAcksDropped, 1);
            }
        }
    }

    /// Moves the device's cursor on, now and then, when nothing is in flight.
    fn tell_settled(&mut self, core: &mut ShardCore, session: &mut Session) {
        let Some(device) = session.attached() else {
            return;
        };
        if session.acks_since_settled < ACKS_PER_SETTLED || !session.outbox.is_idle() {
            return;
        }
        let up_to = self.delivery.settled_up_to(device.ordinal);
        if up_to > MessageId::ZERO {
            session.acks_since_settled = 0;
            self.send(core, session, BrokerSession::settled(up_to));
        }
    }

    /// Ends a session: says why, and closes once the device has had time to read it (PROTO-10).
    fn end(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        code: ErrorCode,
        message: &str,
        retry_after_ms: u64,
        now: Instant,
    ) {
        if let Some(frame) = session.protocol.end(code, message, retry_after_ms) {
            self.send(core, session, frame);
            self.leave(session);
            session.close_code = code;
            self.close_soon(session.conn, now);
        }
    }

    /// Closes the connection after the grace, unless the device does it first.
    fn close_soon(&mut self, conn: ConnId, now: Instant) {
        self.closings.push_back((now + CLOSING_GRACE, conn));
    }

    fn send(&mut self, core: &mut ShardCore, session: &mut Session, frame: Bytes) {
        let refused = if session.has_unsent() {
            Err(SendError::Full(frame))
        } else {
            core.send(session.conn, frame)
        };
        if let Err(SendError::Full(frame)) = refused {
            self.unsent_bytes += frame.len();
            session.push_unsent(frame);
        }
        if session.unsent_bytes > UNSENT_BYTES_PAUSE && !session.is_paused {
            session.is_paused = true;
            core.pause_reading(session.conn, true);
        }
    }

    fn writable(&mut self, core: &mut ShardCore, session: &mut Session) {
        while let Some(frame) = session.pop_unsent() {
            let bytes = frame.len();
            match core.send(session.conn, frame) {
                Ok(()) => self.unsent_bytes -= bytes,
                Err(SendError::Full(frame)) => {
                    session.unpop_unsent(frame);
                    break;
                }
                Err(SendError::Gone) => {
                    self.unsent_bytes -= bytes;
                    return;
                }
            }
        }
        if session.is_paused && session.unsent_bytes <= UNSENT_BYTES_PAUSE / 2 {
            session.is_paused = false;
            core.pause_reading(session.conn, false);
        }
    }

    /// Asks for what the session is owed, if it should, and sends what comes at once.
    fn scan(&mut self, core: &mut ShardCore, session: &mut Session, now: Instant) {
        let Some(device) = session.attached() else {
            return;
        };
        if !self.kept_acks.is_empty() {
            // A scan must not overtake an ack: it would find again what the device has.
            return self.keep_scan(session, now);
        }
        let window = self.delivery.settings().window;
        while let Some(limit) = session.outbox.poll_scan(window, now) {
            let wants = session.wants(device, limit);
            match self.delivery.scan(wants, self.place(session.conn)) {
                Ok(Some(batch)) => self.offer(core, session, batch, now),
                Ok(None) => return,
                Err(_busy) => {
                    session.outbox.finish_scan(false);
                    return self.keep_scan(session, now);
                }
            }
        }
    }

    /// Scans later, once for each session.
    fn keep_scan(&mut self, session: &mut Session, now: Instant) {
        if !session.is_scan_kept {
            session.is_scan_kept = true;
            self.rescans.push(session.conn);
        }
        self.retry_at.get_or_insert(now + BUSY_PAUSE);
    }

    fn offer(&mut self, core: &mut ShardCore, session: &mut Session, batch: Batch, now: Instant) {
        let window = self.delivery.settings().window;
        let device = session.attached().map(|device| device.ordinal);
        for item in batch.items {
            let bytes = u32::try_from(item.frame.len()).unwrap_or(u32::MAX);
            if session
                .outbox
                .offer(item.id, item.route, bytes, window, now)
            {
                self.send(core, session, item.frame);
                if let Some(device) = device {
                    self.delivery.sent(device, item.id, item.route);
                }
            }
        }
        session.outbox.finish_scan(batch.is_complete);
    }

    /// Brings the store what it had no room for.
    fn retry(&mut self, core: &mut ShardCore, now: Instant) {
        self.retry_at = None;
        while let Some(&(device, id, route)) = self.kept_acks.front() {
            if self.delivery.ack(device, id, route).is_err() {
                self.retry_at = Some(now + BUSY_PAUSE);
                return;
            }
            self.kept_acks.pop_front();
        }
        for conn in std::mem::take(&mut self.rescans) {
            self.with_session(core, conn, |shard, core, session| {
                session.is_scan_kept = false;
                shard.scan(core, session, now);
            });
        }
    }
}

impl App for Shard {
    fn handle_event(&mut self, core: &mut ShardCore, now: Instant, event: Event) {
        match event {
            Event::Opened { conn, .. } => self.opened(conn, now),
            Event::Bytes { conn, bytes } => {
                self.with_session(core, conn, |shard, core, session| {
                    shard.handle_bytes(core, session, bytes, now);
                })
            }
            Event::Writable { conn } => self.with_session(core, conn, |shard, core, session| {
                shard.writable(core, session);
            }),
            Event::Closed { conn, .. } => self.closed(conn),
        }
    }

    fn handle_turn(&mut self, core: &mut ShardCore, now: Instant) -> Turn {
        let took = self.handle_mailbox(core, now);
        let walks = self.walk_step(core, now);
        self.publish_stats(core, now);
        if !self.kept_acks.is_empty() {
            self.retry_at.get_or_insert(now + BUSY_PAUSE);
        }
        if self.drain.is_some() && self.is_drained(core, now) {
            return Turn::Stop;
        }
        if took == COMMANDS_PER_TURN || walks {
            Turn::Busy
        } else {
            Turn::Idle
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let opening = self.openings.front().map(|&(at, _)| at);
        let closing = self.closings.front().map(|&(at, _)| at);
        let drain = self.drain.as_ref().map(Drain::deadline);
        let paced = self.pace.resumes_at().filter(|_| self.is_paced);
        [opening, closing, self.retry_at, self.stats_at, drain, paced]
            .into_iter()
            .flatten()
            .min()
    }

    fn handle_timeout(&mut self, core: &mut ShardCore, now: Instant) {
        while let Some((_, conn)) = self.openings.pop_front_if(|(at, _)| *at <= now) {
            self.with_session(core, conn, |shard, core, session| {
                shard.opening_timed_out(core, session, now);
            });
        }
        while let Some((_, conn)) = self.closings.pop_front_if(|(at, _)| *at <= now) {
            if let Some(session) = self.take(conn) {
                let code = session.close_code;
                core.close(conn, code as u32, code.name().as_bytes());
                self.put_back(session);
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry(core, now);
        }
    }
}
