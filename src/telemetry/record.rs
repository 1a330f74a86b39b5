//! Counting: from a [`Metric`] to a number that Prometheus can read.
//!
//! [`install`] registers every series once and keeps its handle at a fixed index, so that counting costs an array
//! access and an atomic addition: no look-up by name, no lock. A histogram's samples wait in memory until they are
//! put into buckets; that happens on [`MetricsHandle::render`] and every [`SAMPLES_PENDING_MAX`] samples, so nobody
//! has to scrape to keep memory bounded.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::metric::{Kind, Metric, Unit};

/// Samples of all histograms that may wait to be put into buckets: 128 KiB.
const SAMPLES_PENDING_MAX: u32 = 8192;

/// Upper ends of the buckets, in seconds: from an answer out of memory to a disk that hangs.
const BUCKETS_SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

static RECORDER: OnceLock<Installed> = OnceLock::new();

struct Installed {
    by_metric: Vec<Series>,
    samples: AtomicU32,
    exporter: PrometheusHandle,
}

/// The handles of one metric: one for each value of its label, in the order of the table, or a single one.
enum Series {
    Counters(Vec<Counter>),
    Gauges(Vec<Gauge>),
    Histogram(Histogram),
}

/// Shows the numbers. Cheap to clone.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// All series in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsHandle")
    }
}

/// Starts counting, for the whole process. A second call returns a handle to the same numbers.
pub fn install() -> MetricsHandle {
    MetricsHandle(RECORDER.get_or_init(Installed::new).exporter.clone())
}

impl Installed {
    fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS_SECONDS)
            .expect("there are buckets")
            .build_recorder();
        let by_metric = Metric::ALL
            .iter()
            .map(|metric| register(&recorder, *metric))
            .collect();
        Self {
            by_metric,
            samples: AtomicU32::new(0),
            exporter: recorder.handle(),
        }
    }

    fn count(&self, metric: Metric, place: usize, n: u64) {
        if let Series::Counters(counters) = &self.by_metric[metric as usize] {
            counters[place].increment(n);
        }
    }

    fn gauge(&self, metric: Metric, place: usize, apply: impl FnOnce(&Gauge)) {
        if let Series::Gauges(gauges) = &self.by_metric[metric as usize] {
            apply(&gauges[place]);
        }
    }

    fn seconds(&self, metric: Metric, duration: Duration) {
        if let Series::Histogram(histogram) = &self.by_metric[metric as usize] {
            histogram.record(duration.as_secs_f64());
            let before = self.samples.fetch_add(1, Ordering::Relaxed);
            if before % SAMPLES_PENDING_MAX == SAMPLES_PENDING_MAX - 1 {
                self.exporter.run_upkeep();
            }
        }
    }
}

fn register(recorder: &impl Recorder, metric: Metric) -> Series {
    static METADATA: Metadata<'static> = Metadata::new("petrel", Level::INFO, None);

    let definition = metric.definition();
    let keys: Vec<Key> = match definition.label {
        None => vec![Key::from_static_name(definition.name)],
        Some(label) => label
            .values
            .iter()
            .map(|value| Key::from_parts(definition.name, &[(label.key, *value)]))
            .collect(),
    };
    let name = KeyName::from_const_str(definition.name);
    let help = definition.help.into();
    let unit = Some(match definition.unit {
        Unit::Count => metrics::Unit::Count,
        Unit::Seconds => metrics::Unit::Seconds,
        Unit::Bytes => metrics::Unit::Bytes,
    });
    match definition.kind {
        Kind::Counter => {
            recorder.describe_counter(name, unit, help);
            let register = |key| recorder.register_counter(key, &METADATA);
            Series::Counters(keys.iter().map(register).collect())
        }
        Kind::Gauge => {
            recorder.describe_gauge(name, unit, help);
            let register = |key| recorder.register_gauge(key, &METADATA);
            Series::Gauges(keys.iter().map(register).collect())
        }
        Kind::Histogram => {
            recorder.describe_histogram(name, unit, help);
            let key = Key::from_static_name(definition.name);
            Series::Histogram(recorder.register_histogram(&key, &METADATA))
        }
    }
}

/// Where a value of a metric's label stands. A mistake is a panic in tests, in every profile; in production it counts
/// nothing.
fn place(metric: Metric, kind: Kind, label_value: Option<&str>) -> Option<usize> {
    let definition = metric.definition();
    let place = match (definition.label, label_value) {
        _ if definition.kind != kind => None,
        (None, None) => Some(0),
        (Some(label), Some(value)) => label.values.iter().position(|v| *v == value),
        _ => None,
    };
    assert!(
        place.is_some() || !cfg!(any(test, debug_assertions)),
        "{metric:?} is no {kind:?} with label {label_value:?}"
    );
    place
}

