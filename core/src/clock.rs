//! The wall clock for deadlines, made from the monotonic one.
//!
//! The operating system's wall clock may jump. This one is what it read at the start plus monotonic time; a jump is
//! noticed by [`WallClock::observe`] and worked off slowly, so that no deadline fires early by a jump and time never
//! runs backwards; over a restart it may by what passed since it was last stored, a minute at most.

use std::time::{Duration, Instant};

use crate::UnixMillis;

/// Differences below this are drift, not a jump.
const JUMP_MILLIS: i64 = 2_000;

/// A correction takes at least this many times as long as it is large: time runs at most 5 % fast or slow.
const SLEW_DIVISOR: i64 = 20;

/// Wall time that does not jump.
#[derive(Clone, Debug)]
pub struct WallClock {
    base: UnixMillis,
    base_at: Instant,
    reported: Option<i64>,
}

impl WallClock {
    /// Starts at what the operating system says, but never below the last time that was stored.
    #[must_use]
    pub fn new(wall: UnixMillis, last_stored: UnixMillis, at: Instant) -> Self {
        Self {
            base: wall.max(last_stored),
            base_at: at,
            reported: None,
        }
    }

    /// The time at a monotonic instant.
    #[must_use]
    pub fn now(&self, at: Instant) -> UnixMillis {
        self.base.after(at.saturating_duration_since(self.base_at))
    }

    /// Compares with the operating system and corrects by at most 5 % of the time since the last call. Call it about
    /// once a second. Yields the difference in milliseconds when a jump is seen for the first time: log it.
    pub fn observe(&mut self, wall: UnixMillis, at: Instant) -> Option<i64> {
        let now = self.now(at);
        let difference = wall.0.cast_signed().saturating_sub(now.0.cast_signed());
        let elapsed = at.saturating_duration_since(self.base_at);
        let step_max = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX) / SLEW_DIVISOR;
        let step = difference.clamp(-step_max, step_max);
        self.base = UnixMillis(now.0.saturating_add_signed(step));
        self.base_at = at;
        if difference.abs() < JUMP_MILLIS {
            self.reported = None;
            return None;
        }
        let is_new = self
            .reported
            .is_none_or(|known| known.abs_diff(difference) > 2 * known.unsigned_abs().max(1));
        self.reported = Some(difference);
        is_new.then_some(difference)
    }

    /// How long until a deadline; zero if it has passed.
    #[must_use]
    pub fn until(&self, deadline: UnixMillis, at: Instant) -> Duration {
        Duration::from_millis(deadline.0.saturating_sub(self.now(at).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_never_starts_below_what_was_stored() {
        let at = Instant::now();
        let clock = WallClock::new(UnixMillis(5), UnixMillis(9), at);
        assert_eq!(clock.now(at), UnixMillis(9));
        assert_eq!(clock.until(UnixMillis(1009), at), SECOND);
    }

    #[test]
    fn a_jump_is_said_once_and_worked_off_slowly_in_both_directions() {
        for jump in [-3_600_000_i64, 3_600_000] {
            let mut at = Instant::now();
            let mut wall = UnixMillis(10_000_000);
            let mut clock = WallClock::new(wall, UnixMillis(0), at);
            wall = UnixMillis(wall.0.saturating_add_signed(jump));
            let mut said = 0;
            let mut before = clock.now(at);
            for _ in 0..100_000 {
                at += SECOND;
                wall = wall.after(SECOND);
                said += usize::from(clock.observe(wall, at).is_some());
                let now = clock.now(at);
                let passed = now.0 - before.0;
                assert!((949..=1051).contains(&passed), "{passed}");
                before = now;
            }
            assert_eq!(said, 1);
            assert_eq!(clock.now(at), wall, "worked off in the end");
        }
    }
}
