//! The table for people, the JSON document for programs. Keys of the document stay as they are; new ones may come.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::engine::{self, Counted};
use crate::proc::{self, Machine};
use crate::settings::Settings;

/// Packages whose versions a reader wants to know.
const PACKAGES: [&str; 2] = ["sled", "roaring"];

const LOCK: &str = include_str!("../../Cargo.lock");

/// Longest time that is told apart, in microseconds: an hour. What took longer counts as that.
const LONGEST_US: u64 = 3_600_000_000;

/// Times in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        // Three digits are within 0 to 5, which is all that is checked.
        Self(Histogram::new(3).unwrap_or_else(|error| unreachable!("{error}")))
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(LONGEST_US);
        // Resizes as needed, and the number is in range.
        let _ = self.0.record(us.min(LONGEST_US));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Milliseconds; 0 while nothing was recorded.
    pub(crate) fn ms_at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1000.0
    }
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// One thing that was found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: Option<Target>,
    /// `None` without a target.
    pub(crate) reached: Option<bool>,
}

/// A moment of a long run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Moment {
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    /// Since the moment before.
    pub(crate) messages_per_s: f64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

/// Everything that a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    settings: &'a Settings,
    durability: &'static str,
    machine: Machine,
    /// Package and version.
    versions: BTreeMap<&'static str, &'static str>,
    command: String,
    seconds: f64,
    /// Cores that were busy with this run, on average over all of it.
    own_cores: f64,
    /// Cores that other programs kept busy meanwhile: with them, latencies and rates are worse than the store's own.
    others_cores: f64,
    /// By name.
    figures: BTreeMap<&'static str, Figure>,
    /// What reached the engine in each measured part.
    engine: BTreeMap<&'static str, Counted>,
    /// Of `large`.
    moments: Vec<Moment>,
    #[serde(skip)]
    order: Vec<&'static str>,
    #[serde(skip)]
    began: Instant,
    #[serde(skip)]
    busy: Duration,
}

impl<'a> Report<'a> {
    pub(crate) fn begin(settings: &'a Settings) -> Self {
        Self {
            settings,
            durability: engine::durability(settings.engine),
            machine: Machine::here(),
            versions: PACKAGES.map(|name| (name, version(name))).into(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            seconds: 0.0,
            own_cores: 0.0,
            others_cores: 0.0,
            figures: BTreeMap::new(),
            engine: BTreeMap::new(),
            moments: Vec::new(),
            order: Vec::new(),
            began: Instant::now(),
            busy: proc::busy(),
        }
    }

    /// Adds a figure without a target.
    pub(crate) fn add(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.figure(name, value, unit, None);
    }

    /// Adds one with a target.
    pub(crate) fn judge(
        &mut self,
        name: &'static str,
        value: f64,
        unit: &'static str,
        target: Target,
    ) {
        self.figure(name, value, unit, Some(target));
    }

    fn figure(
        &mut self,
        name: &'static str,
        value: f64,
        unit: &'static str,
        target: Option<Target>,
    ) {
        self.order.push(name);
        let reached = target.map(|target| target.is_reached(value));
        let figure = Figure {
            value,
            unit,
            target,
            reached,
        };
        self.figures.insert(name, figure);
    }

    /// Adds what reached the engine in a part of the run.
    pub(crate) fn count(&mut self, part: &'static str, counted: Counted) {
        self.engine.insert(part, counted);
    }

    pub(crate) fn moments(&mut self, moments: Vec<Moment>) {
        self.moments = moments;
    }

    pub(crate) fn finish(&mut self) {
        self.seconds = self.began.elapsed().as_secs_f64();
        let busy = proc::busy().saturating_sub(self.busy);
        let own = proc::family_cpu();
        self.own_cores = own.as_secs_f64() / self.seconds;
        self.others_cores = busy.saturating_sub(own).as_secs_f64() / self.seconds;
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// The version of a package that this was built with.
fn version(package: &str) -> &'static str {
    let mut lines = LOCK.lines();
    let name = format!("name = \"{package}\"");
    lines
        .find(|line| **line == name)
        .and_then(|_| lines.next())
        .and_then(|line| line.strip_prefix("version = \""))
        .map_or("?", |version| version.trim_end_matches('"'))
}

/// Four digits, as far as there are so many.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            settings, machine, ..
        } = self;
        writeln!(
            f,
            "{:?} on {}, {}; cache {} MiB, {} devices{}, {} messages, {} B of content, file system {}",
            settings.scenario,
            settings.engine.name(),
            self.durability,
            settings.cache_bytes >> 20,
            settings.devices,
            if settings.has_registrations {
                ""
            } else {
                " without registrations"
            },
            settings.messages,
            settings.content_bytes,
            settings.file_system
        )?;
        writeln!(
            f,
            "{} cores ({}), {:.0} GiB, Linux {}, {}, commit {}; jemalloc; cores busy on average: {:.1} here, {:.1} with other programs\n",
            machine.cpus,
            machine.cpu_model,
            machine.memory_bytes as f64 / f64::from(1 << 30),
            machine.kernel,
            machine.rustc,
            machine.commit,
            self.own_cores,
            self.others_cores
        )?;
        writeln!(
            f,
            "{:44} {:>12} {:10} {:>14}  reached",
            "figure", "value", "unit", "target"
        )?;
        for name in &self.order {
            let Some(figure) = self.figures.get(name) else {
                continue;
            };
            let target = match figure.target {
                None => String::new(),
                Some(Target::AtLeast(bound)) => format!(">= {}", number(bound)),
                Some(Target::AtMost(bound)) => format!("<= {}", number(bound)),
            };
            let reached = match figure.reached {
                None => "",
                Some(true) => "yes",
                Some(false) => "NO",
            };
            writeln!(
                f,
                "{name:44} {:>12} {:10} {target:>14}  {reached}",
                number(figure.value),
                figure.unit
            )?;
        }
        Ok(())
    }
}
