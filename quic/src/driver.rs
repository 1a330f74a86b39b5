//! Joins [`ShardCore`]s with sockets and an application: one shard with a port of its own, or a group that shares one.

mod running;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tokio::sync::Notify;

use self::running::Running;
use crate::{
    ConfigError, Event, ShardConfig, ShardCore, ShardIndex, SocketBuffers, Stats,
    forward::Postbox,
    group,
    socket::{Sharing, Socket},
};

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
    /// How datagrams find their shard in a group. Default [`Steering::ByKernel`].
    pub steering: Steering,
}

/// How datagrams find their shard in a group ([`Driver::bind_group`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Steering {
    /// The kernel chooses by the connection ID, and shards hand over what it chose wrongly. Where it cannot be told to,
    /// binding logs a warning and goes on as [`ByForwarding`](Self::ByForwarding).
    #[default]
    ByKernel,
    /// The kernel chooses by addresses, and shards hand over to each other. Costs CPU for all but one of as many
    /// datagrams as there are shards: for tests and comparisons.
    ByForwarding,
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
            steering: Steering::default(),
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
    shard: ShardIndex,
    /// The way to its siblings, if it has any.
    postbox: Option<Postbox>,
    local_addr: SocketAddr,
    buffers: SocketBuffers,
    stop_timeout: Duration,
    notify: Arc<Notify>,
}

impl Driver {
    /// Binds a shard that has the port to itself. Works on any thread, with or without a runtime.
    ///
    /// # Errors
    ///
    /// See [`BindError`]. A port in use is an error even if the other process is of the same user.
    pub fn bind(addr: SocketAddr, config: &DriverConfig) -> Result<Self, BindError> {
        let io = |source| BindError::Io { addr, source };
        let socket = Socket::bind(
            addr,
            Sharing::Alone,
            config.buffers,
            config.shard.limits.udp_payload_bytes_max,
        )
        .map_err(io)?;
        Self::around(socket, config.shard.shard, addr, config)
    }

    /// Binds `shards` shards, 1 to 256, that share a port; the drivers come in the order of their numbers.
    ///
    /// Each takes its [`ShardIndex`] from its place, whatever the configuration says; the limits hold for each by
    /// itself. All of them have to run, and each has to run on a thread of its own: what arrives at one may be another's.
    /// When one stops, the others serve on, and what comes for the stopped one is dropped.
    ///
    /// A client's attempt to connect goes to the shard that its own random byte names, so connections spread evenly where
    /// `shards` divides 256 or is far below it. A peer's stateless reset (RFC 9000 §10.3) is random where others have the
    /// ID, so it may reach a shard that has not heard of the connection: its own shard then waits for the idle timeout.
    /// For clients, to whom resets matter, [`bind`](Self::bind) a port for each shard.
    ///
    /// # Errors
    ///
    /// See [`BindError`]. A port in use is an error even if the other process is of the same user and shares it.
    pub fn bind_group(
        addr: SocketAddr,
        config: &DriverConfig,
        shards: u16,
    ) -> Result<Vec<Self>, BindError> {
        // Checks the number, before anything is bound.
        ShardIndex::new(0, shards)?;
        let io = |source| BindError::Io { addr, source };
        let payload_bytes_max = config.shard.limits.udp_payload_bytes_max;
        let sockets = group::bind(
            addr,
            shards,
            config.steering,
            config.buffers,
            payload_bytes_max,
        )
        .map_err(io)?;
        let mut drivers = Vec::with_capacity(sockets.len());
        for (index, socket) in (0..=u8::MAX).zip(sockets) {
            let shard = ShardIndex::new(index, shards)?;
            drivers.push(Self::around(socket, shard, addr, config)?);
        }
        if shards > 1 {
            let wakers: Vec<_> = drivers.iter().map(|d| Arc::clone(&d.notify)).collect();
            for (driver, postbox) in drivers.iter_mut().zip(Postbox::group(wakers)) {
                driver.postbox = Some(postbox);
            }
        }
        Ok(drivers)
    }

    fn around(
        socket: Socket,
        shard: ShardIndex,
        addr: SocketAddr,
        config: &DriverConfig,
    ) -> Result<Self, BindError> {
        let io = |source| BindError::Io { addr, source };
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| {
            io(io::Error::other(
                "the operating system gives no random bytes",
            ))
        })?;
        let config_of_shard = ShardConfig {
            shard,
            ..config.shard.clone()
        };
        Ok(Self {
            core: ShardCore::new(&config_of_shard, seed, Instant::now())?,
            shard,
            postbox: None,
            local_addr: socket.local_addr().map_err(io)?,
            buffers: socket.granted().map_err(io)?,
            socket,
            stop_timeout: config.stop_timeout,
            notify: Arc::new(Notify::new()),
        })
    }

    /// The shard's number, and how many siblings there are.
    #[must_use]
    pub fn shard(&self) -> ShardIndex {
        self.shard
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
        let stop_timeout = self.stop_timeout;
        Running::new(self, app)?.run(stop_timeout).await
    }

    /// Makes the socket refuse all but every `served_every`th call to send, as a system without memory does.
    #[cfg(feature = "sim")]
    pub fn starve(&mut self, served_every: u32) {
        self.socket.stutter.served_every = served_every;
    }
}
