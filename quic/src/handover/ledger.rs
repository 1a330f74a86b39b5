//! What the packets held that are not acknowledged yet.

use std::collections::VecDeque;

use crate::resident::frame::Ack;

/// Items that are remembered. A full congestion window of small packets at quinn-proto's start is below it.
const ITEMS_MAX: usize = 256;

/// Something that is sent again if its packet is lost (RFC 9000 §13.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// Bytes of the stream.
    Stream {
        start: u64,
        end: u64,
    },
    /// Bytes of TLS: session tickets.
    Crypto {
        start: u64,
        end: u64,
    },
    HandshakeDone,
    /// By sequence number.
    NewId(u64),
    /// By sequence number.
    RetireId(u64),
    /// By value.
    MaxData(u64),
    /// By value.
    MaxStreamData(u64),
}

/// Items by packet number. What is not acknowledged stays, even if quinn-proto took it for lost and sent it again,
/// until [`forget`](Self::forget) is told that it does not matter any more.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In order of the numbers.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    item: Item,
    is_acked: bool,
}

/// There would be more items than are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyItems;

impl Ledger {
    /// Notes that a packet holds an item. Numbers never go back.
    pub(super) fn note(&mut self, number: u64, item: Item) -> Result<(), TooManyItems> {
        if self.entries.len() == ITEMS_MAX {
            return Err(TooManyItems);
        }
        debug_assert!(self.entries.back().is_none_or(|last| last.number <= number));
        self.entries.push_back(Entry {
            number,
            item,
            is_acked: false,
        });
        Ok(())
    }

    /// Takes out what is acknowledged.
    pub(super) fn acknowledge(&mut self, ack: &Ack<'_>) -> Vec<Item> {
        // Both go from the largest number downwards.
        let mut ranges = ack.ranges().peekable();
        for entry in self.entries.iter_mut().rev() {
            while ranges
                .next_if(|&(smallest, _)| smallest > entry.number)
                .is_some()
            {}
            entry.is_acked = ranges
                .peek()
                .is_some_and(|&(_, largest)| entry.number <= largest);
        }
        let mut acked = Vec::new();
        self.entries.retain(|entry| {
            if entry.is_acked {
                acked.push(entry.item);
            }
            !entry.is_acked
        });
        acked
    }

    /// Drops what does not matter any more. An empty ledger holds no memory.
    pub(super) fn forget(&mut self, mut matters: impl FnMut(Item) -> bool) {
        self.entries.retain(|entry| matters(entry.item));
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Items of the packets from this number on.
    #[cfg(test)]
    pub(super) fn since(&self, number: u64) -> Vec<Item> {
        let newer = self.entries.iter().filter(|entry| entry.number >= number);
        newer.map(|entry| entry.item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resident::{
        frame::{Frame, put_ack},
        varint::Reader,
    };

    fn acknowledge(ledger: &mut Ledger, largest: u64, mask: u64) -> Vec<Item> {
        let mut bytes = Vec::new();
        put_ack(&mut bytes, largest, mask, 0);
        match Frame::read(&mut Reader::new(&bytes)).unwrap() {
            Frame::Ack(ack) => ledger.acknowledge(&ack),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_acknowledged_is_taken_out() {
        let mut ledger = Ledger::default();
        for number in 0..10 {
            ledger.note(number, Item::MaxData(number)).unwrap();
        }
        ledger.note(9, Item::HandshakeDone).unwrap();
        // 9, 7, 6 and 3.
        let acked = acknowledge(&mut ledger, 9, 0b100_1101);
        let expected = [3, 6, 7, 9].map(Item::MaxData);
        assert_eq!(acked, [&expected[..], &[Item::HandshakeDone]].concat());
        assert_eq!(ledger.len(), 6);
        assert_eq!(acknowledge(&mut ledger, 20, 1), []);
        assert_eq!(acknowledge(&mut ledger, 9, u64::MAX >> 54).len(), 6);
        ledger.forget(|_| true);
        assert_eq!(ledger.entries.capacity(), 0);
    }

    #[test]
    fn the_ledger_is_bounded_and_can_be_cleared() {
        let mut ledger = Ledger::default();
        for number in 0..ITEMS_MAX as u64 {
            ledger.note(number, Item::NewId(number)).unwrap();
        }
        let one_more = Item::HandshakeDone;
        assert_eq!(ledger.note(1000, one_more), Err(TooManyItems));
        ledger.forget(|item| item == Item::NewId(3));
        assert_eq!(ledger.len(), 1);
        assert_eq!(ledger.note(1000, one_more), Ok(()));
    }
}
