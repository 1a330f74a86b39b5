//! The device SDK of Petrel, a self-hosted push provider.
//!
//! What it is: one [`Client`] is one registered device. It holds a QUIC connection to its broker, comes back by
//! itself when that breaks, and hands messages to the app as a stream of [`Event`]s. A message is acknowledged to
//! the broker once it is kept in the client's [`Storage`], and kept there until the app says [`Delivery::done`]:
//! what the app was killed over comes again at the next start, and nothing comes twice within one process.
//!
//! What it never does: show notifications, choose where its state lies, print, log a token or a secret, or run
//! anything outside the tokio runtime that it was started on. Apps call it, and so do Petrel's own `listen` and `demo`.
//!
//! ```no_run
//! use petrel_client::{Client, Event, FileStorage};
//!
//! # async fn app() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, mut events) = Client::builder("push.example.org:7443")
//!     .ca_file("ca.pem")
//!     .project("demo")
//!     .app_key("the project's app key")
//!     .storage(FileStorage::open("device.json")?)
//!     .start()?;
//! client.subscribe("news").await?;
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Registered { token, .. } => println!("give this to your server: {token}"),
//!         Event::Message(message) => {
//!             println!("{:?}", message.data);
//!             message.done();
//!         }
//!         Event::Closed(cause) => println!("closed: {cause}"),
//!         _ => {}
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! # Networks
//!
//! How long a connection may be silent is learnt for each network that the app names ([`ClientBuilder::network`],
//! [`Client::network_changed`]) and kept in the storage: from 30 s up to the broker's hint, halved when a path was lost
//! to silence, never below 10 s. [`Client::network_stats`] tells the cost.
//!
//! # Bounds
//!
//! At most [`EVENTS_AHEAD`] events wait for the app; when it takes none, the SDK stops reading its stream, stops
//! acknowledging, and QUIC's flow control holds the broker back. At most [`IN_HAND_MAX`] messages may be kept and not
//! done; then, too, the SDK reads no further. While a request waits for its answer the SDK reads on, up to
//! [`READ_AHEAD_MAX`] events, so that an app may ask from within its event loop. What was learnt of the last
//! [`NETWORKS_MAX`] networks is remembered.

mod backoff;
mod builder;
mod client;
mod device;
mod dial;
mod driver;
mod error;
mod event;
mod events;
mod inbox;
mod keep_alive;
mod message;
mod registration;
mod socket;
mod storage;
mod tls;

pub use petrel_protocol::{DeviceToken, ErrorCode, MessageId, Platform, Urgency};

pub use crate::builder::ClientBuilder;
pub use crate::client::Client;
pub use crate::device::{Attributes, DeviceState, Report};
pub use crate::driver::{EVENTS_AHEAD, IN_HAND_MAX, READ_AHEAD_MAX};
pub use crate::error::{Cause, CauseKind, ConnectError, RequestError, StartError};
pub use crate::event::{Delivery, Event};
pub use crate::events::Events;
pub use crate::keep_alive::{IdleHour, NETWORKS_MAX, NetworkId, NetworkStats};
pub use crate::message::{Badge, Message, Notification};
pub use crate::socket::Socket;
pub use crate::storage::{
    Durability, FileStorage, InboxRecord, MemoryStorage, RECENT_IDS, Storage, StorageError,
    StoredState,
};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
