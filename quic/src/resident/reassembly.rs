//! Bytes of the stream that came before those in front of them.

/// Pieces that may lie apart. A packet that would make more is dropped as if the network had lost it.
pub(super) const PIECES_MAX: usize = 64;

/// Received bytes beyond the first missing one, in one buffer, however often and however overlapping they came.
/// Bounded by the receive window, which the caller enforces.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// From `front` on: what follows the first missing byte, with that; holes are zero. What lies before `front` was
    /// taken, and is let go when it is half of the buffer: moving the rest at each step would cost a peer nothing that
    /// sends single bytes.
    buffer: Vec<u8>,
    front: usize,
    /// What of the buffer was received, in order, apart.
    pieces: Vec<(u32, u32)>,
}

impl Reassembly {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.buffer.len() - self.front
    }

    /// Whether a piece of `length` bytes, `ahead` of the first missing one, can be kept.
    pub(crate) fn has_place(&self, ahead: u32, length: u32) -> bool {
        self.pieces.len() < PIECES_MAX || {
            let end = ahead + length;
            self.pieces.iter().any(|p| p.0 <= end && ahead <= p.1)
        }
    }

    /// Keeps a piece, `ahead` of the first missing byte. Call [`has_place`](Self::has_place) first.
    pub(crate) fn insert(&mut self, ahead: u32, data: &[u8]) {
        let start = self.front + ahead as usize;
        let end = start + data.len();
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer[start..end].copy_from_slice(data);
        let (mut low, mut high) = (ahead, ahead + data.len() as u32);
        let from = self.pieces.partition_point(|p| p.1 < low);
        let to = self.pieces.partition_point(|p| p.0 <= high);
        if from < to {
            low = low.min(self.pieces[from].0);
            high = high.max(self.pieces[to - 1].1);
        }
        self.pieces.splice(from..to, [(low, high)]);
    }

    /// The bytes that are not missing any more, from the front on.
    pub(crate) fn ready(&self) -> &[u8] {
        match self.pieces.first() {
            Some(&(0, end)) => &self.buffer[self.front..self.front + end as usize],
            _ => &[],
        }
    }

    /// Moves the front by `count` bytes, which came in another way or were taken.
    pub(crate) fn advance(&mut self, count: usize) {
        if count >= self.held() {
            // The memory goes too: a burst of disorder is rare.
            *self = Self::default();
            return;
        }
        self.front += count;
        if self.front > self.buffer.len() / 2 {
            self.buffer.drain(..self.front);
            self.front = 0;
        }
        let by = count as u32;
        self.pieces.retain_mut(|piece| {
            piece.0 = piece.0.saturating_sub(by);
            piece.1 = piece.1.saturating_sub(by);
            piece.0 < piece.1
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn byte(offset: usize) -> u8 {
        (offset % 251) as u8 + 1
    }

    proptest! {
        #[test]
        fn any_order_and_overlap_gives_the_stream(
            cuts in prop::collection::vec((0usize..2000, 1usize..300), 1..100),
        ) {
            let mut reassembly = Reassembly::default();
            let mut read = 0usize;
            let mut model = std::collections::BTreeSet::new();
            for (start, length) in cuts {
                let end = start + length;
                model.extend(start..end);
                if end > read {
                    let from = start.max(read);
                    let data: Vec<u8> = (from..end).map(byte).collect();
                    if reassembly.has_place((from - read) as u32, data.len() as u32) {
                        reassembly.insert((from - read) as u32, &data);
                    } else {
                        for missing in from..end {
                            model.remove(&missing);
                        }
                    }
                }
                let ready = reassembly.ready().to_vec();
                prop_assert!(ready.iter().zip(read..).all(|(&b, at)| b == byte(at)));
                reassembly.advance(ready.len());
                read += ready.len();
                prop_assert!(!model.contains(&read), "byte {} is there and was not given", read);
                prop_assert!(reassembly.pieces.len() <= PIECES_MAX);
            }
        }
    }

    #[test]
    fn more_pieces_than_allowed_are_turned_away() {
        let mut reassembly = Reassembly::default();
        for piece in 0..PIECES_MAX as u32 {
            assert!(reassembly.has_place(1 + 2 * piece, 1));
            reassembly.insert(1 + 2 * piece, &[1]);
        }
        assert!(!reassembly.has_place(500, 1));
        assert!(reassembly.has_place(2, 1), "it joins two");
        reassembly.insert(2, &[1]);
        assert!(reassembly.has_place(500, 1));
    }
}
