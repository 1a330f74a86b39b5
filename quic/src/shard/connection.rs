//! One connection, in either of its lives.
//!
//! | phase     | means                                        | goes to                              |
//! |-----------|----------------------------------------------|--------------------------------------|
//! | `Setup`   | handshake, or no stream yet                  | `Open`, `Closing`, or freed in silence |
//! | `Open`    | `Opened` was told; bytes flow                | `Closing`                            |
//! | `Closing` | `Closed` was told; lingers (RFC 9000 §10.2)  | freed                                |
//!
//! A connection that is `Open` and quiet moves from its first life to the second, and never back.

use super::first::First;
use crate::resident::Record;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Setup,
    Open,
    Closing,
}

/// What a connection is to be done with. A connection is in a work list at most once.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags {
    /// In the list of those to be asked for events.
    pub(super) ready: bool,
    /// In the list of those to be asked for transmits.
    pub(super) sending: bool,
    /// The application wants no bytes now.
    pub(super) paused: bool,
    /// A `send` was answered `Full`: the application waits for `Writable`.
    pub(super) refused: bool,
}

/// Who serves a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and lies in its slot"
)]
pub(super) enum Life {
    /// The handshake engine. Boxed, so that the memory is given back when the connection moves on.
    First(Box<First>),
    /// The resident engine.
    Resident(Record),
}

/// What lies in a slab slot.
pub(super) struct Conn {
    pub(super) life: Life,
    pub(super) phase: Phase,
    pub(super) flags: Flags,
}

impl Conn {
    pub(super) fn new(first: First) -> Self {
        Self {
            life: Life::First(Box::new(first)),
            phase: Phase::Setup,
            flags: Flags::default(),
        }
    }

    pub(super) fn first(&mut self) -> Option<&mut First> {
        match &mut self.life {
            Life::First(first) => Some(first),
            Life::Resident(_) => None,
        }
    }

    pub(super) fn resident(&mut self) -> Option<&mut Record> {
        match &mut self.life {
            Life::First(_) => None,
            Life::Resident(record) => Some(record),
        }
    }

    /// Bytes of an unfinished send; the resident engine has none, because it takes sends whole.
    pub(super) fn remainder_bytes(&self) -> u64 {
        match &self.life {
            Life::First(first) => first.remainder_bytes(),
            Life::Resident(_) => 0,
        }
    }
}
