//! A stretch of a run: CPU, datagrams and drops between two moments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::cpu::Cpu;
use super::machine;
use super::metrics::Metrics;
use super::udp::Drops;

/// Share of a core from which on a thread of the generator counts as busy all the time.
const BUSY: f64 = 0.9;

/// Share of the machine from which on others count as a disturbance.
const DISTURBING: f64 = 0.1;

/// Everything that is read at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) server: Option<Cpu>,
    pub(crate) generator: Option<Cpu>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) drops: Drops,
    /// All cores, whoever kept them busy.
    pub(crate) busy: Option<Duration>,
}

impl Sample {
    /// Of now. `metrics` were asked for by the caller.
    pub(crate) fn now(
        pid: Option<u32>,
        metrics: Option<Metrics>,
        server: SocketAddr,
        generator: &BTreeSet<SocketAddr>,
    ) -> Self {
        Self {
            at: Instant::now(),
            server: pid.and_then(Cpu::of),
            generator: Cpu::own(),
            metrics,
            drops: Drops::now(server, generator),
            busy: machine::busy(),
        }
    }
}

/// What happened between two samples. Windows can be added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    pub(crate) elapsed: Duration,
    /// By thread; empty where it is not known.
    pub(crate) server_cpu: BTreeMap<String, Duration>,
    pub(crate) generator_cpu: BTreeMap<String, Duration>,
    pub(crate) datagrams: Option<u64>,
    pub(crate) drops: Drops,
    /// Of all cores, whoever kept them busy.
    pub(crate) busy: Duration,
}

impl Window {
    pub(crate) fn between(from: &Sample, to: &Sample) -> Self {
        let used = |from: &Option<Cpu>, to: &Option<Cpu>| match (from, to) {
            (Some(from), Some(to)) => to.since(from),
            _ => BTreeMap::new(),
        };
        let datagrams = |sample: &Sample| sample.metrics.as_ref().and_then(Metrics::datagrams);
        Self {
            elapsed: to.at.saturating_duration_since(from.at),
            server_cpu: used(&from.server, &to.server),
            generator_cpu: used(&from.generator, &to.generator),
            datagrams: datagrams(to)
                .zip(datagrams(from))
                .map(|(to, from)| to.saturating_sub(from)),
            drops: to.drops.since(&from.drops),
            busy: to
                .busy
                .unwrap_or_default()
                .saturating_sub(from.busy.unwrap_or_default()),
        }
    }

    /// Adds a further stretch.
    pub(crate) fn add(&mut self, other: &Self) {
        self.elapsed += other.elapsed;
        for (sum, more) in [
            (&mut self.server_cpu, &other.server_cpu),
            (&mut self.generator_cpu, &other.generator_cpu),
        ] {
            for (name, used) in more {
                *sum.entry(name.clone()).or_default() += *used;
            }
        }
        self.datagrams = match (self.datagrams, other.datagrams) {
            (Some(a), Some(b)) => Some(a + b),
            (one, other) => one.or(other),
        };
        self.drops.rcvbuf_errors += other.drops.rcvbuf_errors;
        self.drops.server += other.drops.server;
        self.drops.generator += other.drops.generator;
        self.busy += other.busy;
    }

    /// The broker's CPU in microseconds for each of so many.
    pub(crate) fn server_us_per(&self, count: u64) -> Option<f64> {
        per(&self.server_cpu, count)
    }

    /// The generator's CPU in microseconds for each of so many.
    pub(crate) fn generator_us_per(&self, count: u64) -> Option<f64> {
        per(&self.generator_cpu, count)
    }

