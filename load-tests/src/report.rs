//! What a run ends with: one JSON document with stable keys, and the same in short for people.
//!
//! Every key is always there; `null` is what a scenario does not measure or a broker does not tell. The keys are
//! described in `load-tests/README.md`, and a test checks that all of them are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::latency::Quantiles;
use crate::measure::machine::Machine;
use crate::measure::window::Window;
use crate::progress::grouped;

/// Problems that are kept; the first ones tell most.
const PROBLEMS_MAX: usize = 20;

/// The document. Keys stand in this order.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    /// Whether everything that has to hold held; `problems` says what did not.
    pub(crate) ok: bool,
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) settings: toml::Table,
    pub(crate) command: String,
    pub(crate) commit: Option<String>,
    pub(crate) machine: Machine,
    pub(crate) started_at_unix_ms: u64,
    pub(crate) seconds: f64,

    pub(crate) devices: u32,
    pub(crate) sockets: u32,
    pub(crate) threads: u32,
    pub(crate) connected_peak: u64,
    pub(crate) registered_new: u64,
    pub(crate) connect_retries: u64,
    pub(crate) cut_off: u64,

    pub(crate) connects_per_s: Option<f64>,
    pub(crate) connect_ms: Option<Quantiles>,
    pub(crate) server_cpu_us_per_handshake: Option<f64>,
    pub(crate) generator_cpu_us_per_handshake: Option<f64>,
    pub(crate) resumed_connects_per_s: Option<f64>,
    pub(crate) resumed_connect_ms: Option<Quantiles>,
    pub(crate) server_cpu_us_per_resumed_handshake: Option<f64>,
    pub(crate) generator_cpu_us_per_resumed_handshake: Option<f64>,

    pub(crate) server_pss_bytes: Option<u64>,
    pub(crate) generator_pss_bytes: Option<u64>,
    pub(crate) server_bytes_per_device: Option<f64>,
    pub(crate) server_bytes_base: Option<f64>,
    pub(crate) server_bytes_residual_max: Option<f64>,
    pub(crate) server_bytes_per_device_by_owner: BTreeMap<String, f64>,
    pub(crate) generator_bytes_per_device: Option<f64>,
    pub(crate) memory: Vec<MemoryPoint>,
    pub(crate) server_growth_bytes: Option<i64>,
    pub(crate) server_bytes_after_broadcast: Option<u64>,

    pub(crate) published: u64,
    pub(crate) deliveries: u64,
    pub(crate) publish_to_app_ms: Option<Quantiles>,
    pub(crate) broadcasts_per_s: Option<f64>,
    pub(crate) broadcasts_per_s_intended: Option<f64>,
    pub(crate) publish_late_ms_max: Option<f64>,
    pub(crate) deliveries_per_s: Option<f64>,
    pub(crate) acked_deliveries_per_s: Option<f64>,
    pub(crate) server_cpu_us_per_delivery: Option<f64>,
    pub(crate) server_cpu_us_per_delivery_by_thread: BTreeMap<String, f64>,
    pub(crate) generator_cpu_us_per_delivery: Option<f64>,
    pub(crate) packets_per_delivery: Option<f64>,
    pub(crate) lost: Option<u64>,
    pub(crate) doubled: Option<u64>,
    pub(crate) foreign: Option<u64>,
    pub(crate) gaps: u64,

    pub(crate) rcvbuf_errors: u64,
    pub(crate) server_socket_drops: u64,
    pub(crate) generator_socket_drops: u64,
    pub(crate) generator_limited: bool,
}

/// Memory at one moment.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemoryPoint {
    /// Since the run began.
    pub(crate) seconds: f64,
    pub(crate) stage: &'static str,
    pub(crate) connected: u64,
    pub(crate) server_bytes: Option<u64>,
    pub(crate) generator_bytes: Option<u64>,
}

impl Report {
    /// Nothing measured yet.
    pub(crate) fn new(scenario: &'static str, settings: toml::Table) -> Self {
        Self {
            scenario,
            ok: true,
            settings,
            command: command(std::env::args()),
            commit: crate::measure::machine::commit(),
            machine: Machine::here(),
            started_at_unix_ms: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            ..Self::default()
        }
    }

