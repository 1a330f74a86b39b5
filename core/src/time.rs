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

    /// As RFC 3339 writes it, in UTC with milliseconds: `2026-11-24T03:17:51.250Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let (days, of_day) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Days of the proleptic Gregorian calendar, counted in eras of 400 years from March of the year 0.
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = (from_march + 2) % 12 + 1;
        let year = year + era * 400 + u64::from(month <= 2);
        let (seconds, millis) = (of_day / 1000, of_day % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
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
    fn a_moment_is_written_as_rfc_3339_has_it() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_798_761_599_001, "2026-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMillis(millis).to_rfc3339(), text);
        }
        assert!(UnixMillis(u64::MAX).to_rfc3339().ends_with('Z'));
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
