//! "These bytes to these slots": the walk of a broadcast over the connections of one shard.
//!
//! A [`FanOut`] goes over slots in order, which is kind to the cache, in bounded steps, between which the shard receives,
//! serves acknowledgements and sends what is urgent. A [`Pace`] bounds how many answers can come at once: a shard that
//! sends faster than its socket can hold the answers would lose them, and get each a retransmission later.
//!
//! What is sent to a slot is the application's choice; shared [`Bytes`](bytes::Bytes) cost nothing to send again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::SocketBuffers;

/// Slots looked at in one step.
const SLOTS_PER_STEP: usize = 1024;

/// Sends in one step.
const SENDS_PER_STEP: u32 = 128;

/// What one waiting datagram is charged to the receive buffer, in bytes of what was asked for. Linux grants twice that,
/// and charges a small datagram 768 bytes on loopback, up to 2,304 with a network card's buffers.
const ANSWER_BYTES: usize = 1024;

/// However small the buffer.
const OUTSTANDING_MIN: u32 = 64;

/// Answers that are this late do not come in the same burst as those of today.
const PATIENCE: Duration = Duration::from_millis(100);

/// Which slots a broadcast goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slots {
    /// All below this number.
    Below(usize),
    /// These, in ascending order.
    These(Vec<u32>),
}

/// A broadcast on its way over a shard.
#[derive(Debug)]
pub struct FanOut {
    slots: Slots,
    next: usize,
    sent: u64,
}

/// What remains after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More slots: go on soon.
    More,
    /// Too many answers are outstanding: go on when some came, or at [`Pace::resumes_at`].
    Paced,
    /// Every slot was visited.
    Done,
}

impl FanOut {
    /// Begins with the first slot.
    #[must_use]
    pub fn new(slots: Slots) -> Self {
        Self {
            slots,
            next: 0,
            sent: 0,
        }
    }

    /// How many slots were sent to so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Visits the next slots, a bounded number of them. `visit` tells whether it sent something that will be answered.
    pub fn step(
        &mut self,
        pace: &mut Pace,
        now: Instant,
        mut visit: impl FnMut(u32) -> bool,
    ) -> Step {
        let room = pace.room(now).min(SENDS_PER_STEP);
        let mut sends = 0;
        for _ in 0..SLOTS_PER_STEP {
            if sends == room {
                break;
            }
            let Some(slot) = self.slot() else {
                break;
            };
            self.next += 1;
            sends += u32::from(visit(slot));
        }
        self.sent += u64::from(sends);
        pace.sent(now, sends);
        match self.slot() {
            None => Step::Done,
            Some(_) if pace.room(now) == 0 => Step::Paced,
            Some(_) => Step::More,
        }
    }

    fn slot(&self) -> Option<u32> {
        match &self.slots {
            Slots::Below(end) => {
                let slot = u32::try_from(self.next).ok()?;
                (self.next < *end).then_some(slot)
            }
            Slots::These(slots) => slots.get(self.next).copied(),
        }
    }
}

/// How many deliveries of a shard may wait for their answers at once. Shared by all its broadcasts.
#[derive(Debug)]
pub struct Pace {
    outstanding_max: u32,
    outstanding: u32,
    /// When how many were sent, less those answered since: oldest first.
    batches: VecDeque<(Instant, u32)>,
}

/// As for the smallest buffer.
impl Default for Pace {
    fn default() -> Self {
        Self::of(OUTSTANDING_MIN)
    }
}

impl Pace {
    /// As many as fit the receive buffer that the system granted, at least 64 of them.
    #[must_use]
    pub fn new(granted: SocketBuffers) -> Self {
        let fits = u32::try_from(granted.receive_bytes / ANSWER_BYTES).unwrap_or(u32::MAX);
        Self::of(fits.max(OUTSTANDING_MIN))
    }

