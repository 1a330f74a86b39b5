//! Numbers that name things: devices, projects, messages.

use std::fmt;
use std::str::FromStr;

use crate::wire;

/// Dense number of a registered device within one broker. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ordinal(pub u32);

/// Number of a project within one broker. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProjectId(pub u32);

/// Names a message for ever: the epoch of the store that numbered it and its place in the broker's one sequence.
///
/// Ordered by acceptance. Written `EPOCH-SEQUENCE`, the epoch in hexadecimal.
///
/// ```
/// use petrel_protocol::MessageId;
/// let id = MessageId { epoch: 0x6a4e, sequence: 17 };
/// assert_eq!(id.to_string(), "6a4e-17");
/// assert_eq!("6a4e-17".parse(), Ok(id));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId {
    /// Which life of the store numbered it; a restored store gets a new epoch.
    pub epoch: u32,
    /// Its place in the sequence of that epoch, from 1.
    pub sequence: u64,
}

impl MessageId {
    /// Sorts before every message: the cursor of a device that has seen nothing.
    pub const ZERO: Self = Self {
        epoch: 0,
        sequence: 0,
    };
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.sequence)
    }
}

/// A text is not a message id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a message id is written EPOCH-SEQUENCE, such as 6a4e-17")]
pub struct ParseMessageIdError;

impl FromStr for MessageId {
    type Err = ParseMessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, sequence) = text.split_once('-').ok_or(ParseMessageIdError)?;
        let id = Self {
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| ParseMessageIdError)?,
            sequence: sequence.parse().map_err(|_| ParseMessageIdError)?,
        };
        // One spelling per id: no sign, no leading zero, no capitals.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(ParseMessageIdError)
        }
    }
}

impl From<wire::MessageId> for MessageId {
    fn from(id: wire::MessageId) -> Self {
        Self {
            epoch: id.epoch,
            sequence: id.sequence,
        }
    }
}

impl From<MessageId> for wire::MessageId {
    fn from(id: MessageId) -> Self {
        Self {
            epoch: id.epoch,
            sequence: id.sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_have_one_spelling() {
        for good in ["0-0", "6a4e9b10-1", "ffffffff-18446744073709551615"] {
            let id: MessageId = good.parse().unwrap();
            assert_eq!(id.to_string(), good);
        }
        for bad in [
            "",
            "1",
            "1-",
            "-1",
            "01-1",
            "1-01",
            "A-1",
            "1-+1",
            "1--1",
            "100000000-1",
            "1-18446744073709551616",
        ] {
            assert_eq!(bad.parse::<MessageId>(), Err(ParseMessageIdError), "{bad}");
        }
    }

    #[test]
    fn a_later_epoch_sorts_later() {
        let old = MessageId {
            epoch: 1,
            sequence: 9,
        };
        let new = MessageId {
            epoch: 2,
            sequence: 1,
        };
        assert!(old < new && MessageId::ZERO < old);
    }
}
