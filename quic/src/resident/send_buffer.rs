//! What was accepted for the stream and not acknowledged yet.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes of the stream from the first unacknowledged one on, shared with whoever sent them.
///
/// Offsets count from the start of the stream. Bounded by the caller, which asks [`held`](Self::held) before it writes,
/// and accepts one chunk that goes beyond.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    chunks: VecDeque<Bytes>,
    /// Offset of the first byte of the first chunk. All before it is acknowledged.
    chunks_at: u64,
    /// All before it is acknowledged; within the first chunk.
    acked_to: u64,
    /// All before it was sent at least once.
    next: u64,
    /// Acknowledged ranges beyond `acked_to`, in order, apart.
    acked: Vec<(u64, u64)>,
    /// Ranges to send again, in order, apart, none of them acknowledged.
    lost: Vec<(u64, u64)>,
}

impl SendBuffer {
    /// Empties the buffer; the stream goes on at `offset`. Keeps the memory it has.
    pub(crate) fn restart(&mut self, offset: u64) {
        self.chunks.clear();
        self.acked.clear();
        self.lost.clear();
        (self.chunks_at, self.acked_to, self.next) = (offset, offset, offset);
    }

    /// Entries for which its largest queue has memory.
    pub(crate) fn capacity(&self) -> usize {
        let ranges = self.acked.capacity().max(self.lost.capacity());
        self.chunks.capacity().max(ranges)
    }

    /// Offset after the last byte accepted.
    pub(crate) fn end(&self) -> u64 {
        self.chunks_at + self.chunks.iter().map(|c| c.len() as u64).sum::<u64>()
    }

    /// Bytes accepted and not acknowledged.
    pub(crate) fn held(&self) -> u64 {
        self.end() - self.acked_to
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(crate) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Whether there are bytes that were never sent and that the peer's credit allows.
    pub(crate) fn has_new(&self, credit: u64) -> bool {
        self.next < self.end().min(credit)
    }

    /// Whether all that the peer's credit allows was sent.
    pub(crate) fn has_used(&self, credit: u64) -> bool {
        self.next >= credit
    }

    pub(crate) fn write(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.chunks.push_back(bytes);
        }
    }

    /// The next range to send again, at most `room` bytes of it.
    pub(crate) fn take_lost(&mut self, room: usize) -> Option<(u64, usize)> {
        let (start, end) = *self.lost.first()?;
        let length = (end - start).min(room as u64);
        if start + length == end {
            self.lost.remove(0);
        } else {
            self.lost[0].0 += length;
        }
        Some((start, length as usize))
    }

    /// The next range that was never sent, at most `room` bytes and up to the offset `credit`.
    pub(crate) fn take_new(&mut self, room: usize, credit: u64) -> Option<(u64, usize)> {
        let start = self.next;
        let end = self.end().min(credit);
        let length = end.checked_sub(start)?.min(room as u64);
        self.next += length;
        (length > 0).then_some((start, length as usize))
    }

    /// Appends a range of the stream to `out`. The range is one that a `take` method gave.
    pub(crate) fn copy(&self, start: u64, length: usize, out: &mut Vec<u8>) {
        let mut skip = (start - self.chunks_at) as usize;
        let mut left = length;
        for chunk in &self.chunks {
            if left == 0 {
                return;
            }
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let part = &chunk[skip..chunk.len().min(skip + left)];
            out.extend_from_slice(part);
            left -= part.len();
            skip = 0;
        }
        debug_assert_eq!(left, 0, "the range was accepted");
    }

    /// A range has arrived. What lies wholly before it is let go.
    pub(crate) fn ack(&mut self, start: u64, end: u64) {
        let (start, end) = (start.max(self.acked_to), end.min(self.next));
        if start >= end {
            return;
        }
        subtract(&mut self.lost, start, end);
        if start > self.acked_to {
            insert(&mut self.acked, start, end);
            return;
        }
        self.acked_to = end;
        while let Some(&(low, high)) = self.acked.first() {
            if low > self.acked_to {
                break;
            }
            self.acked_to = self.acked_to.max(high);
            self.acked.remove(0);
        }
        while let Some(chunk) = self.chunks.front() {
            let chunk_end = self.chunks_at + chunk.len() as u64;
            if chunk_end > self.acked_to {
                break;
            }
            self.chunks_at = chunk_end;
            self.chunks.pop_front();
        }
    }

