//! The server that is made of this crate.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    time::Instant,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use petrel_quic::{
    App, ConnId, Driver, DriverConfig, Engine, Event, ServerSetup, ShardConfig, ShardCore,
    ShardIndex, TransportKeys, Turn,
};
use rustls::{
    crypto::ring::sign::any_supported_type,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::wire::{self, Kind, Order, SENDS_PER_STEP};

/// Serves until standard input ends.
pub(crate) fn run(engine: Engine) -> Result<()> {
    let (certificate, key) = wire::certificate()?;
    let certified = CertifiedKey::new(vec![certificate.clone()], any_supported_type(&key)?);
    let config = DriverConfig::new(ShardConfig {
        server: Some(ServerSetup {
            cert_resolver: Arc::new(SingleCertAndKey::from(certified)),
            alpn: vec![wire::ALPN.to_vec()],
        }),
        keys: Arc::new(TransportKeys::generate()),
        limits: wire::limits(),
        shard: ShardIndex::SINGLE,
        engine,
    });
    let driver = Driver::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &config)?;
    let (order_sender, orders) = mpsc::sync_channel(1);
    let waker = driver.waker();
    wire::listen(move |order| {
        let is_taken = order_sender.send(order).is_ok();
        waker.wake();
        is_taken
    })?;
    wire::tell(&wire::write_ready(driver.local_addr(), &certificate))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let app = Server {
        orders,
        conns: Vec::new(),
        walk: None,
        greeting: Kind::Greeting.message(),
        complaint: None,
    };
    let (app, _) = runtime.block_on(driver.run(app))?;
    app.complaint.map_or(Ok(()), Err).context("serving")
}

/// A broadcast under way.
struct Walk {
    message: Bytes,
    next: usize,
    end: usize,
}

struct Server {
    orders: mpsc::Receiver<Order>,
    /// In the order of their slots, from the first broadcast on.
    conns: Vec<ConnId>,
    walk: Option<Walk>,
    greeting: Bytes,
    /// Why it stopped before its time.
    complaint: Option<anyhow::Error>,
}

impl Server {
    fn obey(&mut self, core: &ShardCore, order: Order) -> Result<()> {
        match order {
            Order::Send { kind, first, count } => {
                self.conns.sort_unstable_by_key(|conn| conn.slot);
                self.walk = Some(Walk {
                    message: kind.message(),
                    next: first,
                    end: (first + count).min(self.conns.len()),
                });
            }
            Order::Datagrams => {
                let stats = core.stats();
                wire::tell(&wire::write_datagrams(
                    stats.datagrams_sent_total,
                    stats.datagrams_received_total,
                ))?;
            }
        }
        Ok(())
    }

    /// The next step of a broadcast. What one step sent is on its way before the next.
    fn step(&mut self, core: &mut ShardCore) -> Result<Turn> {
        let Some(walk) = &mut self.walk else {
            return Ok(Turn::Idle);
        };
        if walk.next == walk.end {
            if core.has_transmits() {
                return Ok(Turn::Busy);
            }
            wire::tell(wire::SENT)?;
            self.walk = None;
            return Ok(Turn::Idle);
        }
        let step_end = walk.end.min(walk.next + SENDS_PER_STEP);
        for &conn in &self.conns[walk.next..step_end] {
            core.send(conn, walk.message.clone())?;
        }
        walk.next = step_end;
        Ok(Turn::Busy)
    }

    fn turn(&mut self, core: &mut ShardCore) -> Result<Turn> {
        match self.orders.try_recv() {
            Ok(order) => self.obey(core, order)?,
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return Ok(Turn::Stop),
        }
        self.step(core)
    }
}

impl App for Server {
    fn handle_event(&mut self, core: &mut ShardCore, _: Instant, event: Event) {
        match event {
            Event::Opened { conn, .. } => self.conns.push(conn),
            Event::Bytes { conn, bytes } => {
                if Kind::of(&bytes) == Some(Kind::Greeting)
                    && let Err(error) = core.send(conn, self.greeting.clone())
                {
                    self.complaint = Some(error.into());
                }
            }
            Event::Writable { .. } => {}
            Event::Closed { reason, .. } => self.complaint = Some(reason.into()),
        }
    }

    fn handle_turn(&mut self, core: &mut ShardCore, _: Instant) -> Turn {
        if self.complaint.is_some() {
            return Turn::Stop;
        }
        self.turn(core).unwrap_or_else(|error| {
            self.complaint = Some(error);
            Turn::Stop
        })
    }
}
