//! Shards on threads that echo what they hear, and clients of another make.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its own part of this, and a test fails by panicking"
)]

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use petrel_quic::{
    App, ConnId, Driver, DriverConfig, Event, SendError, ShardCore, Stats, Turn, Waker,
    sim::{Identity, SERVER_NAME},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream};

pub(crate) const LOCALHOST: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Sends back what it hears until it is told to stop; remembers how connections ended.
#[derive(Default)]
struct Echo {
    outbox: HashMap<ConnId, VecDeque<Bytes>>,
    ended: Vec<String>,
    stop: Arc<AtomicBool>,
}

impl Echo {
    fn send(&mut self, core: &mut ShardCore, conn: ConnId) {
        let Some(queue) = self.outbox.get_mut(&conn) else {
            return;
        };
        while let Some(bytes) = queue.pop_front() {
            if let Err(SendError::Full(bytes)) = core.send(conn, bytes) {
                queue.push_front(bytes);
                return;
            }
        }
    }
}

impl App for Echo {
    fn handle_event(&mut self, core: &mut ShardCore, _: Instant, event: Event) {
        match event {
            Event::Opened { conn, .. } => {
                self.outbox.insert(conn, VecDeque::new());
            }
            Event::Bytes { conn, bytes } => {
                self.outbox.entry(conn).or_default().push_back(bytes);
                self.send(core, conn);
            }
            Event::Writable { conn } => self.send(core, conn),
            Event::Closed { conn, reason } => {
                self.outbox.remove(&conn);
                self.ended.push(reason.to_string());
            }
        }
    }

    fn handle_turn(&mut self, core: &mut ShardCore, _: Instant) -> Turn {
        if !self.stop.load(Ordering::Acquire) {
            return Turn::Idle;
        }
        if self.outbox.is_empty() {
            return Turn::Stop;
        }
        // Their ends come as events before the next turn.
        for conn in self.outbox.keys() {
            core.close(*conn, 0, b"");
        }
        Turn::Busy
    }
}

type Ended = (Stats, Vec<String>);

struct Server {
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Ended>>,
}

impl Server {
    fn start(driver: Driver) -> Self {
        let (waker, echo) = (driver.waker(), Echo::default());
        let stop = Arc::clone(&echo.stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (echo, stats) = runtime.block_on(driver.run(echo))?;
            Ok((stats, echo.ended))
        });
        Self {
            waker,
            stop,
            thread,
        }
    }

    fn stop(self) -> Ended {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        self.thread.join().unwrap().unwrap()
    }
}

/// A group of shards, each on a thread of its own.
pub(crate) struct Servers {
    pub(crate) identity: Identity,
    pub(crate) addr: SocketAddr,
    shards: Vec<Server>,
}

impl Servers {
    pub(crate) fn start(shards: u16, edit: impl FnOnce(&mut DriverConfig)) -> Self {
        Self::start_with(shards, edit, |_| {})
    }

    pub(crate) fn start_with(
        shards: u16,
        edit: impl FnOnce(&mut DriverConfig),
        prepare: impl Fn(&mut Driver),
    ) -> Self {
        let identity = Identity::new();
        let mut config = DriverConfig::new(identity.server_config());
        edit(&mut config);
        let mut drivers = Driver::bind_group(LOCALHOST, &config, shards).unwrap();
        drivers.iter_mut().for_each(prepare);
        Self {
            identity,
            addr: drivers[0].local_addr(),
            shards: drivers.into_iter().map(Server::start).collect(),
        }
    }

    /// Stops one shard: its statistics, and how its connections ended.
    pub(crate) fn stop_one(&mut self, index: usize) -> Ended {
        self.shards.remove(index).stop()
    }

    /// Stops all: the statistics of each, and how all connections ended.
    pub(crate) fn stop(self) -> (Vec<Stats>, Vec<String>) {
        let (stats, ended): (Vec<_>, Vec<_>) = self.shards.into_iter().map(Server::stop).unzip();
        (stats, ended.concat())
    }
}

/// Runs a client's side, but not for ever.
pub(crate) fn client<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .unwrap()
    })
}

/// A connection of quinn's from a socket of its own, with its stream: the first five bytes went both ways.
pub(crate) async fn connect(
    identity: &Identity,
    addr: SocketAddr,
) -> (Endpoint, Connection, SendStream, RecvStream) {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(identity.client_tls()).unwrap();
    let endpoint = Endpoint::client(LOCALHOST).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connection = endpoint
        .connect_with(config, addr, SERVER_NAME)
        .unwrap()
        .await
        .unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    recv.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
    (endpoint, connection, send, recv)
}
