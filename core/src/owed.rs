//! Who is owed a broadcast.

use petrel_protocol::Ordinal;
use roaring::RoaringBitmap;

/// The sets of one broadcast: a device is owed it while it is targeted and not settled.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Owed {
    targeted: RoaringBitmap,
    settled: RoaringBitmap,
}

impl Owed {
    /// Starts with everybody owed.
    #[must_use]
    pub fn new(targeted: RoaringBitmap) -> Self {
        Self {
            targeted,
            settled: RoaringBitmap::new(),
        }
    }

    /// As read back from the store. What is settled without being targeted is left out.
    #[must_use]
    pub fn restored(targeted: RoaringBitmap, settled: RoaringBitmap) -> Self {
        let settled = settled & &targeted;
        Self { targeted, settled }
    }

    /// Everybody that the message was for.
    #[must_use]
    pub fn targeted(&self) -> &RoaringBitmap {
        &self.targeted
    }

    /// Everybody who has it or will never get it.
    #[must_use]
    pub fn settled(&self) -> &RoaringBitmap {
        &self.settled
    }

    /// Whether a device is owed it.
    #[must_use]
    pub fn contains(&self, device: Ordinal) -> bool {
        self.targeted.contains(device.0) && !self.settled.contains(device.0)
    }

    /// How many devices are owed it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.targeted.len() - self.settled.len()
    }

    /// Whether nobody is owed it any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everybody who is owed it.
    #[must_use]
    pub fn set(&self) -> RoaringBitmap {
        &self.targeted - &self.settled
    }

    /// Settles one device; whether it was owed.
    pub fn settle(&mut self, device: Ordinal) -> bool {
        self.targeted.contains(device.0) && self.settled.insert(device.0)
    }

    /// Settles all devices of a set; how many of them were owed.
    pub fn settle_all(&mut self, devices: &RoaringBitmap) -> u64 {
        let before = self.settled.len();
        self.settled |= &self.targeted & devices;
        self.settled.len() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_settled_once_and_only_if_targeted() {
        let mut owed = Owed::new((0..10).collect());
        assert_eq!(owed.len(), 10);
        assert!(owed.contains(Ordinal(3)) && owed.settle(Ordinal(3)));
        assert!(!owed.settle(Ordinal(3)) && !owed.contains(Ordinal(3)));
        assert!(!owed.settle(Ordinal(10)), "not targeted");
        assert_eq!(owed.settle_all(&(2..20).collect()), 7);
        assert_eq!(owed.set().iter().collect::<Vec<_>>(), [0, 1]);
        assert!(!owed.is_empty());
    }

    #[test]
    fn a_settled_stranger_does_not_spoil_the_count() {
        let owed = Owed::restored((0..3).collect(), (1..9).collect());
        assert_eq!(owed.len(), 1);
    }
}
