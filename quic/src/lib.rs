//! Holds very many QUIC connections cheaply.
//!
//! A *shard* is one UDP socket, its connections and one loop, without locks and without a task per connection.
//! [`ShardCore`] is the inside of a shard without sockets, clocks or tasks: datagrams, commands and `now` go in;
//! transmits, events and the next deadline come out. [`Driver`] is the only place with a socket: it runs a core on a
//! tokio `current_thread` runtime and calls an [`App`].
//!
//! Each connection carries one bidirectional stream, opened by the client, for its whole life. The crate speaks QUIC
//! version 1 (RFC 9000, 9001, 9002) with TLS 1.3 and 1-RTT resumption. It never interprets the bytes of the stream,
//! never sends keep-alives, never discovers path MTUs, and accepts neither 0-RTT data nor datagram frames. It knows
//! nothing of push: the broker's shards call it in the server role, the load harness and tests in the client role.
//!
//! The public face hides the engine that serves a connection.

mod budget;
mod cid;
mod client;
pub mod close_code;
mod config;
mod conn_id;
mod datagram;
mod driver;
mod event;
mod fan_out;
mod forward;
mod group;
mod handover;
mod keys;
mod out_ring;
mod resident;
mod shard;
#[cfg(feature = "sim")]
pub mod sim;
mod slab;
mod socket;
mod sources;
mod stats;
mod steering;
mod tickets;
mod wheel;

pub use cid::CID_BYTES;
pub use client::ClientSetup;
pub use config::{ConfigError, Engine, Limits, ServerSetup, ShardConfig, ShardIndex};
pub use conn_id::ConnId;
pub use datagram::{Ecn, Received, Transmit};
pub use driver::{App, BindError, Driver, DriverConfig, Steering, Turn, Waker};
pub use event::{CloseReason, ConnectError, Event, HandshakeFailure, SendError};
pub use fan_out::{FanOut, Pace, Slots, Step};
pub use keys::{KeysError, TRANSPORT_KEYS_BYTES, TransportKeys};
pub use shard::ShardCore;
pub use socket::SocketBuffers;
pub use sources::{Network, NetworkError};
pub use stats::Stats;
