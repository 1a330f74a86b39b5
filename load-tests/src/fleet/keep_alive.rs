//! When quiet devices say something, spread evenly over the interval.

use std::time::{Duration, Instant};

/// Share of the broker's interval after which a device speaks: early enough for one lost packet.
const SHARE: f64 = 0.8;

/// Looks in one interval, bounded below by [`LOOK_MIN`]: each serves a few devices.
const LOOKS: u32 = 100;
const LOOK_MIN: Duration = Duration::from_millis(50);

/// Walks over all devices of a socket, once in each interval.
#[derive(Debug)]
pub(super) struct KeepAlive {
    fixed: Option<Duration>,
    interval: Option<Duration>,
    /// When it was last looked at. None before the interval is known.
    last: Option<Instant>,
    /// Devices that are due, whole and in parts.
    credit: f64,
    cursor: u32,
}

impl KeepAlive {
    /// `fixed`: whatever the broker asks for.
    pub(super) fn new(fixed: Option<Duration>) -> Self {
        Self {
            fixed,
            interval: fixed,
            last: None,
            credit: 0.0,
            cursor: 0,
        }
    }

    /// The broker said how long a device may stay silent (PROTO-4); 0 where it did not say.
    pub(super) fn asked(&mut self, now: Instant, seconds: u32) {
        if self.fixed.is_none() && seconds > 0 {
            self.interval = Some(Duration::from_secs(u64::from(seconds)).mul_f64(SHARE));
        }
        self.last.get_or_insert(now);
    }

    /// When to look next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        Some(self.last? + (self.interval? / LOOKS).max(LOOK_MIN))
    }

    /// The places of the devices that are due now, of so many: each place comes up once in each interval.
    pub(super) fn due(&mut self, now: Instant, devices: u32) -> impl Iterator<Item = u32> + use<> {
        let (mut from, mut count) = (0, 0);
        if let (Some(last), Some(interval)) = (self.last, self.interval)
            && devices > 0
        {
            let passed = now.saturating_duration_since(last).as_secs_f64() / interval.as_secs_f64();
            self.credit = (self.credit + passed * f64::from(devices)).min(f64::from(devices));
            self.last = Some(now);
            // Within 0 and the number of devices.
            count = self.credit as u32;
            self.credit -= f64::from(count);
            from = self.cursor % devices;
            self.cursor = (from + count) % devices;
        }
        (0..count).map(move |step| (from + step) % devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_speaks_once_in_each_interval() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(None);
        assert_eq!(keep_alive.poll_timeout(), None);
        keep_alive.asked(start, 100);
        let mut spoke = [0_u32; 7];
        let mut now = start;
        while now <= start + Duration::from_secs(160) {
            for device in keep_alive.due(now, 7) {
                spoke[device as usize] += 1;
            }
            now = keep_alive.poll_timeout().unwrap();
        }
        // Two intervals of 80 s.
        assert!(
            spoke.iter().all(|count| (1..=2).contains(count)),
            "{spoke:?}"
        );
        assert!(spoke.iter().sum::<u32>() >= 13, "{spoke:?}");
    }

    #[test]
    fn a_late_look_serves_nobody_twice() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(Some(Duration::from_secs(10)));
        keep_alive.asked(start, 1000);
        let late: Vec<u32> = keep_alive
            .due(start + Duration::from_secs(500), 5)
            .collect();
        assert_eq!(late, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn without_an_interval_or_devices_nobody_speaks() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(None);
        keep_alive.asked(start, 0);
        assert_eq!(keep_alive.due(start + Duration::from_secs(9), 5).count(), 0);
        let mut keep_alive = KeepAlive::new(Some(Duration::from_secs(1)));
        keep_alive.asked(start, 0);
        assert_eq!(keep_alive.due(start + Duration::from_secs(9), 0).count(), 0);
    }
}
