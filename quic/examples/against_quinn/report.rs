//! The table for people, the JSON document for programs. Keys of the document stay as they are; new ones may come.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::{
    measure::{Broadcast, Figures, Round},
    proc::{self, Machine},
};

/// Packages whose versions a reader wants to know.
const PACKAGES: [&str; 4] = ["quinn", "quinn-proto", "rustls", "ring"];

const LOCK: &str = include_str!("../../../Cargo.lock");

/// Everything that a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// Package and version.
    versions: Vec<(&'static str, &'static str)>,
    connections: u32,
    rounds: u32,
    /// Load of the machine, a minute's average, when the run began and when it ended. The run itself adds up to 2.
    load_before: f64,
    load_after: f64,
    forms: Vec<Figures>,
}

impl Report {
    pub(crate) fn begin(connections: u32, rounds: u32) -> Self {
        Self {
            machine: Machine::here(),
            versions: PACKAGES.map(|name| (name, version(name))).to_vec(),
            connections,
            rounds,
            load_before: proc::load(),
            load_after: f64::NAN,
            forms: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, figures: Figures) {
        self.forms.push(figures);
    }

    pub(crate) fn finish(&mut self) {
        self.load_after = proc::load();
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} connections, medians of {} rounds; server CPU in µs, by schedstat; memory is Pss, a slope over three counts",
            self.connections, self.rounds
        )?;
        writeln!(
            f,
            "{} cores ({}), {:.0} GiB, Linux {}, {}, commit {}",
            machine.cpus,
            machine.cpu_model,
            machine.memory_bytes as f64 / f64::from(1 << 30),
            machine.kernel,
            machine.rustc,
            machine.commit
        )?;
        for (name, version) in &self.versions {
            write!(f, "{name} {version}, ")?;
        }
        writeln!(
            f,
            "jemalloc; load {:.1} before, {:.1} after\n",
            self.load_before, self.load_after
        )?;
        writeln!(
            f,
            "{:14} {:>10} {:>10} {:>8} {:>16} {:>14} {:>16} {:>14} {:>6}",
            "",
            "bytes per",
            "handshake",
            "256 B:",
            "with transport",
            "packets",
            "with application",
            "packets",
            "others"
        )?;
        writeln!(
            f,
            "{:14} {:>10} {:>10} {:>8} {:>16} {:>14} {:>16} {:>14} {:>6}",
            "server",
            "connection",
            "µs",
            "send µs",
            "ACKs µs",
            "out + in",
            "acks µs",
            "out + in",
            "cores"
        )?;
        for figures in &self.forms {
            let Figures {
                form,
                memory,
                handshake_us,
                send,
                transport_acked,
                application_acked,
                others_cores,
            } = figures;
            let packets = |broadcast: &Broadcast| {
                let Round {
                    packets_sent,
                    packets_received,
                    ..
                } = broadcast.median;
                format!("{packets_sent:.2} + {packets_received:.2}")
            };
            writeln!(
                f,
                "{:14} {:>10.0} {:>10.0} {:>8.2} {:>16.2} {:>14} {:>16.2} {:>14} {:>6.2}",
                form.name(),
                memory.bytes_per_connection,
                handshake_us,
                send.median.cpu_us,
                transport_acked.median.cpu_us,
                packets(transport_acked),
                application_acked.median.cpu_us,
                packets(application_acked),
                others_cores
            )?;
        }
        Ok(())
    }
}
