//! A client and a server that were handed over at the same moment, and a network between them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{ConnectionId, Side};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    CloseReason, Limits, SendError, ShardIndex,
    cid::SharedCids,
    handover::{Handover, PeerParameters, RemoteId},
    resident::{
        Engine, Note, Place, Record,
        input::Arrival,
        output::Datagram,
        protect::{PacketStart, Secret},
    },
};

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) loss: f64,
    pub(super) duplication: f64,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
}

impl Weather {
    pub(super) const FAIR: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
    };
    pub(super) const FOUL: Self = Self {
        loss: 0.05,
        duplication: 0.02,
        delay: Duration::from_millis(50),
        jitter: Duration::from_millis(40),
    };
}

pub(super) struct End {
    pub(super) engine: Engine,
    pub(super) record: Record,
    pub(super) addr: SocketAddr,
    /// What the application got and was told.
    pub(super) received: Vec<u8>,
    pub(super) closed: Vec<CloseReason>,
    pub(super) writable: usize,
    pub(super) ended: bool,
    pub(super) ids: Vec<[u8; 8]>,
    /// What waits for room.
    backlog: Vec<u8>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    at: Instant,
    number: u64,
    to: SocketAddr,
    from: SocketAddr,
    payload: Vec<u8>,
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) weather: Weather,
    pub(super) rng: StdRng,
    flights: BinaryHeap<Reverse<Flight>>,
    flown: u64,
    /// Steps since time moved: a timer that is always due would never end.
    standstill: u32,
    /// Datagrams and bytes that each end sent.
    pub(super) sent: [(u64, u64); 2],
}

fn secret(byte: u8) -> Secret {
    Secret([byte; 32])
}

/// What is taken over after `hello` in both directions.
fn handover(is_client: bool, limits: &Limits) -> Handover {
    let (mine, theirs) = if is_client { (1, 2) } else { (2, 1) };
    let id = |owner: u8, sequence: u64| [0, owner, sequence as u8, 7, 7, 7, 7, 7];
    let peer_id = |sequence: u64| RemoteId {
        sequence,
        id: ConnectionId::new(&id(theirs, sequence)),
        token: Some([theirs * 10 + sequence as u8; 16]),
    };
    let window = u64::from(limits.receive_window_bytes);
    Handover {
        role: if is_client {
            Side::Client
        } else {
            Side::Server
        },
        tx_secret: secret(mine),
        rx_secret: secret(theirs),
        tx_header_key: secret(mine).header_key(),
        rx_header_key: secret(theirs).header_key(),
        key_phase: false,
        phase_first_number: 0,
        is_phase_acked: true,
        next_number: 9,
        largest_acked: Some(7),
        received_largest: 8,
        received_mask: 0x1ff,
        local_ids: vec![(0, id(mine, 0)), (1, id(mine, 1))],
        next_local_sequence: 2,
        remote_id: peer_id(0),
        spare_remote_id: Some(peer_id(1)),
        retire_prior_to: 0,
        send_offset: 5,
        recv_offset: 5,
        peer_max_data: window,
        peer_max_stream_data: window,
        own_max_data: window,
        own_max_stream_data: window,
        peer: PeerParameters {
            ack_delay_exponent: 3,
            max_ack_delay: Duration::from_millis(if is_client { 250 } else { 25 }),
            max_udp_payload: 1472,
            max_idle_timeout: None,
            active_connection_id_limit: 2,
        },
    }
}

impl End {
    fn new(is_client: bool, peer: SocketAddr, addr: SocketAddr, seed: u8, now: Instant) -> Self {
        let limits = Limits::default();
        let cids = SharedCids::new(ShardIndex::SINGLE, [seed + 3; 32]);
        let engine = Engine::new(&limits, cids, &[9; 64], [seed; 32], now);
        let record = Record::new(
            handover(is_client, &limits),
            Place {
                remote: peer,
                local_ip: None,
                rtt: Duration::from_millis(20),
                idle_timeout_ms: 30_000,
                now_ticks: 0,
                is_paused: false,
                wants_writable: false,
            },
        );
        Self {
            ids: record.local_ids().collect(),
            engine,
            record,
            addr,
            received: Vec::new(),
            closed: Vec::new(),
            writable: 0,
            ended: false,
            backlog: Vec::new(),
        }
    }

