//! Wall time and time to live.

use std::time::Duration;

/// Wall time in milliseconds since 1970, as read from the broker's [`WallClock`](crate::WallClock).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This much later; stops at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// A day of wall time (UTC), counted from 1970: when a device was last seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Day(pub u16);

impl Day {
    /// The day that a moment is in.
    #[must_use]
    pub fn of(moment: UnixMillis) -> Self {
        Self(u16::try_from(moment.0 / 86_400_000).unwrap_or(u16::MAX))
    }
}

/// How long a message is worth delivering. Zero means now or never.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ttl(Duration);

/// A time to live is out of range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a time to live is 0 to 2419200 seconds (4 weeks)")]
pub struct TtlError;

impl Ttl {
    /// Four weeks: FCM's greatest and its default.
    pub const MAX: Self = Self(Duration::from_secs(2_419_200));

    /// Now or never.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// Checks the range.
    ///
    /// # Errors
    /// [`TtlError`] above four weeks.
    pub fn new(duration: Duration) -> Result<Self, TtlError> {
        if duration <= Self::MAX.0 {
            Ok(Self(duration))
        } else {
            Err(TtlError)
        }
    }

    /// Whether it means now or never.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_exact() {
        let second = Duration::from_secs(1);
        assert_eq!(Ttl::new(Ttl::MAX.0), Ok(Ttl::MAX));
        assert_eq!(Ttl::new(Ttl::MAX.0 + second), Err(TtlError));
        assert!(Ttl::ZERO.is_zero() && !Ttl::new(second).unwrap().is_zero());
    }

    #[test]
    fn later_stops_at_the_end_of_time() {
        assert_eq!(
            UnixMillis(5).after(Duration::from_secs(2)),
            UnixMillis(2005)
        );
        let end = UnixMillis(u64::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end);
    }
}
