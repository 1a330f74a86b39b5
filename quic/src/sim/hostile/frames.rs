//! Fuzz target: frames of all kinds in packets that are sealed as they should be, into the resident engine.

use std::{
    cell::OnceCell,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    ServerConfig, Side, StreamId, Transmit,
};

use super::input::Input;
use crate::{
    Limits, ShardIndex,
    cid::SharedCids,
    handover::{Handover, Progress, SharedTap, take_tap},
    resident::{Arrival, Engine, Note, Place, Record},
    shard::setup,
    sim::{Identity, SERVER_NAME},
    tickets::DayTickets,
};

/// Steps of one input.
const STEPS_MAX: usize = 256;

/// Frames of one packet, in bytes.
const FRAMES_MAX: usize = 1400;

/// What the application sends at once, at the most.
const CHUNK_MAX: u64 = 16 * 256;

/// Datagrams that one step can bring about: a window full of them, and some that are not part of it.
const ANSWERS_MAX: usize = 48;

/// Timers that half a minute can hold.
const TIMERS_MAX: usize = 2000;

/// Timers that may go off before silence ends a connection.
const TIMERS_AT_THE_END: usize = 500;

struct Setup {
    identity: Identity,
    endpoint: Arc<EndpointConfig>,
    server: Arc<ServerConfig>,
    client: ClientConfig,
}

thread_local! {
    static SETUP: OnceCell<Setup> = const { OnceCell::new() };
}

/// An end that still runs on the handshake engine.
struct End {
    endpoint: Endpoint,
    conn: Option<(ConnectionHandle, Connection)>,
    tap: Option<SharedTap>,
    progress: Progress,
}

/// An end that the frames go to, and the keys of its peer.
struct Victim {
    engine: Engine,
    record: Record,
    peer: Record,
    home: SocketAddr,
    now: Instant,
    last: Vec<u8>,
    limits: Limits,
    ended: bool,
}

/// Does what `data` says, step by step. Its first byte chooses the victim's role.
///
/// # Panics
///
/// If the engine holds, says or does more than it may.
pub fn resident_frames(data: &[u8]) {
    let mut input = Input::new(data);
    let is_client = input.byte() % 2 == 1;
    let mut victim = SETUP.with(|cell| Victim::new(cell.get_or_init(Setup::new), is_client));
    for _ in 0..STEPS_MAX {
        if input.is_empty() || victim.ended {
            break;
        }
        victim.step(&mut input);
    }
    // Whatever it was, silence ends it. How soon depends on the round-trip times that the peer pretends (RFC 9000 §10.1).
    for _ in 0..TIMERS_AT_THE_END {
        if victim.ended {
            return;
        }
        let due = victim.engine.deadline(&victim.record);
        victim.run_for(due.saturating_duration_since(victim.now));
    }
    panic!("it goes on for ever: {:?}", victim.record.load());
}

impl Setup {
    fn new() -> Self {
        let mut identity = Identity::new();
        identity.limits.idle_timeout = Duration::from_secs(30);
        let config = identity.server_config();
        let cids = SharedCids::new(ShardIndex::SINGLE, [5; 32]);
        let tickets = Arc::new(DayTickets::new(&identity.keys));
        let server = config
            .server
            .as_ref()
            .expect("it is a server's configuration");
        let server = setup::server(server, &identity.keys, &identity.limits, tickets);
        Self {
            endpoint: Arc::new(setup::endpoint(&config, cids).expect("it works for others")),
            server: Arc::new(server.expect("it works for others")),
            client: identity.client_setup().inner,
            identity,
        }
    }
}

impl End {
    fn new(setup: &Setup, server: Option<Arc<ServerConfig>>, seed: u8) -> Self {
        Self {
            endpoint: Endpoint::new(Arc::clone(&setup.endpoint), server, false, Some([seed; 32])),
            conn: None,
            tap: None,
            progress: Progress {
                written: 0,
                read: 0,
            },
        }
    }

    fn adopt(&mut self, (handle, conn): (ConnectionHandle, Connection)) {
        (self.conn, self.tap) = (Some((handle, conn)), take_tap());
    }

    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let mut reply = Vec::new();
        let bytes = BytesMut::from(datagram);
        match self
            .endpoint
            .handle(now, from, None, None, bytes, &mut reply)
        {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut reply, None);
                let Ok(accepted) = accepted else {
                    panic!("the first packet is honest");
                };
                self.adopt(accepted);
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, conn)) = &mut self.conn {
                    conn.handle_event(event);
                }
            }
            _ => {}
        }
    }

    /// Speaks, listens, and gives the datagrams that are due.
    fn turn(&mut self, now: Instant, side: Side) -> Vec<Vec<u8>> {
        let Some((handle, conn)) = &mut self.conn else {
            return Vec::new();
        };
        if conn.poll_timeout().is_some_and(|at| at <= now) {
            conn.handle_timeout(now);
        }
        while let Some(event) = conn.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                conn.handle_event(event);
            }
        }
        while conn.poll().is_some() {}
        let stream = StreamId::new(Side::Client, Dir::Bi, 0);
        let is_ready = match side {
            Side::Client => conn.streams().open(Dir::Bi).is_some(),
            Side::Server => conn.streams().accept(Dir::Bi).is_some(),
        };
        if is_ready {
            let written = conn.send_stream(stream).write(b"hello");
            self.progress.written += written.map_or(0, |count| count as u64);
        }
        if let Ok(mut chunks) = conn.recv_stream(stream).read(true) {
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                self.progress.read += chunk.bytes.len() as u64;
            }
            let _ = chunks.finalize();
        }
        let mut out = Vec::new();
        let mut next = || {
            out.clear();
            let transmit: Option<Transmit> = conn.poll_transmit(now, 1, &mut out);
            transmit.map(|_| out.clone())
        };
        std::iter::from_fn(&mut next).collect()
    }

    fn take(&mut self) -> Option<Handover> {
        self.tap.as_ref()?.lock().take(self.progress).ok()
    }
}