    fn take_notes(&mut self) {
        while let Some(note) = self.engine.notes.pop_front() {
            match note {
                Note::Bytes(bytes) => self.received.extend_from_slice(&bytes),
                Note::Writable => {
                    self.writable += 1;
                    let backlog = std::mem::take(&mut self.backlog);
                    self.write(&backlog);
                }
                Note::Closed(reason) => self.closed.push(reason),
                Note::IdAdded(id) => self.ids.push(id),
                Note::IdRemoved(id) => self.ids.retain(|known| *known != id),
                Note::TokenAdded(_) | Note::TokenRemoved(_) => {}
                Note::Ended => self.ended = true,
            }
        }
    }

    /// Sends in pieces, as far as there is room, and the rest later.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks(700);
        for chunk in chunks.by_ref() {
            if !self.backlog.is_empty() {
                self.backlog.extend_from_slice(chunk);
                continue;
            }
            match self
                .engine
                .send(&mut self.record, Bytes::copy_from_slice(chunk))
            {
                Ok(()) => {}
                Err(SendError::Full(rest)) => self.backlog.extend_from_slice(&rest),
                Err(SendError::Gone) => return,
            }
        }
    }
}

impl Pair {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        let now = Instant::now();
        let client: SocketAddr = "10.0.0.1:1000".parse().unwrap();
        let server: SocketAddr = "10.0.0.2:443".parse().unwrap();
        Self {
            now,
            ends: [
                End::new(true, server, client, 1, now),
                End::new(false, client, server, 2, now),
            ],
            weather,
            rng: StdRng::seed_from_u64(seed),
            flights: BinaryHeap::new(),
            flown: 0,
            standstill: 0,
            sent: [(0, 0); 2],
        }
    }

    /// Gives a client another address, as a NAT does or a change of network.
    pub(super) fn rebind(&mut self, addr: &str) {
        self.ends[CLIENT].addr = addr.parse().unwrap();
    }

    /// Everything that both ends have to send now.
    pub(super) fn pump(&mut self) {
        for index in [CLIENT, SERVER] {
            self.ends[index].take_notes();
            let mut out = Vec::new();
            loop {
                let end = &mut self.ends[index];
                out.clear();
                let sent = end
                    .engine
                    .poll_transmit(&mut end.record, self.now, &mut out);
                end.take_notes();
                let Some(Datagram { destination, bytes }) = sent else {
                    break;
                };
                assert_eq!(bytes, out.len());
                assert!(bytes <= 1200, "a datagram of {bytes} bytes");
                self.sent[index].0 += 1;
                self.sent[index].1 += bytes as u64;
                let from = end.addr;
                self.fly(from, destination, out.clone());
            }
        }
    }

    fn fly(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        let copies = 1 + u32::from(self.rng.random_bool(self.weather.duplication));
        for _ in 0..copies {
            if self.rng.random_bool(self.weather.loss) {
                continue;
            }
            let jitter = self.weather.jitter.mul_f64(self.rng.random::<f64>());
            self.flown += 1;
            self.flights.push(Reverse(Flight {
                at: self.now + self.weather.delay + jitter,
                number: self.flown,
                to,
                from,
                payload: payload.clone(),
            }));
        }
    }

    /// Lets one thing happen. False if nothing will, up to `end`.
    pub(super) fn step(&mut self, end: Instant) -> bool {
        self.pump();
        let arrival = self.flights.peek().map(|Reverse(flight)| flight.at);
        let timers = self
            .ends
            .iter()
            .filter(|end| !end.ended)
            .map(|end| end.engine.deadline(&end.record));
        let Some(next) = timers.chain(arrival).min().filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.standstill = if next > self.now {
            0
        } else {
            self.standstill + 1
        };
        assert!(self.standstill < 20_000, "time stands still");
        self.now = self.now.max(next);
        if arrival.is_some_and(|at| at <= self.now) {
            let Some(Reverse(flight)) = self.flights.pop() else {
                return true;
            };
            self.deliver(flight.from, flight.to, flight.payload);
        } else {
            for end in self.ends.iter_mut().filter(|end| !end.ended) {
                if end.engine.deadline(&end.record) <= self.now {
                    end.engine.handle_timeout(&mut end.record, self.now);
                    end.take_notes();
                }
            }
        }
        true
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        let Some(index) = self.ends.iter().position(|end| end.addr == to) else {
            return;
        };
        self.hand(index, from, payload);
    }

    /// Hands a datagram to one end at once.
    pub(super) fn hand(&mut self, index: usize, from: SocketAddr, mut payload: Vec<u8>) {
        let end = &mut self.ends[index];
        if end.ended {
            return;
        }
        let arrival = Arrival {
            remote: from,
            local_ip: None,
            bytes: payload.len(),
        };
        end.engine
            .handle_packet(&mut end.record, self.now, arrival, &mut payload);
        end.take_notes();
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.pump();
    }

    /// Runs until a condition holds.
    pub(super) fn run_until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) {
        let end = self.now + Duration::from_secs(600);
        loop {
            self.pump();
            if condition(self) {
                return;
            }
            let goes_on = self.step(end);
            assert!(goes_on, "nothing happens any more: {:#?}", self.summary());
        }
    }

    /// A packet with these frames, sealed as the peer of `to` would.
    pub(super) fn forge(&mut self, to: usize, frames: &[u8]) -> Vec<u8> {
        let victim = self.ends[to].record.local_id;
        let sender = &mut self.ends[1 - to].record;
        let mut out = Vec::new();
        let start = PacketStart::write(
            &mut out,
            &victim,
            sender.next_number,
            sender.cold.largest_acked,
            sender.key_phase,
        );
        sender.next_number += 1;
        out.extend_from_slice(frames);
        start.finish(&mut out, &sender.tx.key, &sender.tx.header, 0);
        out
    }

    /// Hands `to` a packet with these frames, as from its peer.
    pub(super) fn inject(&mut self, to: usize, frames: &[u8]) {
        let packet = self.forge(to, frames);
        let from = self.ends[1 - to].addr;
        self.hand(to, from, packet);
    }

    /// The transport error code with which an end closed, if it did.
    pub(super) fn violation(&self, index: usize) -> Option<u64> {
        match self.ends[index].closed.first() {
            Some(CloseReason::Transport {
                code,
                by_peer: false,
                ..
            }) => Some(*code),
            _ => None,
        }
    }

    /// For people who look at a failure.
    pub(super) fn summary(&self) -> Vec<String> {
        let of = |end: &End| {
            let active = end.record.active.as_deref();
            format!(
                "{}: received {}, closed {:?}, at {}, backlog {}, sent {:?}, window {:?}, path {:?}, old key {:?}, ack {:?}, counts {:?}",
                end.addr,
                end.received.len(),
                end.closed,
                end.record.remote(),
                end.backlog.len(),
                active.map(|a| (a.sent.len(), a.in_flight, a.probes, a.probe_count)),
                active.map(|a| (a.window, a.send.held(), a.send.has_lost())),
                active.map(|a| a.path.as_ref().map(|p| (p.previous, p.allowance()))),
                active.map(|a| a.old_key.as_ref().map(|k| (k.new_from, k.expires_at))),
                active.map(|a| (
                    a.ack_at,
                    a.final_size,
                    a.reassembly.held(),
                    a.pending.ping,
                    a.pending.challenge,
                    a.pending.credit,
                    a.pending.retire.len(),
                    a.pending.announce.len()
                )),
                end.engine.counts,
            )
        };
        self.ends.iter().map(of).collect()
    }

    /// Nothing is under way, and nothing hangs off either record.
    pub(super) fn is_at_rest(&self) -> bool {
        self.flights.is_empty() && self.ends.iter().all(|end| end.record.active.is_none())
    }
}
