//! How long one network may be left silent, learnt from what became of the silences so far. Pure.
//!
//! Grows by half with every silence that was survived, up to the broker's hint. A silence that cost the path halves
//! the interval and becomes the *ceiling*: growth then stops at seven eighths of it. Halving and one step of growth
//! lead to three quarters of the ceiling, so a network that forgets after `T` costs a handful of failures, once, and
//! ends between `7/12 · T` and `T`.
//!
//! Networks change, so a ceiling is doubted again: after a day (two after the second failure, then four, up to a
//! month) and [`DOUBT_AFTER`] answers, one step goes half-way to it; once that held as long again, the ceiling is
//! forgotten. Hence a settled network is put at risk once a month or so, not daily.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Bounds;

/// Silences survived at an interval before its ceiling may be doubted.
const DOUBT_AFTER: u32 = 8;
/// How long a ceiling holds after the first failure.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The wait doubles with each failure, so many times at most: 32 days.
const DOUBLINGS_MAX: u32 = 5;

/// What was learnt of one network. Stored; every text that parses is a valid state, whatever its numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Learner {
    interval_ms: u64,
    /// The shortest silence that cost the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ceiling_ms: Option<u64>,
    /// When the ceiling was set or last approached, in milliseconds since 1970.
    #[serde(default)]
    doubted_at_ms: u64,
    /// Failures since a ceiling was last disproved.
    #[serde(default)]
    failures: u32,
    /// Silences survived at this interval, in this process.
    #[serde(skip)]
    survived: u32,
}

