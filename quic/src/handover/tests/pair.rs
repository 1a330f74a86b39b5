//! A client and a server in one process, and the network between them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, RandomConnectionIdGenerator, ServerConfig, Side, StreamId,
    TransportConfig, VarInt, congestion::NewRenoConfig, crypto,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::{hkdf, hmac};

use super::tls::Tls;
use crate::{
    handover::{Handover, NotYet, Progress, SharedTap, ledger::Item, take_tap},
    sim::SERVER_NAME,
};

pub(super) const RESET_KEY: [u8; 64] = [7; 64];
pub(super) const WINDOW: u32 = 16 << 10;

const SERVER: &str = "192.0.2.1:443";
const CLIENT: &str = "192.0.2.2:1000";
const DELAY: Duration = Duration::from_millis(10);

/// The one stream.
pub(super) fn stream() -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, 0)
}

pub(super) struct End {
    side: Side,
    endpoint: Endpoint,
    pub(super) conn: Option<(ConnectionHandle, Connection)>,
    pub(super) tap: Option<SharedTap>,
    pub(super) progress: Progress,
    /// Whether what arrives is read at once.
    pub(super) is_reading: bool,
    pub(super) is_connected: bool,
    pub(super) lost: Option<ConnectionError>,
}

struct Datagram {
    at: Instant,
    from: SocketAddr,
    to: Side,
    bytes: Vec<u8>,
}

/// What a datagram holds that has to arrive: who sent it, and the items of its 1-RTT packet.
type Drops = Box<dyn FnMut(Side, &[Item]) -> bool>;

pub(super) struct Pair {
    pub(super) client: End,
    pub(super) server: End,
    pub(super) now: Instant,
    /// Where the client is.
    pub(super) client_at: SocketAddr,
    /// Says which datagrams are lost.
    pub(super) drops: Drops,
    /// Up to how much longer some datagrams take.
    pub(super) jitter: Duration,
    pub(super) duplication: f64,
    pub(super) is_retrying: bool,
    rng: StdRng,
    network: Vec<Datagram>,
    client_config: ClientConfig,
}

