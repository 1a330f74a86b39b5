//! Where and of what a run was made: what a reader needs to repeat it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) cpu_model: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) kernel: Option<String>,
    /// What the kernel grants a socket at most: `net.core.rmem_max` and `wmem_max`.
    pub(crate) rmem_max: Option<u64>,
    pub(crate) wmem_max: Option<u64>,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let number = |path: &str| read(path)?.parse().ok();
        let after = |path: &str, key: &str| -> Option<String> {
            let text = read(path)?;
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_start_matches([':', ' ', '\t']).trim().to_owned())
        };
        let memory = after("/proc/meminfo", "MemTotal").and_then(|text| {
            let kib: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib * 1024)
        });
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: after("/proc/cpuinfo", "model name"),
            memory_bytes: memory,
            kernel: read("/proc/sys/kernel/osrelease"),
            rmem_max: number("/proc/sys/net/core/rmem_max"),
            wmem_max: number("/proc/sys/net/core/wmem_max"),
        }
    }
}

/// How long the machine's cores have been busy since it started, whoever with, in all; steps of 10 ms.
pub(crate) fn busy() -> Option<Duration> {
    parse_busy(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_busy(stat: &str) -> Option<Duration> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // User, nice, system, idle, waiting for disks, interrupts, soft interrupts, taken by the hypervisor. Time of guests
    // is in the first two.
    let ticks: Vec<u64> = all
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _, _, interrupts, soft, stolen] = ticks.as_slice() else {
        return None;
    };
    Some(Duration::from_millis(
        10 * (user + nice + system + interrupts + soft + stolen),
    ))
}

/// The commit of the checkout that the command was given in; `-dirty` where files differ from it.
pub(crate) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        commit
    } else {
        format!("{commit}-dirty")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_cores_are_not_busy() {
        let stat = "cpu  100 20 3 99999 99999 4 5 6 70 8\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_busy(stat), Some(Duration::from_millis(1380)));
        assert_eq!(parse_busy("cpu  1 2 3\n"), None);
        assert!(busy().is_some_and(|busy| !busy.is_zero()));
    }

    #[test]
    fn a_linux_machine_tells_about_itself() {
        let machine = Machine::here();
        assert!(machine.cpus > 0);
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(machine.kernel.is_some_and(|kernel| kernel.contains('.')));
    }
}
