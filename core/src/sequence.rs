//! The one sequence of a broker: numbers are handed out only from blocks that were reserved durably before.

use std::sync::atomic::{AtomicU64, Ordering};

use petrel_protocol::MessageId;

/// All reserved numbers are used up; the next block is being made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the sequence waits for its next block")]
pub struct Exhausted;

/// Hands out message ids. After a crash it starts at the end of the last reserved block: it skips, never repeats.
#[derive(Debug)]
pub struct Sequence {
    epoch: u32,
    next: AtomicU64,
    reserved_end: AtomicU64,
}

impl Sequence {
    /// How many numbers are reserved at a time. At 100,000 publishes/s a block lasts 2.6 s.
    pub const BLOCK: u64 = 1 << 18;

    /// Starts at the end of what was ever reserved. Nothing can be taken before the first [`Sequence::extend`].
    #[must_use]
    pub fn starting_at(epoch: u32, reserved_end: u64) -> Self {
        let start = reserved_end.max(1);
        Self {
            epoch,
            next: AtomicU64::new(start),
            reserved_end: AtomicU64::new(start),
        }
    }

    /// The next id.
    ///
    /// # Errors
    /// [`Exhausted`] until the next block is reserved.
    pub fn take(&self) -> Result<MessageId, Exhausted> {
        let end = self.reserved_end.load(Ordering::Acquire);
        let sequence = self
            .next
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                (n < end).then(|| n + 1)
            })
            .map_err(|_| Exhausted)?;
        Ok(MessageId {
            epoch: self.epoch,
            sequence,
        })
    }

    /// Where the reservation must go next, once less than half a block is left.
    #[must_use]
    pub fn wanted_end(&self) -> Option<u64> {
        let next = self.next.load(Ordering::Acquire);
        let end = self.reserved_end.load(Ordering::Acquire);
        (end - next < Self::BLOCK / 2).then_some(next + Self::BLOCK)
    }

    /// Says that everything below `end` is durably reserved.
    pub fn extend(&self, end: u64) {
        self.reserved_end.fetch_max(end, Ordering::AcqRel);
    }

    /// The epoch of all ids.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The id that will be handed out next: everything below has been.
    #[must_use]
    pub fn peek(&self) -> MessageId {
        MessageId {
            epoch: self.epoch,
            sequence: self.next.load(Ordering::Acquire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_only_from_reserved_blocks() {
        let sequence = Sequence::starting_at(9, 0);
        assert_eq!(sequence.take(), Err(Exhausted));
        let end = sequence.wanted_end().unwrap();
        sequence.extend(end);
        assert_eq!(sequence.wanted_end(), None);
        for expected in 1..=Sequence::BLOCK {
            assert_eq!(sequence.take().unwrap().sequence, expected);
        }
        assert_eq!(sequence.take(), Err(Exhausted));
    }

    #[test]
    fn a_restart_skips_and_never_repeats() {
        let first = Sequence::starting_at(9, 0);
        let end = first.wanted_end().unwrap();
        first.extend(end);
        let last = first.take().unwrap();
        let second = Sequence::starting_at(9, end);
        second.extend(second.wanted_end().unwrap());
        assert!(second.take().unwrap() > last);
        assert!(second.peek().sequence > end);
    }
}