impl Learner {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        Self {
            interval_ms: millis(bounds.start),
            ceiling_ms: None,
            doubted_at_ms: 0,
            failures: 0,
            survived: 0,
        }
    }

    /// How long the network may be left silent now: always within `bounds`.
    pub(crate) fn interval(&self, bounds: &Bounds) -> Duration {
        Duration::from_millis(self.interval_ms).clamp(bounds.floor, bounds.max)
    }

    /// A silence was survived: what ended it was answered, on the same path. Says whether there is something new to
    /// store.
    pub(crate) fn survived(&mut self, silence: Duration, bounds: &Bounds, now_ms: u64) -> bool {
        let interval = self.interval(bounds);
        // A shorter one says nothing new.
        if silence < interval / 10 * 9 {
            return false;
        }
        let before = self.stored();
        self.survived = self.survived.saturating_add(1);
        // A clock that was ahead when it was written down must not postpone the doubt for ever.
        self.doubted_at_ms = self.doubted_at_ms.min(now_ms);
        if self.ceiling().is_some_and(|ceiling| silence >= ceiling) {
            self.ceiling_ms = None;
            self.failures = 0;
        }
        let grown = (interval + interval / 2).min(bounds.max);
        let next = match self.ceiling() {
            None => grown,
            Some(ceiling) if grown <= ceiling / 8 * 7 => grown,
            Some(ceiling) if self.may_doubt(now_ms) => {
                self.doubted_at_ms = now_ms;
                self.survived = 0;
                if ceiling.saturating_sub(interval) <= ceiling / 7 {
                    self.ceiling_ms = None;
                    grown
                } else {
                    ((interval + ceiling) / 2).min(bounds.max)
                }
            }
            Some(_) => interval,
        };
        if next > interval {
            self.interval_ms = millis(next);
            self.survived = 0;
        } else if next == bounds.max {
            // As good as it gets: what failed here once is history.
            self.failures = 0;
        }
        self.stored() != before
    }

    /// A silence cost the path. Says whether there is something new to store.
    pub(crate) fn failed(&mut self, silence: Duration, bounds: &Bounds, now_ms: u64) -> bool {
        let interval = self.interval(bounds);
        // A path that breaks in use, or sooner than is ever tried, was not lost to silence; nor does a silence far
        // longer than was asked for (timers that were late) say anything of the interval.
        if silence < bounds.floor / 10 * 9 || silence > interval + interval / 4 {
            return false;
        }
        let ceiling = silence.min(interval);
        self.interval_ms = millis((ceiling / 2).max(bounds.floor));
        self.ceiling_ms = Some(millis(ceiling));
        self.doubted_at_ms = now_ms;
        self.failures = self.failures.saturating_add(1);
        self.survived = 0;
        true
    }

    fn stored(&self) -> (u64, Option<u64>, u64, u32) {
        (
            self.interval_ms,
            self.ceiling_ms,
            self.doubted_at_ms,
            self.failures,
        )
    }

    fn ceiling(&self) -> Option<Duration> {
        self.ceiling_ms.map(Duration::from_millis)
    }

    fn may_doubt(&self, now_ms: u64) -> bool {
        let doublings = self.failures.saturating_sub(1).min(DOUBLINGS_MAX);
        self.survived >= DOUBT_AFTER
            && now_ms.saturating_sub(self.doubted_at_ms) >= DAY_MS << doublings
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn bounds(max_seconds: u64) -> Bounds {
        Bounds {
            start: Duration::from_secs(30),
            floor: Duration::from_secs(10),
            max: Duration::from_secs(max_seconds),
        }
    }

    fn ms(learner: &Learner, bounds: &Bounds) -> u64 {
        millis(learner.interval(bounds))
    }

    /// One silence of the current interval on a network that forgets after `timeout`. Says whether it was survived.
    fn cycle(learner: &mut Learner, bounds: &Bounds, timeout: Duration, now_ms: u64) -> bool {
        let silence = learner.interval(bounds);
        if silence < timeout {
            learner.survived(silence, bounds, now_ms);
        } else {
            learner.failed(silence, bounds, now_ms);
        }
        silence < timeout
    }

    #[test]
    fn it_grows_by_half_up_to_the_hint_and_stays() {
        let bounds = bounds(112);
        let mut learner = Learner::new(&bounds);
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(ms(&learner, &bounds));
            cycle(&mut learner, &bounds, Duration::MAX, NOW);
        }
        assert_eq!(seen, [30_000, 45_000, 67_500, 101_250, 112_000, 112_000]);
        assert!(
            !learner.survived(bounds.max, &bounds, NOW),
            "nothing new to store"
        );
    }

    #[test]
    fn a_lost_path_halves_it_and_what_was_lost_is_not_tried_again_that_day() {
        let bounds = bounds(112);
        let mut learner = Learner::new(&bounds);
        let timeout = Duration::from_secs(60);
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(ms(&learner, &bounds));
            cycle(&mut learner, &bounds, timeout, NOW);
        }
        assert_eq!(seen, [30_000, 45_000, 67_500, 33_750, 50_625, 50_625]);
        // A day later, after a few more answers: half-way to the ceiling. That holds here; after one more day the
        // ceiling is forgotten.
        for (now_ms, expected) in [(NOW + DAY_MS, 59_062), (NOW + 2 * DAY_MS, 88_593)] {
            let settled = ms(&learner, &bounds);
            let survived = learner.survived;
            for _ in survived..DOUBT_AFTER {
                assert_eq!(ms(&learner, &bounds), settled);
                assert!(cycle(&mut learner, &bounds, timeout, now_ms));
            }
            assert_eq!(ms(&learner, &bounds), expected);
        }
    }

    #[test]
    fn what_says_nothing_of_the_interval_changes_nothing() {
        let bounds = bounds(112);
        let mut learner = Learner::new(&bounds);
        let before = learner.clone();
        let seconds = Duration::from_secs;
        assert!(!learner.survived(seconds(26), &bounds, NOW));
        assert!(!learner.failed(seconds(8), &bounds, NOW), "broke in use");
        assert!(
            !learner.failed(seconds(38), &bounds, NOW),
            "timers were late"
        );
        assert_eq!(learner, before);
        assert!(learner.failed(seconds(20), &bounds, NOW));
        assert_eq!(ms(&learner, &bounds), 10_000);
        assert!(learner.survived(seconds(10), &bounds, NOW));
        assert_eq!(ms(&learner, &bounds), 15_000);
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_postpone_the_doubt_for_ever() {
        let bounds = bounds(112);
        let mut learner = Learner::new(&bounds);
        learner.failed(bounds.start, &bounds, u64::MAX);
        for _ in 0..4 {
            cycle(&mut learner, &bounds, Duration::MAX, NOW);
        }
        let settled = ms(&learner, &bounds);
        for _ in 0..DOUBT_AFTER {
            cycle(&mut learner, &bounds, Duration::MAX, NOW + DAY_MS);
        }
        assert!(ms(&learner, &bounds) > settled);
    }

    proptest! {
        /// Any history, from any stored state, hints changing meanwhile: never below the floor, never above the hint.
        #[test]
        fn it_is_always_within_its_bounds(
            interval_ms: u64,
            ceiling_ms: Option<u64>,
            doubted_at_ms: u64,
            failures: u32,
            steps in prop::collection::vec((any::<bool>(), 0..200_000_u64, 1..7200_u32, any::<u64>()), 0..64),
        ) {
            let mut learner = Learner { interval_ms, ceiling_ms, doubted_at_ms, failures, survived: 0 };
            for (survived, silence_ms, hint, now_ms) in steps {
                let hour = Duration::from_secs(3600);
                let bounds = Bounds::new(Duration::from_secs(30), hour, hint);
                let silence = Duration::from_millis(silence_ms);
                if survived {
                    learner.survived(silence, &bounds, now_ms);
                } else {
                    learner.failed(silence, &bounds, now_ms);
                }
                let interval = learner.interval(&bounds);
                prop_assert!(interval >= bounds.floor && interval <= bounds.max);
                prop_assert!(interval <= Duration::from_secs(hint.into()));
            }
        }

        /// A network that forgets after a fixed time: a handful of failures, then none for a day, with at least 7/12 of
        /// what is possible: an interval stays where half as much again would come within 7/8 of what failed, and what
        /// failed is above what is possible.
        #[test]
        fn it_settles_below_what_the_network_forgets_after(
            timeout_ms in 10_001..400_000_u64,
            max_seconds in 10..600_u64,
        ) {
            let bounds = Bounds::new(Duration::from_secs(30), Duration::from_secs(max_seconds), 7200);
            let timeout = Duration::from_millis(timeout_ms);
            let mut learner = Learner::new(&bounds);
            let failures = (0..40).filter(|_| !cycle(&mut learner, &bounds, timeout, NOW)).count();
            prop_assert!(failures <= 8, "{failures} failures");
            let settled = learner.interval(&bounds);
            prop_assert!(settled < timeout);
            prop_assert!(settled >= timeout.min(bounds.max) / 12 * 7, "{settled:?}");
            for cycle_number in 0..1000 {
                let now_ms = NOW + cycle_number * (DAY_MS / 1000 - 1);
                prop_assert!(cycle(&mut learner, &bounds, timeout, now_ms));
            }
        }

        /// Over months a settled network is put at risk ever more seldom; one that became better is found out.
        #[test]
        fn ceilings_are_doubted_seldom_but_not_never(timeout_ms in 10_001..100_000_u64) {
            const HOUR_MS: u64 = DAY_MS / 24;
            let bounds = bounds(112);
            let timeout = Duration::from_millis(timeout_ms);
            let mut learner = Learner::new(&bounds);
            let mut now_ms = NOW;
            let mut failures_in = |days: u64, timeout: Duration| {
                let count = (0..days * 24)
                    .filter(|_| {
                        now_ms += HOUR_MS;
                        !cycle(&mut learner, &bounds, timeout, now_ms)
                    })
                    .count();
                (count, learner.interval(&bounds))
            };
            failures_in(90, timeout);
            let (failures, _) = failures_in(90, timeout);
            prop_assert!(failures <= 8, "{failures} failures in 90 days");
            let (_, interval) = failures_in(120, Duration::MAX);
            prop_assert_eq!(interval, bounds.max);
        }
    }
}
