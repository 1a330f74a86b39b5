//! CPU time of a process, thread by thread, in nanoseconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// CPU time that each thread had used at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    threads: BTreeMap<u32, Thread>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    used: Duration,
}

impl Cpu {
    /// Of a process; `None` where the system does not tell.
    ///
    /// From `/proc/PID/task/*/schedstat`: exact, where `/proc/PID/stat` counts in steps of 10 ms.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
            // A thread may end while the list is read.
            let Ok(entry) = entry else { continue };
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            if let Some(thread) = thread(&entry.path()) {
                threads.insert(id, thread);
            }
        }
        (!threads.is_empty()).then_some(Self { threads })
    }

    /// Of this process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// What was used since an earlier moment, by name of the thread; threads of one name are added up.
    ///
    /// A thread that ended in between is missing with what it used in between.
    pub(crate) fn since(&self, earlier: &Self) -> BTreeMap<String, Duration> {
        let mut used = BTreeMap::new();
        for (id, thread) in &self.threads {
            let before = match earlier.threads.get(id) {
                Some(before) => before.used,
                None => Duration::ZERO,
            };
            *used.entry(thread.name.clone()).or_default() += thread.used.saturating_sub(before);
        }
        used
    }
}

fn thread(path: &std::path::Path) -> Option<Thread> {
    let read = |file: &str| fs::read_to_string(PathBuf::from(path).join(file)).ok();
    let schedstat = read("schedstat")?;
    let ns = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(Thread {
        name: read("comm")?.trim().to_owned(),
        used: Duration::from_nanos(ns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_under_its_name() {
        let before = Cpu::own().unwrap();
        let busy = std::thread::Builder::new()
            .name("busy-one".into())
            .spawn(|| {
                let start = std::time::Instant::now();
                while start.elapsed() < Duration::from_millis(30) {
                    std::hint::spin_loop();
                }
                Cpu::own().unwrap()
            });
        let used = busy.unwrap().join().unwrap().since(&before);
        assert!(used["busy-one"] > Duration::from_millis(1), "{used:?}");
    }

    #[test]
    fn a_process_that_is_not_there_has_no_times() {
        assert_eq!(Cpu::of(u32::MAX), None);
    }

    #[test]
    fn threads_of_one_name_are_added_up() {
        let cpu = |used: &[(u32, &str, u64)]| Cpu {
            threads: used
                .iter()
                .map(|&(id, name, ms)| {
                    (
                        id,
                        Thread {
                            name: name.to_owned(),
                            used: Duration::from_millis(ms),
                        },
                    )
                })
                .collect(),
        };
        let earlier = cpu(&[(1, "main", 5), (2, "lane", 10), (4, "gone", 9)]);
        let later = cpu(&[(1, "main", 5), (2, "lane", 30), (3, "lane", 7)]);
        let used = later.since(&earlier);
        assert_eq!(used["main"], Duration::ZERO);
        assert_eq!(used["lane"], Duration::from_millis(27));
        assert_eq!(used.len(), 2);
    }
}
