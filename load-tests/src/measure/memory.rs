//! Memory that is a process's own.

use std::fs;

/// Proportional set size and what of it is swapped out, in bytes; `None` where the system does not tell.
///
/// Shared pages (the binary, libraries) count by their share, so nothing counts twice.
pub(crate) fn of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    parse(&text)
}

fn parse(rollup: &str) -> Option<u64> {
    let kib = |key: &str| -> Option<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kib("Pss:")? + kib("SwapPss:").unwrap_or(0)) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_pages_count_too() {
        let text = "55b6-7fff ---p 0 00:00 0 [rollup]\nRss:  1780 kB\nPss:     347 kB\nPss_Anon: 9 kB\nSwapPss:   10 kB\n";
        assert_eq!(parse(text), Some(357 * 1024));
        assert_eq!(parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_has_some() {
        assert!(of(std::process::id()).is_some_and(|bytes| bytes > 100_000));
        assert_eq!(of(u32::MAX), None);
    }
}