    fn of(outstanding_max: u32) -> Self {
        Self {
            outstanding_max,
            outstanding: 0,
            batches: VecDeque::new(),
        }
    }

    /// A delivery was answered.
    pub fn answered(&mut self) {
        while let Some((_, count)) = self.batches.front_mut() {
            if *count > 0 {
                *count -= 1;
                self.outstanding -= 1;
                return;
            }
            self.batches.pop_front();
        }
    }

    /// When a [`Step::Paced`] broadcast goes on, should no answer come.
    #[must_use]
    pub fn resumes_at(&self) -> Option<Instant> {
        self.batches.front().map(|(at, _)| *at + PATIENCE)
    }

    fn room(&mut self, now: Instant) -> u32 {
        while let Some(&(at, count)) = self.batches.front() {
            if count > 0 && now < at + PATIENCE {
                break;
            }
            // Devices that sleep or have gone do not hold up the others.
            self.outstanding -= count;
            self.batches.pop_front();
        }
        self.outstanding_max - self.outstanding
    }

    fn sent(&mut self, now: Instant, count: u32) {
        if count == 0 {
            return;
        }
        self.outstanding += count;
        match self.batches.back_mut() {
            Some((at, batch)) if now.saturating_duration_since(*at) < Duration::from_millis(1) => {
                *batch += count;
            }
            _ => self.batches.push_back((now, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_once_in_order_and_in_bounded_steps() {
        let mut pace = Pace::of(u32::MAX / 2);
        let now = Instant::now();
        let mut fan_out = FanOut::new(Slots::Below(5000));
        let mut visited = Vec::new();
        let mut steps = 0;
        loop {
            let before = visited.len();
            let step = fan_out.step(&mut pace, now, |slot| {
                visited.push(slot);
                slot % 2 == 0
            });
            assert!(visited.len() - before <= SLOTS_PER_STEP);
            steps += 1;
            if step == Step::Done {
                break;
            }
            assert_eq!(step, Step::More);
        }
        assert!(visited.iter().copied().eq(0..5000));
        assert_eq!(fan_out.sent(), 2500);
        assert!(steps >= 2500 / SENDS_PER_STEP as usize);
    }

    #[test]
    fn a_list_is_walked_as_it_is() {
        let mut pace = Pace::of(1000);
        let mut fan_out = FanOut::new(Slots::These(vec![3, 9, 70_000]));
        let mut visited = Vec::new();
        let step = fan_out.step(&mut pace, Instant::now(), |slot| {
            visited.push(slot);
            true
        });
        assert_eq!((step, visited), (Step::Done, vec![3, 9, 70_000]));
    }

    #[test]
    fn waits_for_answers_and_not_for_ever() {
        let mut pace = Pace::of(100);
        let start = Instant::now();
        let mut fan_out = FanOut::new(Slots::Below(1000));
        assert_eq!(fan_out.step(&mut pace, start, |_| true), Step::Paced);
        assert_eq!(fan_out.sent(), 100);
        assert_eq!(fan_out.step(&mut pace, start, |_| true), Step::Paced);
        assert_eq!(fan_out.sent(), 100, "no answer, no room");
        for _ in 0..40 {
            pace.answered();
        }
        assert_eq!(fan_out.step(&mut pace, start, |_| true), Step::Paced);
        assert_eq!(fan_out.sent(), 140);
        let later = pace.resumes_at().unwrap();
        assert_eq!(later, start + PATIENCE);
        assert_eq!(fan_out.step(&mut pace, later, |_| true), Step::Paced);
        assert_eq!(
            fan_out.sent(),
            240,
            "those that never answered count no more"
        );
    }

    #[test]
    fn late_answers_are_not_counted_twice() {
        let mut pace = Pace::of(64);
        let start = Instant::now();
        pace.sent(start, 64);
        assert_eq!(pace.room(start + PATIENCE), 64);
        pace.answered();
        assert_eq!(pace.room(start + PATIENCE), 64);
    }
}
