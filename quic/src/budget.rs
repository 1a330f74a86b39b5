//! A token bucket: so many answers a second, never more.

use std::time::{Duration, Instant};

/// Allows `per_second` takes a second, saved up for at most one second.
///
/// What is over the budget is dropped by the caller; nothing is remembered about it.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    /// Time worth of unspent takes; one take costs `1 s / per_second`.
    saved: Duration,
    last: Instant,
}

impl Budget {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_second,
            saved: Duration::from_secs(1),
            last: now,
        }
    }

    /// Takes one if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.per_second == 0 {
            return false;
        }
        self.saved =
            (self.saved + now.saturating_duration_since(self.last)).min(Duration::from_secs(1));
        self.last = self.last.max(now);
        let cost = Duration::from_secs(1) / self.per_second;
        match self.saved.checked_sub(cost) {
            Some(rest) => {
                self.saved = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_budget_and_not_one_more() {
        let now = Instant::now();
        let mut budget = Budget::new(100, now);
        assert_eq!((0..1000).filter(|_| budget.take(now)).count(), 100);
        let later = now + Duration::from_millis(50);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 5);
        // Time that runs backwards gives nothing, and a long pause saves up one second at most.
        assert!(!budget.take(now));
        let much_later = now + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| budget.take(much_later)).count(), 100);
    }

    #[test]
    fn zero_means_none() {
        let now = Instant::now();
        assert!(!Budget::new(0, now).take(now + Duration::from_secs(9)));
    }
}