    /// So many in a second.
    pub(crate) fn rate(&self, count: u64) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (seconds > 0.0).then(|| count as f64 / seconds)
    }

    /// Why the generator, not the broker, may have set the pace of `what`. `lanes` threads of it carry devices.
    pub(crate) fn generator_limits(&self, what: &str, lanes: u32, cpus: usize) -> Vec<String> {
        let mut limits = Vec::new();
        let wall = self.elapsed.as_secs_f64().max(1e-9);
        let lane_cpu: Duration = self
            .generator_cpu
            .iter()
            .filter(|(name, _)| name.starts_with("lane"))
            .map(|(_, used)| *used)
            .sum();
        let share = lane_cpu.as_secs_f64() / wall / f64::from(lanes.max(1));
        if share >= BUSY {
            limits.push(format!(
                "{what}: the generator's threads were busy {:.0} % of the time; raise `threads`, or take it for a lower \
                 bound of what the broker can do",
                share * 100.0
            ));
        }
        let machine = self.own_cpu() / wall / cpus.max(1) as f64;
        if machine >= BUSY {
            limits.push(format!(
                "{what}: broker and generator together used {:.0} % of this machine's {cpus} cores and took them from \
                 each other",
                machine * 100.0
            ));
        }
        if self.drops.generator > 0 {
            limits.push(format!(
                "{what}: {} datagrams were dropped at the generator's full sockets; raise `sockets`, or net.core.rmem_max",
                self.drops.generator
            ));
        }
        limits
    }

    /// The share of the machine that was neither the broker's nor the generator's, if it was enough to disturb.
    pub(crate) fn disturbance(&self, cpus: usize) -> Option<f64> {
        if self.server_cpu.is_empty() {
            // Whose the rest was is not known.
            return None;
        }
        let all = self.elapsed.as_secs_f64() * cpus.max(1) as f64;
        let share = (self.busy.as_secs_f64() - self.own_cpu()) / all.max(1e-9);
        (share >= DISTURBING).then_some(share)
    }

    /// Seconds on a core, of broker and generator.
    fn own_cpu(&self) -> f64 {
        let sum: Duration = self
            .server_cpu
            .values()
            .chain(self.generator_cpu.values())
            .sum();
        sum.as_secs_f64()
    }
}

fn per(cpu: &BTreeMap<String, Duration>, count: u64) -> Option<f64> {
    let sum: Duration = cpu.values().sum();
    (count > 0 && !cpu.is_empty()).then(|| sum.as_secs_f64() * 1e6 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(server_ms: u64, lane_ms: u64, generator_drops: u64) -> Window {
        let cpu = |name: &str, ms| BTreeMap::from([(name.to_owned(), Duration::from_millis(ms))]);
        Window {
            elapsed: Duration::from_secs(1),
            server_cpu: cpu("petrel-shard-0", server_ms),
            generator_cpu: cpu("lane-0", lane_ms),
            datagrams: Some(10),
            drops: Drops {
                generator: generator_drops,
                ..Drops::default()
            },
            busy: Duration::from_millis(server_ms + lane_ms + 100),
        }
    }

    fn check(window: &Window, lanes: u32, cpus: usize, expect: &[&str]) {
        let limits = window.generator_limits("rounds", lanes, cpus);
        assert_eq!(limits.len(), expect.len(), "{limits:?}");
        for (limit, expect) in limits.iter().zip(expect) {
            assert!(limit.contains(expect), "{limits:?}");
        }
    }

    #[test]
    fn a_generator_at_its_limit_says_so() {
        check(&window(500, 899, 0), 1, 2, &[]);
        check(&window(500, 900, 0), 1, 2, &["90 % of the time"]);
        check(&window(500, 900, 0), 2, 2, &[]);
        check(
            &window(950, 880, 0),
            1,
            2,
            &["92 % of this machine's 2 cores"],
        );
        check(&window(100, 100, 3), 1, 2, &["3 datagrams"]);
    }

    #[test]
    fn others_on_the_machine_are_noticed() {
        let mut shared = window(500, 500, 0);
        assert_eq!(shared.disturbance(2), None);
        shared.busy += Duration::from_millis(300);
        assert_eq!(
            shared.disturbance(2).map(|share| (share * 100.0).round()),
            Some(20.0)
        );
        shared.server_cpu.clear();
        assert_eq!(shared.disturbance(2), None);
    }

    #[test]
    fn windows_add_up() {
        let mut sum = Window::default();
        assert_eq!((sum.server_us_per(1), sum.rate(1)), (None, None));
        sum.add(&window(100, 50, 1));
        sum.add(&window(200, 50, 2));
        assert_eq!(sum.elapsed, Duration::from_secs(2));
        assert_eq!((sum.datagrams, sum.drops.generator), (Some(20), 3));
        let us = sum.server_us_per(1000).unwrap();
        assert!((us - 300.0).abs() < 1e-9, "{us}");
        assert_eq!(sum.generator_us_per(1000).map(f64::round), Some(100.0));
        assert_eq!(sum.rate(1000).map(f64::round), Some(500.0));
        assert_eq!(sum.server_us_per(0), None);
    }
}
