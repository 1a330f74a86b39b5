//! History beside unicasts to devices that are online: what writing it behind costs, reading a device's, dropping it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use petrel::store::HistoryLimits;
use petrel_core::{Event, Happening, UnixMillis};
use petrel_protocol::{MessageId, Ordinal};

use crate::engine;
use crate::report::{Latencies, Report, Target};
use crate::settings::Settings;
use crate::workload::Random;
use crate::{proc, say};

/// The committer writes behind twice a second, this many keys in one commit.
const INTERVAL_MILLIS: u64 = 500;
const KEYS_MAX: usize = 64;

/// Devices whose history is read.
const READS: usize = 200;

pub(crate) fn run(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    ensure!(settings.messages > 0, "choose --messages above 0");
    let mut opened = engine::open(settings)?;
    let store = &mut opened.store;
    let mut random = Random::new(1);
    let at_once = (u64::from(settings.rate) * INTERVAL_MILLIS / 1000).max(1);
    say("half seconds of unicasts that are acked at once, in virtual time …");
    let (mut now, mut sequence) = (UnixMillis(1_800_000_000_000), 0);
    let mut commits = Latencies::new();
    let mut cpu = Duration::ZERO;
    let mut events = Vec::new();
    while sequence < settings.messages {
        for n in 0..at_once {
            sequence += 1;
            let at = UnixMillis(now.0 + n * INTERVAL_MILLIS / at_once);
            // Below 2^32, for there are at most 10^8 devices.
            let device = Ordinal(random.below(settings.devices as usize) as u32);
            let id = MessageId { epoch: 1, sequence };
            let way = [Happening::Accepted, Happening::Sent, Happening::Acked];
            events.extend(way.map(|happening| Event {
                device,
                id,
                happening,
                at,
            }));
        }
        now.0 += INTERVAL_MILLIS;
        let used = proc::process_cpu();
        while !events.is_empty() {
            let started = Instant::now();
            store.record_history(&mut events, now, KEYS_MAX)?;
            store.commit()?;
            commits.record(started.elapsed());
        }
        cpu += proc::process_cpu().saturating_sub(used);
    }
    let unicasts = sequence as f64;
    let stats = store.stats();
    let micros = |cpu: Duration, of: f64| cpu.as_secs_f64() * 1e6 / of;
    let target = Target::AtMost(5.0);
    report.judge("write_cpu_us", micros(cpu, unicasts), "us", target);
    let bytes = stats.history_bytes_written as f64 / unicasts;
    report.judge("bytes_written", bytes, "B", Target::AtMost(60.0));
    report.add("slices", commits.count() as f64, "");
    report.add("slice_ms_p50", commits.ms_at(0.5), "ms");
    report.add("slice_ms_p99", commits.ms_at(0.99), "ms");

    say("pages of 100 messages of random devices …");
    let mut reads = Latencies::new();
    let newest = MessageId {
        epoch: 1,
        sequence: u64::MAX,
    };
    for _ in 0..READS {
        let device = Ordinal(random.below(settings.devices as usize) as u32);
        let started = Instant::now();
        store.history_of_device(device, newest, 100)?;
        reads.record(started.elapsed());
    }
    report.add("bucket_bytes", stats.history_bytes as f64 / 256.0, "B");
    report.add("read_ms_p50", reads.ms_at(0.5), "ms");
    report.add("read_ms_p99", reads.ms_at(0.99), "ms");

    say("retention drops the older half …");
    let limits = HistoryLimits {
        age_max: Duration::MAX,
        bytes_max: stats.history_bytes / 2,
    };
    let mut trims = Latencies::new();
    let used = proc::process_cpu();
    loop {
        let started = Instant::now();
        let is_more = store.trim_history(now, limits, 2 * KEYS_MAX)?;
        store.commit()?;
        trims.record(started.elapsed());
        if !is_more {
            break;
        }
    }
    let cpu = proc::process_cpu().saturating_sub(used);
    report.add("retention_cpu_us", micros(cpu, unicasts / 2.0), "us");
    report.add("retention_slice_ms_p99", trims.ms_at(0.99), "ms");
    Ok(())
}
