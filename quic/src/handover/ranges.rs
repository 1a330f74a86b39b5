//! Which bytes of a stream are done with: everything up to a point, and islands beyond it.

/// Islands that are remembered. What a window of 16 KiB and a few lost packets make is far below it.
const ISLANDS_MAX: usize = 64;

/// A set of byte offsets that grows from 0.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// All below it is in the set.
    prefix: u64,
    /// Half-open, in order, not touching each other nor the prefix. At most [`ISLANDS_MAX`].
    islands: Vec<(u64, u64)>,
}

/// There would be more islands than are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyIslands;

impl Ranges {
    /// The end of what is in the set without a gap.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    /// Whether something beyond a gap is in the set.
    pub(super) fn has_gap(&self) -> bool {
        !self.islands.is_empty()
    }

    pub(super) fn contains(&self, start: u64, end: u64) -> bool {
        end <= self.prefix
            || start >= end
            || self.islands.iter().any(|&(a, b)| a <= start && end <= b)
    }

    pub(super) fn insert(&mut self, start: u64, end: u64) -> Result<(), TooManyIslands> {
        if self.contains(start, end) {
            return Ok(());
        }
        let (mut start, mut end) = (start, end);
        // Islands do not touch each other, so what one of them adds cannot reach another.
        self.islands.retain(|&(a, b)| {
            let touches = a <= end && start <= b;
            if touches {
                (start, end) = (start.min(a), end.max(b));
            }
            !touches
        });
        if start <= self.prefix {
            self.prefix = end;
            return Ok(());
        }
        if self.islands.len() == ISLANDS_MAX {
            return Err(TooManyIslands);
        }
        let at = self.islands.partition_point(|&(a, _)| a < start);
        self.islands.insert(at, (start, end));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_offsets(pieces in prop::collection::vec((0u64..100, 0u64..12), 0..40)) {
            let mut ranges = Ranges::default();
            let mut model = [false; 128];
            for (start, length) in pieces {
                ranges.insert(start, start + length).unwrap();
                model[start as usize..(start + length) as usize].fill(true);
                let prefix = model.iter().position(|&is_in| !is_in).unwrap();
                prop_assert_eq!(ranges.prefix(), prefix as u64);
                prop_assert_eq!(ranges.has_gap(), model[prefix..].contains(&true));
                for (a, b) in [(start, start + length), (start, start + length + 1), (prefix as u64, 100)] {
                    let all = model[a as usize..b.max(a) as usize].iter().all(|&is_in| is_in);
                    prop_assert_eq!(ranges.contains(a, b), all);
                }
            }
        }
    }

    #[test]
    fn islands_are_bounded() {
        let mut ranges = Ranges::default();
        for i in 1..=ISLANDS_MAX as u64 {
            ranges.insert(10 * i, 10 * i + 1).unwrap();
        }
        assert_eq!(ranges.insert(1000, 1001), Err(TooManyIslands));
        // What joins islands still fits.
        assert_eq!(ranges.insert(0, 900), Ok(()));
        assert_eq!(ranges.prefix(), 900);
        assert!(!ranges.has_gap());
    }
}
