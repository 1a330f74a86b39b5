//! What other threads tell a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use petrel_core::Route;
use petrel_protocol::{ErrorCode, MessageId, Ordinal};
use petrel_quic::ConnId;

use super::broadcasts::Broadcast;
use super::pending::Pending;
use crate::directory::Device;

/// One thing to send from a scan.
#[derive(Clone, Debug)]
pub struct Item {
    /// What an ack names it by.
    pub id: MessageId,
    /// Where its ack goes.
    pub route: Route,
    /// The frame, length prefix included.
    pub frame: Bytes,
}

/// What a device is owed, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The first of it.
    pub items: Vec<Item>,
    /// Whether that is all.
    pub is_complete: bool,
}

/// Why a request of a device was not granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// What went wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal that says the code's own advice.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// What becomes of a request once it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    /// Answer it.
    Done,
    /// Answer it and end the session: the registration is gone.
    Unregistered,
}

/// A command for a shard.
pub enum Command {
    /// A unicast was accepted for a device attached here.
    Push {
        /// Where, as presence had it.
        conn: ConnId,
        /// What.
        pending: Arc<Pending>,
    },
    /// A scan that a session asked for is done.
    Scanned {
        /// Which session.
        conn: ConnId,
        /// For whom: the slot may have a new tenant.
        device: Ordinal,
        /// What it found; `None` if the store failed.
        batch: Option<Batch>,
    },
    /// A registration that a session asked for is durable, or refused.
    Registered {
        /// Which session.
        conn: ConnId,
        /// Who it is.
        result: Result<Device, Refusal>,
    },
    /// A request of a session is durable, or refused.
    Answered {
        /// Which session.
        conn: ConnId,
        /// The device's number for the request.
        number: u32,
        /// How it ended.
        result: Result<Granted, Refusal>,
    },
    /// A session is over: the device attached elsewhere, or its registration has ended.
    End {
        /// Which session.
        conn: ConnId,
        /// What its device is told.
        code: ErrorCode,
    },
    /// Send a broadcast to everybody here who is owed it.
    Walk(Arc<Broadcast>),
    /// Send all devices away and end.
    Drain {
        /// When each of them comes back; one plan for all shards.
        returns: Arc<Returns>,
        /// How long to wait for the acks of what is in flight.
        ack_wait: Duration,
    },
}

/// Spreads the return of devices that are sent away: one after the other at a rate, whichever shard they leave from.
#[derive(Debug)]
pub struct Returns {
    per_second: u32,
    given: AtomicU64,
}

impl Returns {
    /// So many devices a second; 0 counts as 1.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1),
            given: AtomicU64::new(0),
        }
    }

    /// After how long the next device comes back; the first one at once.
    pub fn next(&self) -> Duration {
        const MICROS: u64 = 1_000_000;
        let nth = self.given.fetch_add(1, Ordering::Relaxed);
        Duration::from_micros(nth.saturating_mul(MICROS) / u64::from(self.per_second))
    }
}