/// A handshake, a greeting in both directions, and what the resident engine takes over at both ends.
fn hand_over(setup: &Setup, addrs: [SocketAddr; 2], mut now: Instant) -> [Handover; 2] {
    let [client_at, server_at] = addrs;
    let mut client = End::new(setup, None, 1);
    let mut server = End::new(setup, Some(Arc::clone(&setup.server)), 2);
    let begun = client
        .endpoint
        .connect(now, setup.client.clone(), server_at, SERVER_NAME);
    client.adopt(begun.expect("address and name are valid"));
    let mut taken = [None, None];
    for _ in 0..1000 {
        for datagram in client.turn(now, Side::Client) {
            server.handle(now, client_at, &datagram);
        }
        for datagram in server.turn(now, Side::Server) {
            client.handle(now, server_at, &datagram);
        }
        now += Duration::from_millis(10);
        // Both at one moment, or one would go on speaking.
        if client.progress.read == 5 && server.progress.read == 5 {
            taken[0] = taken[0].take().or_else(|| client.take());
            taken[1] = taken[1].take().or_else(|| server.take());
            if let [Some(client), Some(server)] = taken {
                return [client, server];
            }
        }
    }
    panic!("a quiet connection is not handed over");
}

impl Victim {
    fn new(setup: &Setup, is_client: bool) -> Self {
        let now = Instant::now();
        let addrs = [([10, 0, 0, 2], 1000).into(), ([10, 0, 0, 1], 443).into()];
        let limits = setup.identity.limits.clone();
        let cids = SharedCids::new(ShardIndex::SINGLE, [6; 32]);
        let reset_key = setup.identity.keys.reset();
        let engine = Engine::new(&limits, cids, reset_key, [7; 32], now);
        let record = |taken, remote| {
            let place = Place {
                remote,
                local_ip: None,
                rtt: Duration::from_millis(20),
                idle_timeout_ms: 30_000,
                now_ticks: 0,
                is_paused: false,
                wants_writable: false,
            };
            Record::new(taken, place)
        };
        let [client, server] = hand_over(setup, addrs, now);
        let (client, server) = (record(client, addrs[1]), record(server, addrs[0]));
        let (record, peer, home) = if is_client {
            (client, server, addrs[1])
        } else {
            (server, client, addrs[0])
        };
        Self {
            engine,
            record,
            peer,
            home,
            now,
            last: Vec::new(),
            limits,
            ended: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        match kind % 8 {
            0..=2 => {
                let packet = self.peer.forge(input.bytes(FRAMES_MAX));
                self.hand(self.home, packet);
            }
            3 => {
                let from = ([192, 0, 2, 1], u16::from(input.byte())).into();
                let packet = self.peer.forge(input.bytes(FRAMES_MAX));
                self.hand(from, packet);
            }
            4 => {
                let chunk = Bytes::from(vec![7; 16 * usize::from(input.byte())]);
                // If there is no room, it is not sent.
                let _ = self.engine.send(&mut self.record, chunk);
            }
            5 => self.run_for(input.pause()),
            6 => {
                let is_paused = input.byte() % 2 == 1;
                self.engine.pause_reading(&mut self.record, is_paused);
            }
            _ if kind & 0x80 == 0 => self.peer.forge_key_update(),
            _ => self.hand(self.home, self.last.clone()),
        }
        self.settle();
    }

    fn hand(&mut self, from: SocketAddr, mut packet: Vec<u8>) {
        self.last.clone_from(&packet);
        if packet.is_empty() {
            return;
        }
        let arrival = Arrival {
            remote: from,
            local_ip: None,
            bytes: packet.len(),
        };
        self.engine
            .handle_packet(&mut self.record, self.now, arrival, &mut packet);
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..TIMERS_MAX {
            self.settle();
            let due = self.engine.deadline(&self.record);
            if self.ended || due > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(due);
            self.engine.handle_timeout(&mut self.record, self.now);
        }
        panic!("timers without end: {:?}", self.record.load());
    }

    /// Takes what the victim has to say, and looks at what it holds.
    fn settle(&mut self) {
        let mut out = Vec::new();
        for count in 0.. {
            self.take_notes();
            out.clear();
            let sent = self
                .engine
                .poll_transmit(&mut self.record, self.now, &mut out);
            if sent.is_none() && self.engine.notes.is_empty() {
                break;
            }
            assert!(out.len() <= 1200, "a datagram of {} bytes", out.len());
            assert!(count < ANSWERS_MAX, "{count} answers at once");
        }
        self.record.load().assert_bounded(&self.limits, CHUNK_MAX);
    }

    fn take_notes(&mut self) {
        while let Some(note) = self.engine.notes.pop_front() {
            match note {
                Note::Bytes(bytes) => assert!(!bytes.is_empty()),
                Note::Ended => self.ended = true,
                _ => {}
            }
        }
    }
}
