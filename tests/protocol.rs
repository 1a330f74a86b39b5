//! `docs/protocol.md`, shown from outside: the real broker, real sockets, and devices that obey or break the rules.
//!
//! One file for each part of the document; each test cites the requirements that it shows. `tests/requirements.rs`
//! checks that none is left out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

#[path = "protocol/acks.rs"]
mod acks;
#[path = "protocol/connection.rs"]
mod connection;
#[path = "protocol/deliveries.rs"]
mod deliveries;
#[path = "protocol/frames.rs"]
mod frames;
#[path = "protocol/gaps.rs"]
mod gaps;
#[path = "protocol/leaving.rs"]
mod leaving;
#[path = "protocol/opening.rs"]
mod opening;
#[path = "protocol/refusals.rs"]
mod refusals;
#[path = "protocol/requests.rs"]
mod requests;
#[path = "protocol/slow.rs"]
mod slow;

use serde_json::{Value, json};

use crate::common::Pool;

/// A broker with the defaults.
static DEFAULTS: Pool = Pool::new("");

/// A broker that sends little at once.
static SMALL_WINDOW: Pool = Pool::new("[session]\nwindow_messages = 4\n");

/// A broker that keeps little.
static SMALL_QUEUES: Pool =
    Pool::new("[queue]\nmessages_max = 3\n[topic]\nlog_messages_max = 2\nper_device_max = 3\n");

/// A broker that waits for nobody.
static IMPATIENT: Pool =
    Pool::new("[session]\nhello_timeout = \"300ms\"\nunresponsive_after = \"1s\"\n");

/// A message of this label, of urgency normal, kept as long as can be.
fn message(label: &str) -> Value {
    json!({ "data": { "n": label } })
}

/// The same with a `petrel` block: `ttl`, `urgency`, `collapse_key`.
fn message_with(label: &str, options: Value) -> Value {
    json!({ "data": { "n": label }, "petrel": options })
}
