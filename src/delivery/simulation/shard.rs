//! A shard without sockets: the calls that `src/shard` makes, in the order in which it makes them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use petrel_core::{Push, Route};
use petrel_protocol::{MessageId, Ordinal, Urgency};
use petrel_quic::ConnId;

use super::session::{Session, offer};
use crate::delivery::{Broadcast, Command, Delivery, Granted, Pending, Refusal, Wants};
use crate::directory::Device;
use crate::fanout::Sequencer;
use crate::presence::{Place, ShardId};

/// What the shard tells the world's devices besides frames.
pub(super) enum Told {
    Registered(usize, Device),
    Answered(usize, u32, Result<Granted, Refusal>),
}

pub(super) struct Shard {
    id: ShardId,
    delivery: Arc<Delivery>,
    sequencer: Arc<Sequencer>,
    pub(super) sessions: Vec<Option<Session>>,
    generations: Vec<u32>,
    pub(super) walks: VecDeque<(Arc<Broadcast>, usize, u64)>,
    pub(super) kept_acks: VecDeque<(Ordinal, MessageId, Option<Route>)>,
    pub(super) rescans: Vec<ConnId>,
    pub(super) told: Vec<Told>,
    pub(super) now: Instant,
}

impl Shard {
    pub(super) fn new(id: u8, delivery: &Arc<Delivery>, sequencer: &Arc<Sequencer>) -> Self {
        Self {
            id: ShardId(id),
            delivery: Arc::clone(delivery),
            sequencer: Arc::clone(sequencer),
            sessions: Vec::new(),
            generations: Vec::new(),
            walks: VecDeque::new(),
            kept_acks: VecDeque::new(),
            rescans: Vec::new(),
            told: Vec::new(),
            now: Instant::now(),
        }
    }

    pub(super) fn place(&self, conn: ConnId) -> Place {
        Place {
            shard: self.id,
            conn,
        }
    }

