//! The loop that joins a [`ShardCore`] with a socket and an application. The only place that knows tokio.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tokio::{net::UdpSocket, sync::Notify, time::sleep_until};

use crate::{
    ConfigError, Event, ShardConfig, ShardCore, SocketBuffers, Stats, Transmit,
    socket::{Sent, Socket},
};

/// Batches fetched from the socket in one turn.
const BATCHES_PER_TURN: usize = 4;
/// Events given to the application in one turn.
const EVENTS_PER_TURN: usize = 4096;
/// Transmits in one turn.
const TRANSMITS_PER_TURN: usize = 1024;
/// Datagrams in one transmit, where the system can split them. The send window has no use for more.
const GSO_SEGMENTS_MAX: usize = 10;

/// What runs on a shard. All calls come from the driver's task; none may block.
pub trait App {
    /// Something happened to a connection.
    fn handle_event(&mut self, core: &mut ShardCore, now: Instant, event: Event);

    /// Called once each turn, after the events. A [`Waker`] leads here.
    fn handle_turn(&mut self, core: &mut ShardCore, now: Instant) -> Turn;

    /// When [`handle_timeout`](Self::handle_timeout) shall be called.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time has come.
    fn handle_timeout(&mut self, core: &mut ShardCore, now: Instant) {
        let _ = (core, now);
    }
}

/// What the application wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing until something happens.
    Idle,
    /// Another turn soon: more work waits.
    Busy,
    /// The end. What was closed is still told to the peers.
    Stop,
}

/// What a [`Driver`] is made with.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The shard.
    pub shard: ShardConfig,
    /// Socket buffers to ask for; the system may grant less. Default 4 MiB each.
    pub buffers: SocketBuffers,
    /// How long a stop may take to tell peers that they were closed. Default 2 s.
    pub stop_timeout: Duration,
}

impl DriverConfig {
    /// Defaults around a shard.
    #[must_use]
    pub fn new(shard: ShardConfig) -> Self {
        Self {
            shard,
            buffers: SocketBuffers {
                receive_bytes: 4 << 20,
                send_bytes: 4 << 20,
            },
            stop_timeout: Duration::from_secs(2),
        }
    }
}

/// Why a driver could not be made.
#[derive(Debug, Error)]
pub enum BindError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The socket could not be had; [`io::ErrorKind::AddrInUse`] if the port is taken.
    #[error("cannot bind {addr}: {source}")]
    Io {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
}

/// Wakes a sleeping driver. Cheap to clone; may be used from any thread, also outside tokio.
///
/// Many wakes before the driver looks are one. A wake is never lost: one that comes while the driver is at work leads
/// to another turn.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Notify>);

impl Waker {
    /// Makes the driver take a turn.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// A bound shard, ready to run.
pub struct Driver {
    core: ShardCore,
    socket: Socket,
    local_addr: SocketAddr,
    buffers: SocketBuffers,
    stop_timeout: Duration,
    notify: Arc<Notify>,
}

impl Driver {
    /// Binds the socket. Works on any thread, with or without a runtime.
    ///
    /// # Errors
    ///
    /// See [`BindError`]. A port in use is an error even if the other process is of the same user.
    pub fn bind(addr: SocketAddr, config: &DriverConfig) -> Result<Self, BindError> {
        let io = |source| BindError::Io { addr, source };
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| {
            io(io::Error::other(
                "the operating system gives no random bytes",
            ))
        })?;
        let core = ShardCore::new(&config.shard, seed, Instant::now())?;
        let socket = Socket::bind(
            addr,
            config.buffers,
            config.shard.limits.udp_payload_bytes_max,
        )
        .map_err(io)?;
        Ok(Self {
            core,
            local_addr: socket.local_addr().map_err(io)?,
            buffers: socket.granted().map_err(io)?,
            socket,
            stop_timeout: config.stop_timeout,
            notify: Arc::new(Notify::new()),
        })
    }

    /// The address the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The socket buffers that the system granted. Less than asked for means that `net.core.rmem_max` or `wmem_max`
    /// is in the way.
    #[must_use]
    pub fn buffers(&self) -> SocketBuffers {
        self.buffers
    }

