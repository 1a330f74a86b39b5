//! The clients: connections of this crate's client role on many sockets, all on one thread.
//!
//! The thread can be held, so that the server is measured while nobody answers. What comes meanwhile waits in the
//! sockets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use petrel_quic::{
    App, ClientSetup, Driver, DriverConfig, Engine, Event, Limits, ShardConfig, ShardCore,
    ShardIndex, SocketBuffers, TransportKeys, Turn, Waker,
};
use rustls::{RootCertStore, client::Resumption, pki_types::CertificateDer};

use crate::wire::{self, Kind};

/// Enough that what the kernel joins or splits for one pair of sockets does not flatter the figures.
const SOCKETS: u32 = 64;

/// Handshakes in progress on each socket.
const HANDSHAKES_MAX: u32 = 1;

/// Between two looks at a count.
const LOOK: Duration = Duration::from_micros(200);

/// What the thread of the clients and its owner share.
struct Shared {
    server: SocketAddr,
    setup: ClientSetup,
    /// How many connections there shall be.
    wanted: AtomicU32,
    /// How many got the answer to their greeting.
    greeted: AtomicU32,
    /// Bytes of deliveries.
    heard_bytes: AtomicU64,
    /// A connection was lost, or could not be made.
    is_broken: AtomicBool,
    is_over: AtomicBool,
    is_held: Mutex<bool>,
    released: Condvar,
}

impl Shared {
    fn hold(&self, held: bool) {
        *self.is_held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.released.notify_all();
    }

    /// Waits while the clients are held.
    fn pass(&self) {
        let held = self.is_held.lock().unwrap_or_else(PoisonError::into_inner);
        let released = self.released.wait_while(held, |held| *held);
        drop(released);
    }
}

/// All clients of a server.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    wakers: Vec<Waker>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Clients {
    /// Makes sockets, and no connection yet.
    pub(crate) fn start(server: SocketAddr, certificate: CertificateDer<'static>) -> Result<Self> {
        let limits = wire::limits();
        let shared = Arc::new(Shared {
            server,
            setup: setup(certificate, &limits)?,
            wanted: AtomicU32::new(0),
            greeted: AtomicU32::new(0),
            heard_bytes: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_held: Mutex::new(false),
            released: Condvar::new(),
        });
        let mut config = DriverConfig::new(ShardConfig {
            server: None,
            keys: Arc::new(TransportKeys::generate()),
            limits,
            shard: ShardIndex::SINGLE,
            engine: Engine::Resident,
        });
        config.buffers = SocketBuffers {
            receive_bytes: 1 << 20,
            send_bytes: 1 << 20,
        };
        let drivers = (0..SOCKETS)
            .map(|_| Driver::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &config))
            .collect::<Result<Vec<_>, _>>()?;
        let wakers = drivers.iter().map(Driver::waker).collect();
        let clients = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || run(drivers, &clients))?;
        Ok(Self {
            shared,
            wakers,
            thread: Some(thread),
        })
    }

    /// Makes connections until there are so many, and the server has answered each.
    pub(crate) fn connect(&self, count: u32, patience: Duration) -> Result<()> {
        self.shared.wanted.store(count, SeqCst);
        self.wake();
        self.wait(patience, || self.shared.greeted.load(SeqCst) >= count)
            .context("connecting")
    }

    /// Lets nobody receive or answer, until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.shared.hold(true);
    }

    pub(crate) fn release(&self) {
        self.shared.hold(false);
    }

    /// Bytes of deliveries so far.
    pub(crate) fn heard_bytes(&self) -> u64 {
        self.shared.heard_bytes.load(SeqCst)
    }

    /// Waits until the clients have heard so many bytes.
    pub(crate) fn hear(&self, bytes: u64, patience: Duration) -> Result<()> {
        self.wait(patience, || self.heard_bytes() >= bytes)
            .context("hearing a broadcast")
    }

    fn wait(&self, patience: Duration, is_done: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !is_done() {
            if self.shared.is_broken.load(SeqCst) {
                bail!("a connection was lost");
            }
            if Instant::now() > deadline {
                bail!("not done within {patience:?}");
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn wake(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
        self.release();
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// No tickets: every handshake is a full one.
fn setup(certificate: CertificateDer<'static>, limits: &Limits) -> Result<ClientSetup> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    tls.resumption = Resumption::disabled();
    Ok(ClientSetup::new(Arc::new(tls), limits)?)
}

/// Serves all sockets on this thread.
fn run(drivers: Vec<Driver>, shared: &Arc<Shared>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut sockets = tokio::task::JoinSet::new();
        for (first, driver) in (0..).zip(drivers) {
            sockets.spawn(driver.run(Client {
                shared: Arc::clone(shared),
                first,
                begun: 0,
                greeted: 0,
                greeting: Kind::Greeting.message(),
                ack: Kind::Ack.message(),
            }));
        }
        while let Some(ended) = sockets.join_next().await {
            if ended?.is_err() {
                shared.is_broken.store(true, SeqCst);
            }
        }
        Ok(())
    })
}

/// The clients of one socket: of all clients, every [`SOCKETS`]th from `first` on.
struct Client {
    shared: Arc<Shared>,
    first: u32,
    begun: u32,
    greeted: u32,
    greeting: Bytes,
    ack: Bytes,
}

impl Client {
    fn hear(&mut self, message: &[u8]) -> Option<Bytes> {
        match Kind::of(message)? {
            Kind::Greeting => {
                self.greeted += 1;
                self.shared.greeted.fetch_add(1, SeqCst);
                None
            }
            kind => {
                self.shared
                    .heard_bytes
                    .fetch_add(message.len() as u64, SeqCst);
                (kind == Kind::Answered).then(|| self.ack.clone())
            }
        }
    }

    fn is_short(&self) -> bool {
        let wanted = self.shared.wanted.load(SeqCst);
        self.begun < wanted.saturating_sub(self.first).div_ceil(SOCKETS)
    }
}

impl App for Client {
    fn handle_event(&mut self, core: &mut ShardCore, _: Instant, event: Event) {
        self.shared.pass();
        let (conn, answer) = match event {
            Event::Opened { conn, .. } => (conn, Some(self.greeting.clone())),
            Event::Bytes { conn, bytes } => (conn, self.hear(&bytes)),
            Event::Writable { .. } => return,
            Event::Closed { .. } => {
                self.shared.is_broken.store(true, SeqCst);
                return;
            }
        };
        if let Some(answer) = answer
            && core.send(conn, answer).is_err()
        {
            self.shared.is_broken.store(true, SeqCst);
        }
    }

    fn handle_turn(&mut self, core: &mut ShardCore, now: Instant) -> Turn {
        self.shared.pass();
        if self.shared.is_over.load(SeqCst) {
            return Turn::Stop;
        }
        while self.is_short() && self.begun - self.greeted < HANDSHAKES_MAX {
            let Shared { server, setup, .. } = &*self.shared;
            if core
                .connect(now, *server, wire::SERVER_NAME, setup)
                .is_err()
            {
                self.shared.is_broken.store(true, SeqCst);
                break;
            }
            self.begun += 1;
        }
        Turn::Idle
    }
}
