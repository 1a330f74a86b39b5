//! Round-trip times (RFC 9002 §5), in microseconds.

/// Timer granularity (RFC 9002 §6.1.2), in microseconds.
pub(crate) const GRANULARITY_US: u64 = 1_000;

/// What is known of a path's round-trip time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rtt {
    pub(crate) smoothed_us: u32,
    pub(crate) variation_us: u32,
    pub(crate) min_us: u32,
}

/// Round-trip time of a path that nothing is known of (RFC 9002 §6.2.2), in microseconds.
pub(crate) const INITIAL_RTT_US: u32 = 333_000;

/// Stands for the minimum before the first sample.
const NO_SAMPLE: u32 = u32::MAX;

impl Rtt {
    /// Of a path that nothing is known of (RFC 9002 §6.2.2).
    pub(crate) fn unknown() -> Self {
        Self {
            min_us: NO_SAMPLE,
            ..Self::from_sample(INITIAL_RTT_US)
        }
    }

    /// From a first sample (RFC 9002 §5.3).
    pub(crate) fn from_sample(us: u32) -> Self {
        Self {
            smoothed_us: us,
            variation_us: us / 2,
            min_us: us,
        }
    }

    /// Takes a sample, and the delay that the peer says it caused, already bounded by its max_ack_delay (RFC 9002 §5.3).
    pub(crate) fn update(&mut self, sample_us: u64, ack_delay_us: u64) {
        let sample = u32::try_from(sample_us).unwrap_or(u32::MAX);
        if self.min_us == NO_SAMPLE {
            *self = Self::from_sample(sample);
            return;
        }
        let delay = u32::try_from(ack_delay_us).unwrap_or(u32::MAX);
        // The minimum ignores the delay (RFC 9002 §5.2).
        self.min_us = self.min_us.min(sample);
        // The delay is only believed as far as the sample stays above the minimum.
        let adjusted = if u64::from(sample) >= u64::from(self.min_us) + u64::from(delay) {
            sample - delay
        } else {
            sample
        };
        let deviation = self.smoothed_us.abs_diff(adjusted);
        let blend = |old: u32, new: u32, weight: u64| {
            u32::try_from((u64::from(old) * (weight - 1) + u64::from(new)) / weight)
                .unwrap_or(u32::MAX)
        };
        self.variation_us = blend(self.variation_us, deviation, 4);
        self.smoothed_us = blend(self.smoothed_us, adjusted, 8);
    }

    /// Probe timeout before back-off (RFC 9002 §6.2.1); `max_ack_delay_us` is the peer's.
    pub(crate) fn probe_timeout_us(&self, max_ack_delay_us: u64) -> u64 {
        u64::from(self.smoothed_us)
            + (4 * u64::from(self.variation_us)).max(GRANULARITY_US)
            + max_ack_delay_us
    }

    /// Packets this much older than an acknowledged one are lost (RFC 9002 §6.1.2).
    pub(crate) fn loss_delay_us(&self, latest_us: u64) -> u64 {
        (u64::from(self.smoothed_us).max(latest_us) * 9 / 8).max(GRANULARITY_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_formulas_of_the_rfc() {
        let mut rtt = Rtt::from_sample(100_000);
        assert_eq!((rtt.smoothed_us, rtt.variation_us), (100_000, 50_000));
        // Adjusted by the delay to 80 ms: 7/8 * 100 + 1/8 * 80, 3/4 * 50 + 1/4 * 20. Below the minimum, so not adjusted.
        rtt.update(90_000, 10_000);
        assert_eq!(rtt.min_us, 90_000);
        assert_eq!(rtt.smoothed_us, (7 * 100_000 + 90_000) / 8);
        let before = rtt;
        rtt.update(130_000, 10_000);
        assert_eq!(
            rtt.smoothed_us,
            (7 * before.smoothed_us + 120_000) / 8,
            "130 - 10 stays above the minimum, so the delay counts"
        );
        assert_eq!(
            rtt.probe_timeout_us(25_000),
            u64::from(rtt.smoothed_us + 4 * rtt.variation_us) + 25_000
        );
    }

    #[test]
    fn the_first_sample_replaces_what_was_assumed() {
        for us in [20_000, 900_000] {
            let mut rtt = Rtt::unknown();
            assert_eq!(rtt.probe_timeout_us(0), 3 * u64::from(INITIAL_RTT_US));
            rtt.update(us, 25_000);
            assert_eq!(rtt, Rtt::from_sample(us as u32));
        }
    }

    #[test]
    fn timeouts_keep_above_the_granularity() {
        let rtt = Rtt {
            smoothed_us: 50,
            variation_us: 0,
            min_us: 50,
        };
        assert_eq!(rtt.probe_timeout_us(0), 50 + GRANULARITY_US);
        assert_eq!(rtt.loss_delay_us(0), GRANULARITY_US);
    }
}
