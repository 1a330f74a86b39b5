//! Which packet numbers were received.

/// The largest number and those below it, with the reach of quinn-proto's own window: what is older it takes for a
/// repetition, and ignores.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    largest: u64,
    /// Bit i stands for `largest - i`. Empty only before the first packet.
    mask: u128,
}

impl Numbers {
    /// False for a number that was there before, or is too old to tell.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if self.mask == 0 || number > self.largest {
            let ahead = u32::try_from(number - self.largest).unwrap_or(u32::MAX);
            self.mask = self.mask.checked_shl(ahead).unwrap_or(0) | 1;
            self.largest = number;
            return true;
        }
        let behind = u32::try_from(self.largest - number).unwrap_or(u32::MAX);
        let bit = 1u128.checked_shl(behind).unwrap_or(0);
        let is_new = bit != 0 && self.mask & bit == 0;
        self.mask |= bit;
        is_new
    }

    /// The largest number, and a mask whose bit i stands for `largest - i`. `None` before the first packet.
    pub(super) fn newest(&self) -> Option<(u64, u64)> {
        (self.mask != 0).then_some((self.largest, self.mask as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(0u64..300, 1..100)) {
            let mut window = Numbers::default();
            let mut model = BTreeSet::new();
            prop_assert_eq!(window.newest(), None);
            for number in numbers {
                let is_old = model.last().is_some_and(|&last| number + 128 <= last);
                let is_new = !is_old && model.insert(number);
                prop_assert_eq!(window.insert(number), is_new);
                let largest = *model.last().unwrap();
                let mask = (0..64u64)
                    .filter(|&i| i <= largest && model.contains(&(largest - i)))
                    .fold(0u64, |mask, i| mask | 1 << i);
                prop_assert_eq!(window.newest(), Some((largest, mask)));
            }
        }
    }

    #[test]
    fn leaps_and_the_first_number() {
        let mut window = Numbers::default();
        assert!(window.insert(1 << 40));
        assert_eq!(window.newest(), Some((1 << 40, 1)));
        assert!(window.insert(1 << 61));
        assert!(!window.insert(1 << 40));
        assert_eq!(window.newest(), Some((1 << 61, 1)));
    }
}