    /// A range was lost. What of it is not acknowledged by now will be sent again.
    pub(crate) fn lose(&mut self, start: u64, end: u64) {
        let mut start = start.max(self.acked_to);
        for &(low, high) in &self.acked {
            if start < low.min(end) {
                insert(&mut self.lost, start, low.min(end));
            }
            start = start.max(high);
        }
        if start < end {
            insert(&mut self.lost, start, end);
        }
    }
}

/// Adds a range to ranges that are in order and apart, and keeps them so.
fn insert(ranges: &mut Vec<(u64, u64)>, mut start: u64, mut end: u64) {
    let from = ranges.partition_point(|r| r.1 < start);
    let to = ranges.partition_point(|r| r.0 <= end);
    if from < to {
        start = start.min(ranges[from].0);
        end = end.max(ranges[to - 1].1);
    }
    ranges.splice(from..to, [(start, end)]);
}

/// Takes a range out of ranges that are in order and apart.
fn subtract(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    let from = ranges.partition_point(|r| r.1 <= start);
    let to = ranges.partition_point(|r| r.0 < end);
    if from >= to {
        return;
    }
    let left = (ranges[from].0, start);
    let right = (end, ranges[to - 1].1);
    let keep = [left, right].into_iter().filter(|r| r.0 < r.1);
    ranges.splice(from..to, keep);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Write(u16),
        New(u16),
        Lost(u16),
        /// Of a packet sent before, the how-manieth from the end.
        Ack(u8),
        Lose(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1u16..900).prop_map(Op::Write),
            (1u16..900).prop_map(Op::New),
            (1u16..900).prop_map(Op::Lost),
            (0u8..12).prop_map(Op::Ack),
            (0u8..12).prop_map(Op::Lose),
        ]
    }

    fn byte(offset: u64) -> u8 {
        (offset * 31 % 251) as u8
    }

    proptest! {
        /// Whatever is acknowledged or lost: each byte stays until it is acknowledged, is sent as it was written, and
        /// all of them can be sent to the end.
        #[test]
        fn every_byte_arrives_as_written(ops in prop::collection::vec(op(), 1..200)) {
            let mut buffer = SendBuffer::default();
            buffer.restart(5);
            let mut end = 5u64;
            let mut flights: Vec<(u64, usize)> = Vec::new();
            let mut acked = std::collections::BTreeSet::new();
            let check = |buffer: &SendBuffer, (start, length): (u64, usize)| {
                let mut out = Vec::new();
                buffer.copy(start, length, &mut out);
                out.iter().zip(start..).all(|(&b, at)| b == byte(at)) && out.len() == length
            };
            for op in ops {
                match op {
                    Op::Write(length) => {
                        let bytes: Vec<u8> = (end..end + u64::from(length)).map(byte).collect();
                        end += u64::from(length);
                        buffer.write(bytes.into());
                    }
                    Op::New(room) => if let Some(range) = buffer.take_new(room.into(), u64::MAX) {
                        prop_assert!(check(&buffer, range));
                        flights.push(range);
                    },
                    Op::Lost(room) => if let Some(range) = buffer.take_lost(room.into()) {
                        prop_assert!(check(&buffer, range));
                        flights.push(range);
                    },
                    Op::Ack(back) => if let Some(at) = flights.len().checked_sub(1 + usize::from(back)) {
                        let (start, length) = flights.remove(at);
                        buffer.ack(start, start + length as u64);
                        acked.extend(start..start + length as u64);
                    },
                    Op::Lose(back) => if let Some(at) = flights.len().checked_sub(1 + usize::from(back)) {
                        let (start, length) = flights.remove(at);
                        buffer.lose(start, start + length as u64);
                    },
                }
                prop_assert_eq!(buffer.end(), end);
                prop_assert!(buffer.lost.iter().all(|&(s, e)| s < e && (s..e).all(|b| !acked.contains(&b))));
            }
            for (start, length) in flights {
                buffer.lose(start, start + length as u64);
            }
            while let Some((start, length)) = buffer.take_lost(700).or_else(|| buffer.take_new(700, u64::MAX)) {
                prop_assert!(check(&buffer, (start, length)));
                buffer.ack(start, start + length as u64);
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!((buffer.held(), buffer.end()), (0, end));
        }
    }

    #[test]
    fn credit_bounds_what_is_new() {
        let mut buffer = SendBuffer::default();
        buffer.restart(0);
        buffer.write(Bytes::from_static(&[1; 100]));
        assert!(buffer.has_new(40));
        assert_eq!(buffer.take_new(1000, 40), Some((0, 40)));
        assert_eq!(buffer.take_new(1000, 40), None);
        assert_eq!(buffer.take_new(1000, 100), Some((40, 60)));
    }
}
