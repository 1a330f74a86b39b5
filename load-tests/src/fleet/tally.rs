//! Who got what: exact, per device and message, in a bit each.

use std::time::Duration;

use crate::measure::latency::Latencies;

/// What the devices of one socket got of the messages of this run.
#[derive(Debug)]
pub(crate) struct Tally {
    devices: u32,
    messages_max: u32,
    /// Messages before this number are for warming up: their times are not counted.
    warm_up: u32,
    messages: Vec<Got>,
    pub(crate) latencies: Latencies,
    /// First arrivals, warm-up included.
    pub(crate) received: u64,
    /// Arrivals after the first, of the same message at the same device.
    pub(crate) doubled: u64,
    /// Arrivals of what this run never sent.
    pub(crate) foreign: u64,
}

/// Which devices got one message.
#[derive(Clone, Debug)]
enum Got {
    Nobody,
    Some { bits: Vec<u64>, left: u32 },
    All,
}

impl Tally {
    /// For devices with numbers below `devices` and messages with numbers below `messages_max`.
    pub(crate) fn new(devices: u32, messages_max: u32, warm_up: u32) -> Self {
        Self {
            devices,
            messages_max,
            warm_up,
            messages: Vec::new(),
            latencies: Latencies::new(),
            received: 0,
            doubled: 0,
            foreign: 0,
        }
    }

    /// A message arrived at a device, so long after it was to be sent.
    pub(crate) fn record(&mut self, device: u32, message: Option<u32>, took: Duration) {
        let Some(number) = message.filter(|n| *n < self.messages_max && device < self.devices)
        else {
            self.foreign += 1;
            return;
        };
        let at = number as usize;
        if self.messages.len() <= at {
            self.messages.resize(at + 1, Got::Nobody);
        }
        if self.messages[at].add(device, self.devices) {
            self.received += 1;
            if number >= self.warm_up {
                self.latencies.record(took);
            }
        } else {
            self.doubled += 1;
        }
    }

    /// How many of the first `devices` did not get a message.
    pub(crate) fn missing(&self, message: u32) -> u64 {
        match self.messages.get(message as usize) {
            None | Some(Got::Nobody) => u64::from(self.devices),
            Some(Got::Some { left, .. }) => u64::from(*left),
            Some(Got::All) => 0,
        }
    }
}

impl Got {
    /// Whether it is the device's first.
    fn add(&mut self, device: u32, devices: u32) -> bool {
        if let Self::Nobody = self {
            *self = Self::Some {
                bits: vec![0; devices.div_ceil(64) as usize],
                left: devices,
            };
        }
        let Self::Some { bits, left } = self else {
            return false;
        };
        let (word, bit) = (device as usize / 64, 1 << (device % 64));
        let Some(word) = bits.get_mut(word) else {
            return false;
        };
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        *left -= 1;
        if *left == 0 {
            *self = Self::All;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(3);

    fn give(tally: &mut Tally, message: u32, devices: impl IntoIterator<Item = u32>) {
        for device in devices {
            tally.record(device, Some(message), TOOK);
        }
    }

    #[test]
    fn everybody_got_everything_once() {
        let mut tally = Tally::new(130, 2, 0);
        give(&mut tally, 1, 0..130);
        give(&mut tally, 0, (0..130).rev());
        assert_eq!((tally.missing(0), tally.missing(1)), (0, 0));
        assert_eq!((tally.received, tally.doubled, tally.foreign), (260, 0, 0));
        assert!(matches!(tally.messages[0], Got::All));
    }

    #[test]
    fn what_is_missing_is_counted_per_message() {
        let mut tally = Tally::new(65, 3, 0);
        give(&mut tally, 0, (0..65).filter(|device| device % 64 != 0));
        assert_eq!(tally.missing(0), 2);
        assert_eq!((tally.missing(1), tally.missing(2)), (65, 65));
        give(&mut tally, 2, [64]);
        assert_eq!((tally.missing(1), tally.missing(2)), (65, 64));
    }

    #[test]
    fn what_comes_twice_is_counted_before_and_after_all_have_it() {
        let mut tally = Tally::new(2, 1, 0);
        give(&mut tally, 0, [0, 0, 1, 1, 0]);
        assert_eq!((tally.received, tally.doubled, tally.missing(0)), (2, 3, 0));
    }

    #[test]
    fn what_was_never_sent_is_foreign() {
        let mut tally = Tally::new(2, 1, 0);
        tally.record(0, None, TOOK);
        tally.record(0, Some(1), TOOK);
        tally.record(2, Some(0), TOOK);
        assert_eq!((tally.foreign, tally.received, tally.missing(0)), (3, 0, 2));
    }

    #[test]
    fn warming_up_counts_as_arrival_but_not_as_time() {
        let mut tally = Tally::new(3, 2, 1);
        give(&mut tally, 0, 0..3);
        assert_eq!(tally.latencies.quantiles(), None);
        give(&mut tally, 1, 0..3);
        assert_eq!(tally.latencies.quantiles().map(|q| q.count), Some(3));
        assert_eq!(tally.received, 6);
    }
}
