//! The applications: they send what they are asked for, and check what they hear.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use petrel_quic::{
    CloseReason, ConnId, Event, SendError,
    sim::{HostId, Sim},
};

use super::{CLIENT, SERVER};

/// What an application was told, as far as it may depend on the engine in nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Opened,
    /// So many of the right bytes.
    Heard(usize),
    /// A send was answered so.
    Gone,
    Closed(CloseReason),
}

/// One end of a line: an application, and its connection if there is one.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) conn: Option<ConnId>,
    /// Since it was last asked for.
    pub(super) told: Vec<Told>,
    /// Bytes of this connection that the application has made up, and those of them that were accepted.
    made: usize,
    accepted: usize,
    heard: usize,
    queue: VecDeque<Bytes>,
    /// A send was answered `Full`, and no `Writable` has come since.
    is_full: bool,
    pub(super) rest: Option<Rest>,
}

/// A hand-over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// Since the world began.
    pub(crate) at: Duration,
    /// Bytes of the peer were on their way.
    pub(crate) is_crossed: bool,
}

/// One client host, and its connection with the server if there is one.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) host: HostId,
    pub(super) ends: [End; 2],
}

/// All applications.
pub(super) struct Apps {
    start: Instant,
    server: HostId,
    pub(super) lines: Vec<Line>,
    line_by_conn: HashMap<ConnId, usize>,
}

impl Apps {
    pub(super) fn new(
        start: Instant,
        server: HostId,
        clients: impl Iterator<Item = HostId>,
    ) -> Self {
        let new_line = |host| Line {
            host,
            ends: Default::default(),
        };
        Self {
            start,
            server,
            lines: clients.map(new_line).collect(),
            line_by_conn: HashMap::new(),
        }
    }

    /// The server has forgotten everything.
    pub(super) fn forget_server(&mut self) {
        self.line_by_conn.clear();
        for line in &mut self.lines {
            let end = &mut line.ends[SERVER];
            *end = End {
                rest: end.rest,
                ..End::default()
            };
        }
    }

    /// Hands events to the applications, and has them send what can be sent.
    pub(super) fn pump(&mut self, sim: &mut Sim) {
        for event in sim.take_events(self.server) {
            if let Event::Opened { conn, remote } = event {
                let mut hosts = self.lines.iter().map(|line| sim.addr(line.host).ip());
                let line = hosts.position(|ip| ip == remote.ip()).unwrap();
                self.line_by_conn.insert(conn, line);
                self.lines[line].ends[SERVER].begin(conn);
            }
            let line = self.line_by_conn[&event.conn()];
            self.lines[line].ends[SERVER].hear(salt(line, CLIENT), event);
        }
        for (number, line) in self.lines.iter_mut().enumerate() {
            for event in sim.take_events(line.host) {
                line.ends[CLIENT].hear(salt(number, SERVER), event);
            }
            line.ends[CLIENT].send(sim, line.host);
            line.ends[SERVER].send(sim, self.server);
            line.note_rests(sim, self.server, self.start);
        }
    }
}

impl Line {
    /// An application makes up so many bytes more.
    pub(super) fn make(&mut self, line: usize, end: usize, bytes: usize) {
        let end_of = &mut self.ends[end];
        if end_of.conn.is_none() {
            end_of.told.push(Told::Gone);
            return;
        }
        let all = end_of.made..end_of.made + bytes;
        let bytes: Vec<u8> = all.map(|at| byte(salt(line, end), at)).collect();
        end_of.made += bytes.len();
        end_of.queue.push_back(bytes.into());
    }

    fn note_rests(&mut self, sim: &mut Sim, server: HostId, start: Instant) {
        for (end, host) in [(CLIENT, self.host), (SERVER, server)] {
            let peer_accepted = self.ends[1 - end].accepted;
            let this = &mut self.ends[end];
            if this.rest.is_none() && sim.core(host).stats().residents_total > 0 {
                this.rest = Some(Rest {
                    at: sim.now() - start,
                    is_crossed: this.heard < peer_accepted,
                });
            }
        }
    }

    /// Nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        let [client, server] = &self.ends;
        match (client.conn, server.conn) {
            (None, None) => true,
            (Some(_), Some(_)) => {
                client.queue.is_empty()
                    && server.queue.is_empty()
                    && client.accepted == server.heard
                    && server.accepted == client.heard
            }
            _ => false,
        }
    }
}

impl End {
    /// A new connection, as if there had been none before.
    pub(super) fn begin(&mut self, conn: ConnId) {
        assert_eq!(self.conn, None, "two connections at once");
        *self = Self {
            conn: Some(conn),
            told: std::mem::take(&mut self.told),
            rest: self.rest,
            ..Self::default()
        };
    }

    fn hear(&mut self, salt: usize, event: Event) {
        assert_eq!(
            Some(event.conn()),
            self.conn,
            "{event:?} of another connection"
        );
        match event {
            Event::Opened { .. } => self.told.push(Told::Opened),
            Event::Bytes { bytes, .. } => {
                let is_right = (self.heard..).zip(&bytes).all(|(i, &b)| b == byte(salt, i));
                assert!(is_right, "other bytes than those sent at {}", self.heard);
                self.heard += bytes.len();
                match self.told.last_mut() {
                    Some(Told::Heard(count)) => *count += bytes.len(),
                    _ => self.told.push(Told::Heard(bytes.len())),
                }
            }
            Event::Writable { .. } => {
                assert!(self.is_full, "Writable without Full");
                self.is_full = false;
            }
            Event::Closed { reason, .. } => {
                self.conn = None;
                self.queue.clear();
                self.told.push(Told::Closed(reason));
            }
        }
    }

    fn send(&mut self, sim: &mut Sim, host: HostId) {
        let Some(conn) = self.conn.filter(|_| !self.is_full) else {
            return;
        };
        while let Some(bytes) = self.queue.pop_front() {
            let len = bytes.len();
            match sim.core(host).send(conn, bytes) {
                Ok(()) => self.accepted += len,
                Err(SendError::Full(bytes)) => {
                    self.queue.push_front(bytes);
                    self.is_full = true;
                    return;
                }
                // Its end is about to be told.
                Err(SendError::Gone) => self.queue.clear(),
            }
        }
    }
}

fn salt(line: usize, end: usize) -> usize {
    line * 2 + end
}

/// The byte at an offset of what an end sends.
fn byte(salt: usize, offset: usize) -> u8 {
    ((offset.wrapping_mul(0x9e37_79b1) >> 13) ^ (salt * 37)) as u8
}
