//! The turn of a shard, over and over: receive, time, events, application, transmit, and only then perhaps sleep.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, sync::Notify, time::sleep_until};

use super::{App, Driver, Turn};
use crate::{
    ShardCore, ShardIndex, Stats,
    forward::Postbox,
    out_ring::{Flush, OutRing},
    socket::Socket,
    steering,
};

/// Batches fetched from the socket in one turn.
const BATCHES_PER_TURN: usize = 4;
/// Events given to the application in one turn.
const EVENTS_PER_TURN: usize = 4096;
/// Transmits in one turn.
const TRANSMITS_PER_TURN: usize = 1024;
/// Datagrams in one message, where the system can split them. The send window has no use for more.
const GSO_SEGMENTS_MAX: usize = 10;
/// How long to wait for memory that nobody announces.
const STARVED_PAUSE: Duration = Duration::from_millis(1);

/// A driver at work.
pub(super) struct Running<A> {
    core: ShardCore,
    socket: Socket<UdpSocket>,
    shard: ShardIndex,
    postbox: Option<Postbox>,
    app: A,
    notify: Arc<Notify>,
    /// What was polled and has not left. While there is anything the core is asked for nothing more.
    ring: OutRing,
    /// Why the ring is not empty, as of the last attempt.
    stalled: Option<Flush>,
}

impl<A: App> Running<A> {
    pub(super) fn new(driver: Driver, app: A) -> io::Result<Self> {
        Ok(Self {
            core: driver.core,
            socket: driver.socket.into_tokio()?,
            shard: driver.shard,
            postbox: driver.postbox,
            app,
            notify: driver.notify,
            ring: OutRing::default(),
            stalled: None,
        })
    }

    /// Turns until the application wants no more.
    pub(super) async fn run(mut self, stop_timeout: Duration) -> io::Result<(A, Stats)> {
        loop {
            let now = Instant::now();
            let received = self.receive(now)?;
            self.fire_timers(now);
            self.give_events(now);
            let turn = self.app.handle_turn(&mut self.core, now);
            self.transmit(now);
            if turn == Turn::Stop {
                self.flush(now + stop_timeout).await?;
                let stats = self.core.stats();
                return Ok((self.app, stats));
            }
            if turn == Turn::Busy
                || received
                || self.core.has_events()
                || (self.core.has_transmits() && self.stalled.is_none())
            {
                // Not only for other tasks, of which there are none: without it tokio looks at timers and readiness
                // only every 61 polls.
                tokio::task::yield_now().await;
            } else {
                self.sleep().await?;
            }
        }
    }

    /// Fetches datagrams without asking whether there are any: on a busy shard there are.
    fn receive(&mut self, now: Instant) -> io::Result<bool> {
        let Self {
            core,
            socket,
            shard,
            postbox,
            ..
        } = self;
        let mut received = false;
        for _ in 0..BATCHES_PER_TURN {
            let filled = socket.fetch()?;
            socket.show(|payload| core.foresee(payload));
            socket.hand_out(|datagram| {
                // Each one: those that the kernel joined (GRO) have a sender in common, not a connection.
                if let Some(postbox) = postbox
                    && let Some(owner) = steering::foreign_owner(*shard, datagram.payload)
                {
                    core.note_forwarded(postbox.forward(owner, &datagram));
                } else {
                    core.handle_datagram(now, datagram);
                }
            });
            if filled == 0 {
                break;
            }
            received = true;
        }
        if let Some(postbox) = postbox {
            let count = postbox.take(|datagram| core.handle_datagram(now, datagram));
            core.note_handed_over(count);
            received |= count > 0;
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

    /// Sends what there is, a batch at a time, until there is no more, the socket takes no more, or the turn is over.
    fn transmit(&mut self, now: Instant) {
        let mut left = TRANSMITS_PER_TURN;
        loop {
            let core = &mut self.core;
            let flush = self
                .socket
                .flush(&mut self.ring, |sent| core.note_sent(sent));
            self.stalled = (flush != Flush::Done).then_some(flush);
            if self.stalled.is_some() || left == 0 {
                return;
            }
            let segments_max = self.socket.gso_segments_max().min(GSO_SEGMENTS_MAX);
            self.core.set_gso_segments_max(segments_max);
            while left > 0 && self.ring.has_room() {
                let Some(transmit) = self.core.poll_transmit(now, self.ring.payloads()) else {
                    break;
                };
                self.ring.push(transmit, segments_max);
                left -= 1;
            }
            if self.ring.is_empty() {
                return;
            }
        }
    }

    /// Until something comes, can be sent, is due, or somebody wakes us.
    async fn sleep(&mut self) -> io::Result<()> {
        let retry = (self.stalled == Some(Flush::Starved)).then(|| Instant::now() + STARVED_PAUSE);
        let deadline = [self.core.poll_timeout(), self.app.poll_timeout(), retry]
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
            ready = self.socket.writable(), if self.stalled == Some(Flush::Full) => ready?,
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
            if now >= deadline || (self.ring.is_empty() && !self.core.has_transmits()) {
                return Ok(());
            }
            match self.stalled {
                Some(Flush::Full) => tokio::select! {
                    ready = self.socket.writable() => ready?,
                    () = sleep_until(deadline.into()) => {}
                },
                Some(_) => sleep_until((now + STARVED_PAUSE).min(deadline).into()).await,
                None => tokio::task::yield_now().await,
            }
        }
    }
}
