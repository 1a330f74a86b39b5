//! Why a delivery was settled without an ack.

use std::fmt;

/// A drop always has one of these reasons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// Its deadline passed, or it was "now or never" and the device was not there.
    Expired = 1,
    /// A newer message with the same collapse key replaced it.
    Collapsed = 2,
    /// The device's queue was full and this was the least worth keeping.
    Evicted = 3,
    /// The topic's log was full.
    Trimmed = 4,
    /// The publisher withdrew it.
    Recalled = 5,
    /// The registration ended.
    Unregistered = 6,
    /// The user did not want it.
    OptedOut = 7,
    /// The store could not read it back.
    Unreadable = 8,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Expired,
        Self::Collapsed,
        Self::Evicted,
        Self::Trimmed,
        Self::Recalled,
        Self::Unregistered,
        Self::OptedOut,
        Self::Unreadable,
    ];

    /// The stable name: metric label, key of a gap's reasons.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Collapsed => "collapsed",
            Self::Evicted => "evicted",
            Self::Trimmed => "trimmed",
            Self::Recalled => "recalled",
            Self::Unregistered => "unregistered",
            Self::OptedOut => "opted-out",
            Self::Unreadable => "unreadable",
        }
    }

    /// Whether the publisher still wanted it delivered, so that the device must be told of the gap (PROTO-31).
    #[must_use]
    pub const fn is_gap(self) -> bool {
        matches!(self, Self::Evicted | Self::Trimmed | Self::Unreadable)
    }

    /// Its place in [`DropReason::ALL`], for arrays by reason.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