    /// Wakes this driver from elsewhere.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.notify))
    }

    /// Runs until the application says [`Turn::Stop`], and gives it back together with the last statistics.
    ///
    /// Belongs on a tokio `current_thread` runtime with I/O and time enabled, as its only task: the loop yields after
    /// every turn but does not wait while there is work.
    ///
    /// # Errors
    ///
    /// If the socket fails for good, or the runtime lacks I/O.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops application and connections; peers are not told and learn it by a stateless reset
    /// or their idle timeout.
    pub async fn run<A: App>(self, app: A) -> io::Result<(A, Stats)> {
        let Self {
            core,
            socket,
            stop_timeout,
            notify,
            ..
        } = self;
        let mut running = Running {
            core,
            socket: socket.into_tokio()?,
            app,
            notify,
            refused: None,
            payload: Vec::new(),
        };
        loop {
            let now = Instant::now();
            let received = running.receive(now)?;
            running.fire_timers(now);
            running.give_events(now);
            let turn = running.app.handle_turn(&mut running.core, now);
            running.transmit(now);
            if turn == Turn::Stop {
                running.flush(now + stop_timeout).await?;
                let stats = running.core.stats();
                return Ok((running.app, stats));
            }
            let waiting_for_socket = running.refused.is_some();
            if turn == Turn::Busy
                || received
                || running.core.has_events()
                || (running.core.has_transmits() && !waiting_for_socket)
            {
                tokio::task::yield_now().await;
            } else {
                running.sleep().await?;
            }
        }
    }
}

struct Running<A> {
    core: ShardCore,
    socket: Socket<UdpSocket>,
    app: A,
    notify: Arc<Notify>,
    /// The transmit that the socket refused. While there is one the core is asked for no other, so one place is
    /// enough for all that can be refused.
    refused: Option<Transmit>,
    /// Payload of the transmit at hand, or of the refused one.
    payload: Vec<u8>,
}

impl<A: App> Running<A> {
    /// Fetches datagrams without asking whether there are any: on a busy shard there are.
    fn receive(&mut self, now: Instant) -> io::Result<bool> {
        let core = &mut self.core;
        let socket = &mut self.socket;
        let mut received = false;
        for _ in 0..BATCHES_PER_TURN {
            if socket.receive(|datagram| core.handle_datagram(now, datagram))? == 0 {
                break;
            }
            received = true;
        }
        Ok(received)
    }

    fn fire_timers(&mut self, now: Instant) {
        // Also when nothing is due: it sets the clock that this turn's commands start their timers by. A `close` after a
        // long sleep would else be over before it began, and the peer's answer would meet a stateless reset.
        self.core.handle_timeout(now);
        if self.app.poll_timeout().is_some_and(|at| at <= now) {
            self.app.handle_timeout(&mut self.core, now);
        }
    }

    fn give_events(&mut self, now: Instant) {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.core.poll_event() else {
                return;
            };
            self.app.handle_event(&mut self.core, now, event);
        }
    }

    fn transmit(&mut self, now: Instant) {
        let socket = &self.socket;
        if let Some(transmit) = self.refused.take() {
            let sent = socket.send(&transmit, &self.payload);
            self.core.note_sent(sent);
            if sent == Sent::Blocked {
                self.refused = Some(transmit);
                return;
            }
        }
        self.core
            .set_gso_segments_max(socket.gso_segments_max().min(GSO_SEGMENTS_MAX));
        for _ in 0..TRANSMITS_PER_TURN {
            self.payload.clear();
            let Some(transmit) = self.core.poll_transmit(now, &mut self.payload) else {
                return;
            };
            let sent = socket.send(&transmit, &self.payload);
            self.core.note_sent(sent);
            if sent == Sent::Blocked {
                self.refused = Some(transmit);
                return;
            }
        }
    }

    /// Until something comes, can be sent, is due, or somebody wakes us.
    async fn sleep(&mut self) -> io::Result<()> {
        let deadline = [self.core.poll_timeout(), self.app.poll_timeout()]
            .into_iter()
            .flatten()
            .min();
        let timer = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = self.socket.readable() => ready?,
            ready = self.socket.writable(), if self.refused.is_some() => ready?,
            () = self.notify.notified() => {}
            () = timer => {}
        }
        Ok(())
    }

    /// Sends what is left to send, at the longest until `deadline`.
    async fn flush(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.transmit(now);
            if now >= deadline || (self.refused.is_none() && !self.core.has_transmits()) {
                return Ok(());
            }
            if self.refused.is_some() {
                tokio::select! {
                    ready = self.socket.writable() => ready?,
                    () = sleep_until(deadline.into()) => {}
                }
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}
