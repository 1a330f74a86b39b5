//! What the kernel says of a process and of the machine.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// CPU time that all threads of a process have used. Exact for threads that sleep: of one that runs the last tick may be
/// missing.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let used = schedstat
            .split_whitespace()
            .next()
            .context("no schedstat")?;
        ns += used.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(ns))
}

/// Bytes of memory that are the process's own, in the machine and swapped out: Pss and SwapPss.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |key: &str| -> Result<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.trim().strip_suffix("kB"));
        Ok(number
            .with_context(|| format!("no {key}"))?
            .trim()
            .parse()?)
    };
    Ok((kib("Pss:")? + kib("SwapPss:")?) * 1024)
}

/// Where and of what a run was made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) cpu_model: String,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    /// Of the working directory; `-dirty` where files differ from it.
    pub(crate) commit: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |path: &str, key: &str| {
            let text = read(path);
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default()
                .trim_start_matches([':', ' ', '\t'])
                .to_owned()
        };
        let memory = after("/proc/meminfo", "MemTotal");
        let kib: u64 = memory
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        let dirt = said("git", &["status", "--porcelain", "--untracked-files=no"]);
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: after("/proc/cpuinfo", "model name"),
            memory_bytes: kib * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rustc: said("rustc", &["--version"]),
            commit: if dirt.is_empty() {
                commit
            } else {
                format!("{commit}-dirty")
            },
        }
    }
}

/// What a program answers, and nothing if it cannot.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Threads that wanted to run in the last minute, on average: above the number of cores they waited for each other.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Cores that were busy since the machine started, whoever with, in seconds.
pub(crate) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    // User, nice, system, idle, waiting for disks, interrupts, soft interrupts, taken by the hypervisor; steps of 10 ms.
    let ticks: u64 = all
        .unwrap_or_default()
        .split_whitespace()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4))
        .map(|(_, ticks)| ticks.parse().unwrap_or(0))
        .sum();
    Duration::from_millis(10 * ticks)
}