    pub(super) fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        let session = self.sessions.get_mut(conn.slot as usize)?.as_mut();
        session.filter(|s| s.conn == conn)
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.walks.is_empty()
            && self.kept_acks.is_empty()
            && self.rescans.is_empty()
            && self
                .sessions
                .iter()
                .flatten()
                .all(|s| s.outbox.is_idle() || !s.is_open)
    }

    pub(super) fn open(&mut self, owner: usize, minimum_urgency: Urgency) -> ConnId {
        let vacant = self.sessions.iter().position(Option::is_none);
        let slot = vacant.unwrap_or(self.sessions.len());
        if slot == self.sessions.len() {
            self.sessions.push(None);
            self.generations.push(0);
        }
        self.generations[slot] += 1;
        let conn = ConnId {
            slot: u32::try_from(slot).unwrap(),
            generation: self.generations[slot],
        };
        self.sessions[slot] = Some(Session::new(conn, owner, minimum_urgency, self.now));
        conn
    }

    /// Presence first. The scan is a step of its own: others act in between.
    pub(super) fn attach(&mut self, conn: ConnId, device: Device) {
        self.delivery.attach(device.ordinal, self.place(conn));
        self.session(conn).unwrap().device = Some(device);
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        self.leave(conn);
        self.sessions[conn.slot as usize] = None;
    }

    fn leave(&mut self, conn: ConnId) {
        let place = self.place(conn);
        let delivery = Arc::clone(&self.delivery);
        let session = self.session(conn).unwrap();
        session.is_open = false;
        if let Some(device) = session.device {
            delivery.detach(device.ordinal, place);
        }
        let transient = session.outbox.take_transient();
        if transient > 0 {
            delivery.transient_lost(transient);
        }
    }

    /// The process is gone. All that is left to do is to leave presence empty for the next one.
    pub(super) fn vanish(&self) {
        for session in self.sessions.iter().flatten() {
            if let Some(device) = session.device {
                self.delivery
                    .presence()
                    .detach(device.ordinal, self.place(session.conn));
            }
        }
    }

    /// An ack arrives, maybe on a session that has ended and is not closed yet.
    pub(super) fn ack(&mut self, conn: ConnId, id: MessageId) {
        let now = self.now;
        let Some(session) = self.session(conn) else {
            return;
        };
        session.outbox.heard(now);
        let Some(device) = session.device else {
            return;
        };
        let route = session.outbox.ack(id).map(|acked| acked.route);
        let acked = self.delivery.ack(device.ordinal, id, route);
        if acked.is_err() {
            self.kept_acks.push_back((device.ordinal, id, route));
        }
    }

    pub(super) fn scan(&mut self, conn: ConnId) {
        if !self.kept_acks.is_empty() {
            // The store would find again what an ack that is kept here has settled.
            self.rescans.push(conn);
            return;
        }
        let window = self.delivery.settings().window;
        let (now, place) = (self.now, self.place(conn));
        let delivery = Arc::clone(&self.delivery);
        let mut is_busy = false;
        if let Some(session) = self.session(conn)
            && let Some(device) = session.attached()
        {
            while let Some(limit) = session.outbox.poll_scan(window, now) {
                session.asked_at = delivery.now();
                let wants = Wants {
                    device,
                    minimum_urgency: session.minimum_urgency,
                    limit,
                };
                match delivery.scan(wants, place) {
                    Ok(Some(batch)) => offer(session, batch, &delivery, now),
                    Ok(None) => break,
                    Err(_busy) => {
                        session.outbox.finish_scan(false);
                        is_busy = true;
                        break;
                    }
                }
            }
        }
        if is_busy {
            self.rescans.push(conn);
        }
    }

    pub(super) fn retry(&mut self) {
        while let Some(&(device, id, route)) = self.kept_acks.front() {
            if self.delivery.ack(device, id, route).is_err() {
                return;
            }
            self.kept_acks.pop_front();
        }
        for conn in std::mem::take(&mut self.rescans) {
            self.scan(conn);
        }
    }

    /// Takes and performs up to `most` commands and all nudges; whether there was anything.
    pub(super) fn handle_mailbox(&mut self, most: usize) -> bool {
        let mut commands = Vec::new();
        let mailbox = Arc::clone(&self.delivery.mailboxes()[usize::from(self.id.0)]);
        let nudged = mailbox.take(most, &mut commands);
        let did = !commands.is_empty() || !nudged.is_empty();
        for command in commands {
            self.perform(command);
        }
        for device in nudged {
            let place = self.delivery.presence().find(Ordinal(device));
            if let Some(place) = place.filter(|place| place.shard == self.id)
                && let Some(session) = self.session(place.conn)
            {
                session.outbox.mark();
                self.scan(place.conn);
            }
        }
        did
    }

    fn perform(&mut self, command: Command) {
        let (now, delivery) = (self.now, Arc::clone(&self.delivery));
        match command {
            Command::Push { conn, pending } => self.push(conn, &pending),
            Command::Scanned {
                conn,
                device,
                batch,
            } => {
                let Some(session) = self.session(conn) else {
                    return;
                };
                if session.device.is_none_or(|d| d.ordinal != device) {
                    return;
                }
                match batch {
                    Some(batch) => {
                        offer(session, batch, &delivery, now);
                        self.scan(conn);
                    }
                    None => {
                        session.outbox.finish_scan(false);
                        self.rescans.push(conn);
                    }
                }
            }
            Command::Registered { conn, result } => {
                let Some(session) = self.session(conn) else {
                    return;
                };
                let owner = session.owner;
                if let Ok(device) = result {
                    self.attach(conn, device);
                    self.scan(conn);
                    self.told.push(Told::Registered(owner, device));
                }
            }
            Command::Answered {
                conn,
                number,
                result,
            } => {
                let Some(session) = self.session(conn) else {
                    return;
                };
                let owner = session.owner;
                if result == Ok(Granted::Unregistered) {
                    self.leave(conn);
                }
                self.told.push(Told::Answered(owner, number, result));
            }
            Command::End { conn, .. } => {
                if self.session(conn).is_some() {
                    self.leave(conn);
                }
            }
            Command::Walk(broadcast) => self.walks.push_back((broadcast, 0, 0)),
            Command::Drain { .. } => panic!("nobody asked for a drain"),
        }
    }

    fn push(&mut self, conn: ConnId, pending: &Pending) {
        let now = self.now;
        let window = self.delivery.settings().window;
        let is_transient = pending.message.is_now_or_never(pending.platform);
        let route = if is_transient {
            Route::Transient
        } else {
            Route::Queue
        };
        let options = pending.message.options(pending.platform);
        let mut pushed = None;
        if let Some(session) = self.session(conn)
            && session
                .attached()
                .is_some_and(|d| d.ordinal == pending.device)
            && options.urgency >= session.minimum_urgency
        {
            let frame = pending.message.frame(pending.platform);
            let (id, bytes) = (pending.message.id, u32::try_from(frame.len()).unwrap());
            let push = session.outbox.push(id, route, bytes, window, now);
            if push == Push::Send {
                session.send(id, frame);
            }
            pushed = Some(push);
        }
        if pushed == Some(Push::Later) {
            self.scan(conn);
        }
        match (is_transient, pushed) {
            (true, Some(Push::Send)) => self.delivery.transient_sent(pending),
            (true, _) => self.delivery.transient_impossible(pending),
            (false, _) => {}
        }
    }

    /// Walks the oldest broadcast over some slots; whether there was one.
    pub(super) fn walk(&mut self, slots: usize) -> bool {
        let Some((broadcast, mut next, mut sent)) = self.walks.pop_front() else {
            return false;
        };
        for _ in 0..slots.min(self.sessions.len().saturating_sub(next)) {
            let conn = self.sessions[next].as_ref().map(|s| s.conn);
            next += 1;
            sent += u64::from(conn.is_some_and(|conn| self.walk_to(conn, &broadcast)));
        }
        if next < self.sessions.len() {
            self.walks.push_front((broadcast, next, sent));
        } else {
            self.delivery.walked(&broadcast, sent);
            self.sequencer.finished(self.id);
        }
        true
    }

    fn walk_to(&mut self, conn: ConnId, broadcast: &Broadcast) -> bool {
        let (now, delivery) = (self.now, Arc::clone(&self.delivery));
        let session = self.session(conn).unwrap();
        let Some(device) = session.attached() else {
            return false;
        };
        let message = &broadcast.message;
        let is_wanted = message.options(device.platform).urgency >= session.minimum_urgency;
        if !broadcast.is_owed_to(device.ordinal) || !is_wanted {
            return false;
        }
        let is_now_or_never = message.is_now_or_never(device.platform);
        if !is_now_or_never && message.is_expired(device.platform, delivery.now()) {
            delivery.expire_for(broadcast, device.ordinal);
            return false;
        }
        let route = if broadcast.is_transient() {
            Route::TransientBroadcast
        } else {
            Route::Broadcast
        };
        if broadcast.is_transient() && !broadcast.take(device.ordinal) {
            return false;
        }
        let frame = message.frame(device.platform);
        let bytes = u32::try_from(frame.len()).unwrap();
        let window = delivery.settings().window;
        match session.outbox.push(message.id, route, bytes, window, now) {
            Push::Send => {
                session.send(message.id, frame);
                true
            }
            Push::Known => false,
            Push::Later => {
                self.scan(conn);
                false
            }
        }
    }
}