    /// Something that has to hold did not.
    pub(crate) fn problem(&mut self, text: impl Into<String>) {
        self.ok = false;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text.into());
        }
    }

    /// Takes a window's drops, and whether the generator set the pace in it.
    pub(crate) fn note(&mut self, what: &str, window: &Window) {
        self.rcvbuf_errors += window.drops.rcvbuf_errors;
        self.server_socket_drops += window.drops.server;
        self.generator_socket_drops += window.drops.generator;
        let limits = window.generator_limits(what, self.threads, self.machine.cpus);
        self.generator_limited |= !limits.is_empty();
        self.warnings.extend(limits);
        if let Some(share) = window.disturbance(self.machine.cpus) {
            self.warnings.push(format!(
                "{what}: other processes took {:.0} % of the machine; measure when it is quiet",
                share * 100.0
            ));
        }
        if window.drops.server > 0 {
            self.warnings.push(format!(
                "{what}: {} datagrams were dropped at the broker's full socket; raise its quic.socket_buffer, and \
                 net.core.rmem_max",
                window.drops.server
            ));
        }
    }

    /// The document, with a line's end.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What was measured, in short.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("\n");
        // Writing to a string cannot fail.
        for (what, value) in self.rows() {
            if let Some(value) = value {
                let _ = writeln!(text, "  {what:<36} {value}");
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "! {warning}");
        }
        for problem in &self.problems {
            let _ = writeln!(text, "✗ {problem}");
        }
        text
    }

    /// What there is to show; `None` where it was not measured.
    fn rows(&self) -> [(&'static str, Option<String>); 17] {
        let growth = self
            .server_growth_bytes
            .map(|bytes| format!("{:.1} KiB", bytes as f64 / 1024.0));
        let counts = self.lost.zip(self.doubled).map(|(lost, doubled)| {
            let all = grouped(self.deliveries + lost);
            format!(
                "{} lost, {} doubled of {all}",
                grouped(lost),
                grouped(doubled)
            )
        });
        [
            (
                "devices connected, at most",
                Some(grouped(self.connected_peak)),
            ),
            ("connects a second", whole(self.connects_per_s)),
            ("connect", times(self.connect_ms)),
            (
                "broker's CPU, a full handshake",
                us(self.server_cpu_us_per_handshake),
            ),
            (
                "resumed connects a second",
                whole(self.resumed_connects_per_s),
            ),
            (
                "broker's CPU, a resumed handshake",
                us(self.server_cpu_us_per_resumed_handshake),
            ),
            ("broker's memory", mib(self.server_pss_bytes)),
            (
                "broker's bytes a device (slope)",
                whole(self.server_bytes_per_device),
            ),
            (
                "generator's bytes a device (slope)",
                whole(self.generator_bytes_per_device),
            ),
            ("growth while held", growth),
            (
                "broker's memory after a broadcast",
                mib(self.server_bytes_after_broadcast),
            ),
            (
                "deliveries a second, acked",
                whole(self.acked_deliveries_per_s),
            ),
            ("publish to app", times(self.publish_to_app_ms)),
            (
                "broker's CPU, a delivery with ack",
                us(self.server_cpu_us_per_delivery),
            ),
            (
                "generator's CPU, a delivery with ack",
                us(self.generator_cpu_us_per_delivery),
            ),
            (
                "packets a delivery",
                self.packets_per_delivery.map(|value| format!("{value:.2}")),
            ),
            ("deliveries", counts),
        ]
    }
}

fn whole(value: Option<f64>) -> Option<String> {
    value.map(|value| grouped(value.max(0.0).round() as u64))
}

fn us(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.1} µs"))
}

fn mib(bytes: Option<u64>) -> Option<String> {
    bytes.map(|bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
}

fn times(quantiles: Option<Quantiles>) -> Option<String> {
    let Quantiles {
        p50,
        p90,
        p99,
        p999,
        max,
        ..
    } = quantiles?;
    Some(format!(
        "p50 {p50:.1} ms, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1}"
    ))
}

/// The command line with its secrets left out: records are shown around.
fn command(arguments: impl Iterator<Item = String>) -> String {
    const SECRET: [&str; 2] = ["--app-key", "--api-key"];
    let mut words = Vec::new();
    let mut is_secret = false;
    for (at, argument) in arguments.enumerate() {
        let argument = match argument.split_once('=') {
            _ if is_secret => "…".to_owned(),
            // The program by its name: where it lies is nobody's business.
            _ if at == 0 => argument.rsplit('/').next().unwrap_or_default().to_owned(),
            Some((flag, _)) if SECRET.contains(&flag) => format!("{flag}=…"),
            _ => argument,
        };
        is_secret = SECRET.contains(&argument.as_str());
        words.push(argument);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../README.md");

    #[test]
    fn every_key_is_described_and_every_description_has_a_key() {
        let report = Report::new("idle", toml::Table::new());
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let keys: Vec<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert!(keys.len() > 50);
        let table = README.split("## The JSON document").nth(1).unwrap();
        let table = table.split("\n## ").next().unwrap();
        let rows: Vec<&str> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let described: Vec<&str> = rows
            .iter()
            .flat_map(|row| row.split('|').nth(1).unwrap_or_default().split(','))
            .map(|key| key.trim().trim_matches('`'))
            .collect();
        for key in &keys {
            assert!(described.contains(key), "{key} is not in the README");
        }
        for key in &described {
            assert!(
                keys.contains(key),
                "the README describes {key}, which is not there"
            );
        }
    }

    #[test]
    fn secrets_do_not_get_into_the_record() {
        let words =
            "/opt/bin/petrel-load run idle --api-key secret1 --app-key=secret2 --set devices=5";
        assert_eq!(
            command(words.split(' ').map(str::to_owned)),
            "petrel-load run idle --api-key … --app-key=… --set devices=5"
        );
    }

    #[test]
    fn a_problem_makes_the_run_a_failure() {
        let mut report = Report::new("idle", toml::Table::new());
        report.lost = Some(3);
        report.doubled = Some(0);
        report.problem("3 lost");
        assert!(!report.ok);
        let text = report.text();
        assert!(
            text.contains("✗ 3 lost") && text.contains("3 lost, 0 doubled of 3"),
            "{text}"
        );
    }
}
