//! What can be seen of the devices while they are at work.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Different complaints that are kept; further ones are counted elsewhere.
const COMPLAINTS_MAX: usize = 8;

/// Counts of one socket's devices, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Devices with a session (and a subscription, where one is wanted).
    pub(crate) online: u64,
    /// Connections, handshakes included.
    pub(crate) open: u64,
    /// Devices whose registration was made.
    pub(crate) registered: u64,
    /// Devices that were given up after several attempts, or after a refusal that no attempt mends.
    pub(crate) gave_up: u64,
    /// Attempts to connect that were repeated.
    pub(crate) retried: u64,
    /// Sessions that ended without the device having wanted it.
    pub(crate) cut_off: u64,
    /// First arrivals of messages.
    pub(crate) received: u64,
    /// Messages that the broker says will never come.
    pub(crate) gaps: u64,
}

impl Seen {
    fn all(&mut self) -> [&mut u64; 8] {
        [
            &mut self.online,
            &mut self.open,
            &mut self.registered,
            &mut self.gave_up,
            &mut self.retried,
            &mut self.cut_off,
            &mut self.received,
            &mut self.gaps,
        ]
    }
}

impl AddAssign for Seen {
    fn add_assign(&mut self, mut other: Self) {
        for (sum, more) in self.all().into_iter().zip(other.all()) {
            *sum += *more;
        }
    }
}

/// The counts of one socket, shown to other threads once each turn.
#[derive(Debug, Default)]
pub(super) struct Gauges([AtomicU64; 8]);

impl Gauges {
    pub(super) fn show(&self, mut seen: Seen) {
        for (gauge, value) in self.0.iter().zip(seen.all()) {
            gauge.store(*value, Ordering::Relaxed);
        }
    }

    pub(super) fn seen(&self) -> Seen {
        let mut seen = Seen::default();
        for (value, gauge) in seen.all().into_iter().zip(&self.0) {
            *value = gauge.load(Ordering::Relaxed);
        }
        seen
    }
}

/// What went wrong, each text once.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Vec<String>>);

impl Complaints {
    pub(super) fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() < COMPLAINTS_MAX && !texts.contains(&text) {
            texts.push(text);
        }
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_and_added_up() {
        let seen = Seen {
            online: 1,
            open: 2,
            registered: 3,
            gave_up: 4,
            retried: 5,
            cut_off: 6,
            received: 7,
            gaps: 8,
        };
        let gauges = Gauges::default();
        gauges.show(seen);
        let mut sum = gauges.seen();
        assert_eq!(sum, seen);
        sum += seen;
        assert_eq!((sum.online, sum.received, sum.gaps), (2, 14, 16));
    }

    #[test]
    fn each_complaint_is_kept_once_and_only_so_many() {
        let complaints = Complaints::default();
        for number in 0..COMPLAINTS_MAX + 5 {
            complaints.add(format!("complaint {number}"));
            complaints.add(format!("complaint {number}"));
        }
        assert_eq!(complaints.all().len(), COMPLAINTS_MAX);
    }
}