fn count(metric: Metric, label_value: Option<&str>, n: u64) {
    let place = place(metric, Kind::Counter, label_value);
    if let (Some(installed), Some(place)) = (RECORDER.get(), place) {
        installed.count(metric, place, n);
    }
}

fn with_gauge(metric: Metric, label_value: Option<&str>, apply: impl FnOnce(&Gauge)) {
    let place = place(metric, Kind::Gauge, label_value);
    if let (Some(installed), Some(place)) = (RECORDER.get(), place) {
        installed.gauge(metric, place, apply);
    }
}

/// Adds to a counter without a label.
pub fn counter(metric: Metric, n: u64) {
    count(metric, None, n);
}

/// Adds to a counter, for one value of its label.
pub fn counter_with(metric: Metric, label_value: &'static str, n: u64) {
    count(metric, Some(label_value), n);
}

/// Sets a gauge without a label. Exact up to 2^53.
pub fn gauge(metric: Metric, value: u64) {
    with_gauge(metric, None, |gauge| gauge.set(value as f64));
}

/// Sets a gauge, for one value of its label. Exact up to 2^53.
pub fn gauge_with(metric: Metric, label_value: &'static str, value: u64) {
    with_gauge(metric, Some(label_value), |gauge| gauge.set(value as f64));
}

/// Moves a gauge without a label up or down.
pub fn gauge_add(metric: Metric, change: i64) {
    with_gauge(metric, None, |gauge| gauge.increment(change as f64));
}

/// Puts a duration into a histogram.
pub fn seconds(metric: Metric, duration: Duration) {
    let place = place(metric, Kind::Histogram, None);
    if let (Some(installed), Some(_)) = (RECORDER.get(), place) {
        installed.seconds(metric, duration);
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::Label;
    use super::*;

    fn has(installed: &Installed, line: &str) {
        let text = installed.exporter.render();
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }

    #[test]
    fn every_series_is_there_from_the_start_with_help_and_type() {
        let installed = Installed::new();
        for metric in Metric::ALL {
            let definition = metric.definition();
            let name = definition.name;
            has(&installed, &format!("# HELP {name} {}", definition.help));
            match (definition.kind, definition.label) {
                (Kind::Histogram, _) => has(&installed, &format!("# TYPE {name} histogram")),
                (_, None) => has(&installed, &format!("{name} 0")),
                (_, Some(Label { key, values })) => {
                    for value in values {
                        has(&installed, &format!("{name}{{{key}=\"{value}\"}} 0"));
                    }
                }
            }
        }
    }

    #[test]
    fn counters_gauges_and_buckets_take_what_they_are_given() {
        let installed = Installed::new();
        let opted_out = place(Metric::DeliverySettled, Kind::Counter, Some("opted-out")).unwrap();
        installed.count(Metric::DeliverySettled, opted_out, 3);
        has(
            &installed,
            "petrel_delivery_settled_total{outcome=\"opted-out\"} 3",
        );
        installed.gauge(Metric::FanoutWaiting, 0, |g| g.set(5.0));
        installed.gauge(Metric::FanoutWaiting, 0, |g| g.increment(-2.0));
        has(&installed, "petrel_fanout_waiting 3");
        installed.seconds(Metric::StoreCommitSeconds, Duration::from_millis(2));
        has(
            &installed,
            "petrel_store_commit_seconds_bucket{le=\"0.001\"} 0",
        );
        has(
            &installed,
            "petrel_store_commit_seconds_bucket{le=\"0.0025\"} 1",
        );
        has(&installed, "petrel_store_commit_seconds_count 1");
    }

    #[test]
    fn the_public_functions_reach_what_install_shows() {
        counter(Metric::StoreUnreadable, 0);
        gauge_add(Metric::ShardSessions, 0);
        let handle = install();
        counter_with(Metric::ApiConnectionsEnded, "idle", 1);
        let shown = "petrel_api_connections_ended_total{reason=\"idle\"} ";
        let text = install().render();
        let line = text.lines().find(|l| l.starts_with(shown)).unwrap();
        assert!(line[shown.len()..].parse::<u64>().unwrap() >= 1);
        assert_eq!(format!("{handle:?}"), "MetricsHandle");
    }

    #[test]
    #[should_panic(expected = "is no Counter with label")]
    fn a_value_outside_the_closed_set_is_a_mistake() {
        counter_with(Metric::QuicDatagrams, "sideways", 1);
    }

    #[test]
    #[should_panic(expected = "is no Gauge with label")]
    fn another_kind_is_a_mistake() {
        gauge(Metric::StoreCommits, 1);
    }
}
