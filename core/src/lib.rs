//! Petrel's rules of delivery, without anything that could get in their way.
//!
//! What it is: what a message is and how it is stored ([`Message`]), who is owed it ([`Owed`]), what a device's queue
//! lets in and what it throws out ([`queue`]), what one session may be sent now ([`Outbox`]), the one sequence
//! ([`Sequence`]), the two clocks ([`WallClock`]) and what became of a message ([`Timeline`]).
//!
//! What it never does: touch a socket, a file, a clock, a task or a source of randomness. `now` is an argument.
//! The broker's rooms call it; simulations do the same.

mod clock;
mod drop_reason;
mod history;
mod message;
mod options;
mod outbox;
mod owed;
pub mod queue;
mod record;
mod sequence;
mod time;

pub use crate::clock::WallClock;
pub use crate::drop_reason::DropReason;
pub use crate::history::{Event, Happening, HistoryError, Timeline, decode_events, encode_events};
pub use crate::message::{Address, Badge, Content, Draft, Message, Notification};
pub use crate::options::{DraftOptions, Options, PerPlatform};
pub use crate::outbox::{InFlight, Outbox, Push, Route, Window};
pub use crate::owed::Owed;
pub use crate::record::{RecordError, decode_message, encode_message};
pub use crate::sequence::{Exhausted, Sequence};
pub use crate::time::{Day, Ttl, TtlError, UnixMillis};