impl End {
    fn new(side: Side, server: Option<Arc<ServerConfig>>, seed: u8) -> Self {
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &RESET_KEY);
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        config
            .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(8)))
            .supported_versions(vec![1])
            .grease_quic_bit(false);
        Self {
            side,
            endpoint: Endpoint::new(Arc::new(config), server, false, Some([seed; 32])),
            conn: None,
            tap: None,
            progress: Progress {
                written: 0,
                read: 0,
            },
            is_reading: true,
            is_connected: false,
            lost: None,
        }
    }

    pub(super) fn conn(&mut self) -> &mut Connection {
        &mut self.conn.as_mut().unwrap().1
    }

    /// Writes to the stream, which a client opens first. All of it has to find room.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.side == Side::Client && self.progress.written == 0 {
            assert_eq!(self.conn().streams().open(Dir::Bi), Some(stream()));
        }
        let written = self.conn().send_stream(stream()).write(bytes).unwrap();
        assert_eq!(written, bytes.len());
        self.progress.written += written as u64;
    }

    pub(super) fn take(&mut self) -> Result<Handover, NotYet> {
        self.tap.as_ref().unwrap().lock().take(self.progress)
    }

    /// The reason why the connection cannot be handed over.
    pub(super) fn reason(&mut self) -> NotYet {
        self.take().err().expect("the connection is not quiet")
    }

    fn read(&mut self) {
        let Some((_, conn)) = &mut self.conn else {
            return;
        };
        let mut stream = conn.recv_stream(stream());
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.progress.read += chunk.bytes.len() as u64;
        }
        let _ = chunks.finalize();
    }

    fn events(&mut self) {
        let Some((handle, conn)) = &mut self.conn else {
            return;
        };
        while let Some(event) = conn.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                conn.handle_event(event);
            }
        }
        while let Some(event) = conn.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::Stream(_) => while conn.streams().accept(Dir::Bi).is_some() {},
                _ => {}
            }
        }
        if self.is_reading {
            self.read();
        }
    }

    pub(super) fn next_number(&self) -> u64 {
        let tap = self.tap.as_ref().map(SharedTap::lock);
        tap.and_then(|tap| tap.watch().map(|watch| watch.next_number))
            .unwrap_or(0)
    }

    /// The next datagram, and the items that its 1-RTT packet holds.
    pub(super) fn transmit(&mut self, now: Instant) -> Option<(Vec<u8>, Vec<Item>)> {
        let number = self.next_number();
        let mut bytes = Vec::new();
        self.conn
            .as_mut()?
            .1
            .poll_transmit(now, 1, &mut bytes)
            .map(|_| {
                let tap = self.tap.as_ref().map(SharedTap::lock);
                let items = tap
                    .and_then(|tap| Some(tap.watch()?.ledger().since(number)))
                    .unwrap_or_default();
                (bytes, items)
            })
    }
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(&Tls::new())
    }

    pub(super) fn with(tls: &Tls) -> Self {
        Self::with_crypto(tls.server_crypto(), tls.client_crypto())
    }

    /// Both ends, and the client's first packet on its way.
    pub(super) fn with_crypto(
        server: Arc<dyn crypto::ServerConfig>,
        client: Arc<dyn crypto::ClientConfig>,
    ) -> Self {
        let transport = |streams: u8| {
            let mut transport = TransportConfig::default();
            let mut congestion = NewRenoConfig::default();
            congestion.initial_window(1 << 20);
            transport
                .max_concurrent_bidi_streams(streams.into())
                .max_concurrent_uni_streams(0u8.into())
                .stream_receive_window(WINDOW.into())
                .receive_window(WINDOW.into())
                .max_idle_timeout(Some(Duration::from_secs(600).try_into().unwrap()))
                .datagram_receive_buffer_size(None)
                .mtu_discovery_config(None)
                .congestion_controller_factory(Arc::new(congestion));
            Arc::new(transport)
        };
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"test").extract(&[3; 64]);
        let mut server_config = ServerConfig::new(server, Arc::new(token_key));
        server_config.transport_config(transport(2)).migration(true);
        let mut client_config = ClientConfig::new(client);
        client_config.transport_config(transport(0));
        let mut pair = Self {
            client: End::new(Side::Client, None, 1),
            server: End::new(Side::Server, Some(Arc::new(server_config)), 2),
            now: Instant::now(),
            client_at: CLIENT.parse().unwrap(),
            drops: Box::new(|_, _| false),
            jitter: Duration::ZERO,
            duplication: 0.0,
            is_retrying: false,
            rng: StdRng::seed_from_u64(0),
            network: Vec::new(),
            client_config,
        };
        pair.connect();
        pair
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.rng = StdRng::seed_from_u64(seed);
    }

    /// A new connection of the same client to the same server; the old one is forgotten.
    pub(super) fn connect(&mut self) {
        let (client, server) = (&mut self.client, &mut self.server);
        for end in [&mut *client, &mut *server] {
            (end.conn, end.tap, end.is_connected, end.lost) = (None, None, false, None);
            end.progress = Progress {
                written: 0,
                read: 0,
            };
        }
        self.network.clear();
        let remote = SERVER.parse().unwrap();
        let config = self.client_config.clone();
        let conn = client
            .endpoint
            .connect(self.now, config, remote, SERVER_NAME)
            .unwrap();
        client.conn = Some(conn);
        client.tap = take_tap();
        assert!(take_tap().is_none(), "each tap is given once");
    }

    /// Connects, and lets a few bytes go each way.
    pub(super) fn open(&mut self) {
        self.run(Duration::from_secs(1));
        assert!(self.client.is_connected && self.server.is_connected);
        self.client.write(b"hello, server");
        self.run(Duration::from_secs(1));
        self.server.write(b"hello");
        self.run(Duration::from_secs(1));
        assert_eq!(self.server.progress.read, 13);
        assert_eq!(self.client.progress.read, 5);
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.send();
            let arrivals = self.network.iter().map(|datagram| datagram.at);
            let ends = [&mut self.client, &mut self.server];
            let timers = ends
                .into_iter()
                .filter_map(|end| end.conn.as_mut()?.1.poll_timeout());
            let next = arrivals.chain(timers).min().unwrap_or(until);
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            self.arrive();
            for end in [&mut self.client, &mut self.server] {
                if let Some((_, conn)) = &mut end.conn
                    && conn.poll_timeout().is_some_and(|at| at <= self.now)
                {
                    conn.handle_timeout(self.now);
                }
            }
            if next == until && self.network.is_empty() {
                self.send();
                return;
            }
        }
    }

    /// Serves events and transmits of both ends. Nothing arrives.
    pub(super) fn send(&mut self) {
        for side in [Side::Client, Side::Server] {
            let now = self.now;
            self.end(side).events();
            while let Some((bytes, items)) = self.end(side).transmit(now) {
                if (self.drops)(side, &items) {
                    continue;
                }
                let copies = if self.rng.random_bool(self.duplication) {
                    2
                } else {
                    1
                };
                for _ in 0..copies {
                    self.put(side, bytes.clone());
                }
            }
        }
    }

    /// Puts a datagram on its way.
    pub(super) fn put(&mut self, from: Side, bytes: Vec<u8>) {
        let jitter = self.jitter.mul_f64(self.rng.random::<f64>());
        self.network.push(Datagram {
            at: self.now + DELAY + jitter,
            from: match from {
                Side::Client => self.client_at,
                Side::Server => SERVER.parse().unwrap(),
            },
            to: !from,
            bytes,
        });
    }

    fn arrive(&mut self) {
        let now = self.now;
        let due = |datagram: &mut Datagram| datagram.at <= now;
        let mut arrived: Vec<_> = self.network.extract_if(.., due).collect();
        arrived.sort_by_key(|datagram| datagram.at);
        for datagram in arrived {
            self.deliver(datagram);
            self.client.events();
            self.server.events();
        }
    }

    fn deliver(&mut self, datagram: Datagram) {
        let (now, is_retrying) = (self.now, self.is_retrying);
        let end = self.end(datagram.to);
        let mut reply = Vec::new();
        let bytes = BytesMut::from(&datagram.bytes[..]);
        let event = end
            .endpoint
            .handle(now, datagram.from, None, None, bytes, &mut reply);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((ours, conn)) = &mut end.conn
                    && *ours == handle
                {
                    conn.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                if is_retrying && !incoming.remote_address_validated() {
                    let _ = end.endpoint.retry(incoming, &mut reply).unwrap();
                    self.put(datagram.to, reply);
                    return;
                }
                match end.endpoint.accept(incoming, now, &mut reply, None) {
                    Ok(conn) => {
                        end.conn = Some(conn);
                        end.tap = take_tap();
                    }
                    Err(error) => {
                        take_tap();
                        end.lost = Some(error.cause);
                        if error.response.is_some() {
                            self.put(datagram.to, reply);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    pub(super) fn close(&mut self, side: Side) {
        let now = self.now;
        self.end(side)
            .conn()
            .close(now, VarInt::from_u32(1), Bytes::new());
    }
}
