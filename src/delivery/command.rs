//! What other threads tell a shard.

use std::sync::Arc;

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
    /// The device attached elsewhere.
    Replaced {
        /// Which session lost it.
        conn: ConnId,
    },
    /// Send a broadcast to everybody here who is owed it.
    Walk(Arc<Broadcast>),
    /// Send all devices away and end.
    Drain {
        /// Over how long their return is spread.
        spread: std::time::Duration,
        /// How long to wait for the acks of what is in flight.
        ack_wait: std::time::Duration,
    },
}
