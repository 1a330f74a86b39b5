//! The broker's `/metrics`, as far as it is needed here.

use std::collections::BTreeMap;

/// Values by name and labels, as they are written: `petrel_quic_datagrams_total{direction="sent"}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

/// Datagrams of both directions.
const DATAGRAMS: [&str; 2] = [
    "petrel_quic_datagrams_total{direction=\"received\"}",
    "petrel_quic_datagrams_total{direction=\"sent\"}",
];
const ACKED: &str = "petrel_delivery_settled_total{outcome=\"acked\"}";
const MEMORY: &str = "petrel_memory_bytes{owner=\"";

impl Metrics {
    /// Reads the Prometheus text format; lines that are no sample are skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            if line.starts_with('#') {
                return None;
            }
            let (name, value) = line.trim().rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter_map(sample).collect())
    }

    fn count(&self, name: &str) -> Option<u64> {
        // Counters are whole numbers far below 2^53.
        self.0.get(name).map(|value| *value as u64)
    }

    /// Datagrams that the broker sent and received.
    pub(crate) fn datagrams(&self) -> Option<u64> {
        DATAGRAMS.iter().map(|name| self.count(name)).sum()
    }

    /// Deliveries that the broker took an ack for.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.count(ACKED)
    }

    /// Bytes that each part of the broker says it holds.
    pub(crate) fn memory_by_owner(&self) -> BTreeMap<String, f64> {
        let owner = |(name, value): (&String, &f64)| {
            let owner = name.strip_prefix(MEMORY)?.strip_suffix("\"}")?;
            Some((owner.to_owned(), *value))
        };
        self.0.iter().filter_map(owner).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP petrel_quic_datagrams_total UDP datagrams, by direction.
# TYPE petrel_quic_datagrams_total counter
petrel_quic_datagrams_total{direction=\"sent\"} 30
petrel_quic_datagrams_total{direction=\"received\"} 12

petrel_delivery_settled_total{outcome=\"acked\"} 7
petrel_memory_bytes{owner=\"sessions\"} 1.5e3
petrel_memory_bytes{owner=\"directory\"} 10
odd
";

    #[test]
    fn the_broker_s_text_is_understood() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.datagrams(), Some(42));
        assert_eq!(metrics.acked(), Some(7));
        let owners = metrics.memory_by_owner();
        assert_eq!(owners.len(), 2);
        assert!((owners["sessions"] - 1500.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        let metrics = Metrics::parse("petrel_quic_datagrams_total{direction=\"sent\"} 30\n");
        assert_eq!((metrics.datagrams(), metrics.acked()), (None, None));
    }
}
