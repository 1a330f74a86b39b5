//! Which packets were received: the 64 numbers up to the largest.

/// Numbers of received packets. Bit i of the mask stands for `largest - i`; what is older counts as received before, as
/// RFC 9000 §13.2.3 and §12.3 allow for a bounded memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) largest: u64,
    pub(crate) mask: u64,
}

impl Received {
    /// Whether a packet was received already, or is too old to tell.
    pub(crate) fn contains(self, number: u64) -> bool {
        match self.largest.checked_sub(number) {
            None => false,
            Some(age) => age >= 64 || self.mask >> age & 1 == 1,
        }
    }

    /// Notes a packet. True if it came in order, right after the largest (RFC 9000 §13.2.1).
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        match number.checked_sub(self.largest) {
            Some(ahead @ 1..) => {
                self.mask = u32::try_from(ahead)
                    .ok()
                    .and_then(|ahead| self.mask.checked_shl(ahead))
                    .unwrap_or(0)
                    | 1;
                self.largest = number;
                ahead == 1
            }
            _ => {
                let age = self.largest - number;
                if age < 64 {
                    self.mask |= 1 << age;
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_the_newest(steps in prop::collection::vec(-70i64..100, 1..200)) {
            let mut received = Received { largest: 100, mask: 1 };
            let mut model = BTreeSet::from([100u64]);
            for step in steps {
                let number = received.largest.saturating_add_signed(step);
                let largest = received.largest;
                let known = number <= largest && (largest - number >= 64 || model.contains(&number));
                prop_assert_eq!(received.contains(number), known);
                if !known {
                    model.insert(number);
                    prop_assert_eq!(received.insert(number), number == largest + 1);
                }
                prop_assert_eq!(received.mask & 1, 1);
            }
        }
    }
}
