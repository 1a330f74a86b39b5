//! How long to wait before the next connection: exponential back-off with full jitter. Pure: randomness is an argument.

use std::time::Duration;

/// Upper end of the first wait.
const FIRST: Duration = Duration::from_millis(250);
/// Upper end of the longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// A session that lasted this long was a good one: the next wait starts from [`FIRST`] again.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(10);
/// No wait that a broker asks for is obeyed beyond this: a typing error there must not lose a device for ever.
const ASKED_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Forgets the failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait. `jitter` is uniform in `0.0..1.0`; `asked` is what the broker asked for, which comes on top so
    /// that nobody is early and not all are at once.
    pub(crate) fn next(&mut self, jitter: f64, asked: Option<Duration>) -> Duration {
        // 2^8 · 250 ms is above the longest wait: no larger exponent is needed.
        let ceiling = (FIRST * 2_u32.pow(self.failures.min(8))).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        clamp_asked(asked.unwrap_or_default()) + ceiling.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// The same, but nothing for the first failure in a row.
    pub(crate) fn next_but_first(&mut self, jitter: f64) -> Duration {
        let first = self.failures == 0;
        let wait = self.next(jitter, None);
        if first { Duration::ZERO } else { wait }
    }
}

/// Bounds a wait that a broker asks for.
pub(crate) fn clamp_asked(asked: Duration) -> Duration {
    asked.min(ASKED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_start_over_after_a_reset() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..11)
            .map(|_| backoff.next(1.0, None).as_millis())
            .collect();
        let expected = [
            250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000,
        ];
        assert_eq!(ceilings, expected);
        backoff.reset();
        assert_eq!(backoff.next(1.0, None), FIRST);
        backoff.reset();
        assert_eq!(backoff.next_but_first(1.0), Duration::ZERO);
        assert_eq!(backoff.next_but_first(1.0), FIRST * 2);
    }

    #[test]
    fn the_whole_range_down_to_zero_is_used_and_what_was_asked_for_is_never_undercut() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0.0, None), Duration::ZERO);
        let asked = Duration::from_secs(7);
        assert_eq!(backoff.next(0.0, Some(asked)), asked);
        assert!(backoff.next(0.5, Some(asked)) > asked);
        assert_eq!(backoff.next(0.0, Some(Duration::MAX)), ASKED_MAX);
    }
}
