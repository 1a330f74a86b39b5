//! Attaching devices read their queues, one device after the other in random order; then drain them with acks.
//!
//! The store is opened anew for each part, so that the engine's cache begins empty; the files are in the page cache of
//! the system if it is large enough.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use petrel::store::Store;
use petrel_protocol::Ordinal;

use crate::engine::{self, Opened};
use crate::report::{Latencies, Report, Target};
use crate::settings::{Engine, Settings};
use crate::workload::{self, GROUP_MAX, Messages, Random};
use crate::{calls, proc, say};

pub(crate) fn run(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    let mut opened = engine::open(settings)?;
    workload::register(&mut opened, settings)?;
    let mut messages = Messages::new(&mut opened, settings)?;
    let devices = workload::shuffled(settings.devices, &mut Random::new(1));
    workload::fill(
        &mut *opened.store,
        &mut messages,
        &devices,
        settings.messages,
        |_| {},
    )?;
    let attaching: Vec<Ordinal> = workload::shuffled(settings.devices, &mut Random::new(2))
        .into_iter()
        .map(Ordinal)
        .collect();
    opened = reopened(opened, settings)?;
    say("reading …");
    read(&mut opened, &attaching, report)?;
    opened = reopened(opened, settings)?;
    say("draining …");
    drain(&mut opened, &attaching, report)?;
    report.add("memory_bytes", proc::memory() as f64, "B");
    Ok(())
}

/// Memory has nothing to open again.
fn reopened(opened: Opened, settings: &Settings) -> Result<Opened> {
    if settings.engine == Engine::Memory {
        return Ok(opened);
    }
    drop(opened);
    engine::open(settings)
}

/// Each device is sent its first window.
fn read(opened: &mut Opened, attaching: &[Ordinal], report: &mut Report<'_>) -> Result<()> {
    let counted = opened.counts.now();
    let (started, cpu) = (Instant::now(), proc::thread_cpu());
    let mut scans = Latencies::new();
    let mut found = 0;
    for &device in attaching {
        let scan_started = Instant::now();
        found += calls::scan(&mut *opened.store, device, calls::now())?
            .found
            .len();
        scans.record(scan_started.elapsed());
    }
    let took = started.elapsed();
    let cpu = proc::thread_cpu().saturating_sub(cpu);
    ensure!(found > 0, "nothing was queued; choose --messages above 0");
    report.add("read_messages", found as f64, "");
    let rate = found as f64 / took.as_secs_f64();
    report.judge(
        "read_messages_per_s",
        rate,
        "/s",
        Target::AtLeast(100_000.0),
    );
    report.add("read_cpu_us_per_message", us(cpu) / found as f64, "µs");
    report.add(
        "read_scans_per_s",
        scans.count() as f64 / took.as_secs_f64(),
        "/s",
    );
    report.add("read_scan_ms_p50", scans.ms_at(0.5), "ms");
    report.add("read_scan_ms_p99", scans.ms_at(0.99), "ms");
    report.count("read", opened.counts.since(&counted));
    Ok(())
}

/// Each device is sent window after window, and acks all of it; a group of acks is one commit.
fn drain(opened: &mut Opened, attaching: &[Ordinal], report: &mut Report<'_>) -> Result<()> {
    let counted = opened.counts.now();
    let (started, cpu) = (Instant::now(), proc::thread_cpu());
    let mut commits = Latencies::new();
    let (mut settled, mut staged) = (0_u64, 0);
    let store = &mut *opened.store;
    for &device in attaching {
        loop {
            let scan = calls::scan(store, device, calls::now())?;
            let ids: Vec<_> = scan.found.iter().map(|found| found.id()).collect();
            calls::settle(store, device, &ids)?;
            settled += ids.len() as u64;
            staged += ids.len();
            if staged >= GROUP_MAX {
                staged = 0;
                commit(store, &mut commits)?;
            }
            if scan.is_complete {
                break;
            }
        }
    }
    commit(store, &mut commits)?;
    let took = started.elapsed();
    let cpu = proc::thread_cpu().saturating_sub(cpu);
    let left = opened.store.stats().queued_messages;
    ensure!(left == 0, "{left} messages were left behind");
    let counted = opened.counts.since(&counted);
    let each = |what: f64| what / settled as f64;
    report.add("drained_messages", settled as f64, "");
    let rate = settled as f64 / took.as_secs_f64();
    report.judge(
        "drained_messages_per_s",
        rate,
        "/s",
        Target::AtLeast(20_000.0),
    );
    report.add("drain_cpu_us_per_message", each(us(cpu)), "µs");
    report.add(
        "drain_write_us_per_message",
        each(counted.write_ns as f64) / 1e3,
        "µs",
    );
    report.add(
        "drain_sync_us_per_message",
        each(counted.sync_ns as f64) / 1e3,
        "µs",
    );
    report.add(
        "drain_keys_written_per_message",
        each(counted.keys_written as f64),
        "",
    );
    report.add("drain_commit_ms_p50", commits.ms_at(0.5), "ms");
    report.add("drain_commit_ms_p99", commits.ms_at(0.99), "ms");
    report.count("drain", counted);
    Ok(())
}

fn commit(store: &mut dyn Store, commits: &mut Latencies) -> Result<()> {
    let started = Instant::now();
    store.commit()?;
    commits.record(started.elapsed());
    Ok(())
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
