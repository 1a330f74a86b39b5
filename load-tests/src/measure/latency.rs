//! Times, counted in a histogram for each socket and added up at the end.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest time that is told apart, in microseconds: an hour. What took longer counts as that.
const LONGEST_US: u64 = 3_600_000_000;

/// Times in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    pub(crate) count: u64,
}

impl Latencies {
    /// Empty. Grows with the longest time it holds: a socket that hears little takes little.
    pub(crate) fn new() -> Self {
        // Three digits are within 0 to 5, which is all that is checked.
        Self(Histogram::new(3).unwrap_or_else(|error| unreachable!("{error}")))
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros())
            .unwrap_or(LONGEST_US)
            .min(LONGEST_US);
        // Resizes as needed, and a number is in range.
        let _ = self.0.record(us);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Both resize as needed.
        let _ = self.0.add(&other.0);
    }

    /// `None` while nothing was recorded.
    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |quantile| ms(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(self.0.max()),
            count: self.0.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_halves_make_the_whole() {
        let (mut even, mut odd) = (Latencies::new(), Latencies::new());
        for ms in 1..=1000 {
            let half = if ms % 2 == 0 { &mut even } else { &mut odd };
            half.record(Duration::from_millis(ms));
        }
        even.add(&odd);
        let q = even.quantiles().unwrap();
        assert_eq!(q.count, 1000);
        for (value, expect) in [
            (q.p50, 500.0),
            (q.p90, 900.0),
            (q.p99, 990.0),
            (q.p999, 999.0),
            (q.max, 1000.0),
        ] {
            assert!(
                (value - expect).abs() <= expect / 1000.0 + 1.0,
                "{value} for {expect}"
            );
        }
    }

    #[test]
    fn an_hour_is_the_longest_and_nothing_is_no_quantile() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantiles(), None);
        latencies.record(Duration::from_secs(1_000_000));
        let max = latencies.quantiles().unwrap().max;
        assert!((3_599_000.0..3_604_000.0).contains(&max), "{max}");
    }
}
