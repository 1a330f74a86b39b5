//! What the kernel says of memory, CPU, disk and machine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

/// Kernel ticks of `/proc` are hundredths of a second on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// CPU time of this process, threads that have ended included; in steps of 10 ms.
pub(crate) fn process_cpu() -> Duration {
    own_cpu(2)
}

/// The same with the children that were waited for.
pub(crate) fn family_cpu() -> Duration {
    own_cpu(4)
}

/// Of the process in user and kernel mode, of its children in both.
fn own_cpu(fields_taken: usize) -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program may contain anything, and ends with the last parenthesis.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(fields_taken)
        .filter_map(|n| n.parse::<u32>().ok())
        .sum();
    TICK * ticks
}

/// Bytes of memory that are this process's own, in the machine and swapped out: Pss and SwapPss.
pub(crate) fn memory() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    ["Pss:", "SwapPss:"]
        .into_iter()
        .filter_map(|key| kib(&rollup, key))
        .sum::<u64>()
        * 1024
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What this process asked of files and pipes, whether or not a disk had to move for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Io {
    /// Calls that read.
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

/// So far.
pub(crate) fn io() -> Io {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let number = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    };
    Io {
        reads: number("syscr:"),
        read_bytes: number("rchar:"),
        written_bytes: number("wchar:"),
    }
}

/// Bytes that the files of a directory take on disk.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    let output = said("du", &["-s", "-B1", &dir.to_string_lossy()]);
    let first = output.split_whitespace().next();
    first.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Where a directory lies.
pub(crate) struct FileSystem {
    /// Such as `ext4`.
    pub(crate) kind: String,
    /// Bytes that are free there, if the system says so.
    pub(crate) free_bytes: Option<u64>,
}

/// The file system of a directory.
pub(crate) fn file_system(dir: &Path) -> FileSystem {
    let arguments = ["-B1", "--output=fstype,avail", &dir.to_string_lossy()];
    let output = said("df", &arguments);
    let mut fields = output.lines().nth(1).unwrap_or("").split_whitespace();
    FileSystem {
        kind: fields.next().unwrap_or("unknown").to_owned(),
        free_bytes: fields.next().and_then(|bytes| bytes.parse().ok()),
    }
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
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name"));
        let model = model.unwrap_or("").trim_start_matches([':', ' ', '\t']);
        let dirt = said("git", &["status", "--porcelain", "--untracked-files=no"]);
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_model: model.to_owned(),
            memory_bytes: kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1024,
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

/// Cores that were busy since the machine started, whoever with, in seconds.
pub(crate) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    // User, nice, system, idle, waiting for disks, interrupts, soft interrupts, taken by the hypervisor.
    let ticks: u32 = all
        .unwrap_or_default()
        .split_whitespace()
        .take(8)
        .enumerate()
        .filter(|(place, _)| !matches!(place, 3 | 4))
        .filter_map(|(_, ticks)| ticks.parse::<u32>().ok())
        .sum();
    TICK * ticks
}

/// What a program answers, and nothing if it cannot.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    String::from_utf8_lossy(&text).trim().to_owned()
}
