//! A connection with its one stream: what waits to be written, and how it is left.

use std::time::Duration;

use bytes::BytesMut;
use petrel_protocol::session::DeviceSession;
use petrel_protocol::wire::{self, to_broker};
use quinn::VarInt;
use tokio::time::{Instant, timeout};

use super::End;
use crate::dial::explain;
use crate::error::{Cause, CauseKind};
use crate::keep_alive::{Counters, Pulse};

/// Bytes that wait for the broker before no more commands of the app are taken.
pub(super) const OUT_BYTES_MAX: usize = 64 * 1024;
/// How long the last acks of a session get to leave.
const PARTING: Duration = Duration::from_millis(250);
/// How long the broker gets to answer `Goodbye`.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection and its stream.
pub(super) struct Link {
    /// `host:port`, for humans.
    pub(super) broker: String,
    pub(super) connection: quinn::Connection,
    pub(super) send: quinn::SendStream,
    pub(super) recv: quinn::RecvStream,
    pub(super) session: DeviceSession,
    /// Frames, or the rest of them, that the stream has not taken yet.
    pub(super) out: BytesMut,
    /// When the opening was sent.
    pub(super) started: Instant,
    /// When the broker let the device in.
    pub(super) welcomed: Option<Instant>,
    /// The opening was `Register`, not `Hello`.
    pub(super) registering: bool,
    pub(super) pulse: Pulse,
    pub(super) cursor_saved_at: Instant,
}

impl Link {
    /// Takes over what the session machine wants to send.
    pub(super) fn collect(&mut self) {
        while let Some(frame) = self.session.poll_transmit() {
            self.out.extend_from_slice(&frame);
        }
    }

    /// Writes everything out.
    async fn flush(&mut self) {
        self.collect();
        let out = self.out.split();
        // An error here is found by whoever waits for the end of the connection.
        let _ = self.send.write_all(&out).await;
    }

    /// What the connection counted so far.
    pub(super) fn counters(&self) -> Counters {
        self.connection.stats().into()
    }
}

/// Why the stream failed: the end of its connection says it best.
pub(super) fn lost(link: &Link, error: std::io::Error) -> Cause {
    match link.connection.close_reason() {
        Some(reason) => explain(&link.broker, &reason),
        None => Cause::new(
            CauseKind::Lost,
            format!("the stream to {} broke: {error}", link.broker),
        ),
    }
}

/// Leaves in good order, within bounds: the last acks get their chance, then the connection is closed.
pub(super) async fn part(link: &mut Link, end: &End) {
    let connection = link.connection.clone();
    let mut code = 0;
    if end.by_app || end.cause.kind() == CauseKind::Unregistered {
        link.session
            .say(to_broker::Frame::Goodbye(wire::Goodbye {}));
        let _ = timeout(GOODBYE, async {
            link.flush().await;
            connection.closed().await
        })
        .await;
    } else if connection.close_reason().is_none() {
        link.collect();
        if !link.out.is_empty() {
            let _ = timeout(PARTING, async {
                link.flush().await;
                connection.closed().await
            })
            .await;
        }
        if let CauseKind::Broker(number) = end.cause.kind() {
            code = number;
        }
    }
    connection.close(VarInt::from_u32(code), b"");
}
