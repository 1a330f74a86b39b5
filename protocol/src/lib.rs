//! The device protocol of Petrel, for both ends.
//!
//! What it is: the frames that a device and a broker exchange ([`wire`]), the codec that cuts a byte stream into
//! frames ([`codec`]), the types that frames are parsed into at the edge, device tokens and secrets, the table of
//! errors, and the session machine of each end ([`session`]).
//!
//! What it never does: touch a socket, a clock, a task or a source of randomness. Time and random bytes are
//! arguments. The broker's shards and the SDK drive it; tests drive both ends in one process.
//!
//! `docs/protocol.md` states the rules as numbered requirements; code that obeys one cites it as `PROTO-n`.

pub mod codec;
mod error;
mod ids;
pub mod limits;
mod names;
mod platform;
mod secret;
pub mod session;
mod token;
mod urgency;
#[allow(clippy::doc_markdown, unreachable_pub, missing_docs)]
#[rustfmt::skip]
pub mod wire;

pub use crate::error::{ErrorCode, Reaction};
pub use crate::ids::{MessageId, Ordinal, ParseMessageIdError, ProjectId};
pub use crate::names::{Category, CollapseKey, NameError, TopicName};
pub use crate::platform::Platform;
pub use crate::secret::{DeviceSecret, SecretLengthError};
pub use crate::token::{DeviceToken, SealKey, TokenError, TokenSealer, Unsealed};
pub use crate::urgency::Urgency;

/// The ALPN protocol name that both ends offer (PROTO-1).
pub const ALPN: &[u8] = b"petrel/1";

/// The newest minor version of `petrel/1` that this crate speaks (PROTO-8).
pub const MINOR_VERSION: u32 = 0;
