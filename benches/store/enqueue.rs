//! Durable enqueues to distinct offline devices: with very many publishes waiting, and one at a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use petrel_protocol::Ordinal;

use crate::engine::{self, Counted};
use crate::owner::{Answer, Measured, Operation, Owner};
use crate::report::{Report, Target};
use crate::settings::{Engine, Settings};
use crate::workload::{self, Messages, Random};
use crate::{proc, say};

/// Publishes that wait at every moment.
const WAITING: usize = 1024;

/// Between two lone publishes.
const PAUSE: Duration = Duration::from_millis(20);

/// A store with its devices, in the order in which they are published to.
struct Ready {
    opened: engine::Opened,
    messages: Messages,
    devices: Vec<u32>,
}

fn ready(settings: &Settings) -> Result<Ready> {
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
    Ok(Ready {
        opened,
        messages,
        devices: workload::shuffled(settings.devices, &mut Random::new(2)),
    })
}

/// Always as many publishes waiting as there may be, each to another device, until the devices or the time run out.
pub(crate) fn under_load(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    let Ready {
        opened,
        mut messages,
        devices,
    } = ready(settings)?;
    say("measuring …");
    let counted = opened.counts.now();
    let io = proc::io();
    let (process_cpu, driver_cpu) = (proc::process_cpu(), proc::thread_cpu());
    let owner = Owner::start(opened.store)?;
    let started = Instant::now();
    let driven = drive(
        &owner,
        &mut messages,
        devices,
        started + settings.duration(),
    );
    let took = started.elapsed();
    let driver_cpu = proc::thread_cpu().saturating_sub(driver_cpu);
    // If the owner ended early, its own error says why.
    let measured = owner.end()?;
    driven?;
    let all_cpu = proc::process_cpu().saturating_sub(process_cpu);
    let counted = opened.counts.since(&counted);
    let count = measured.enqueues.count() as f64;
    let rate = count / took.as_secs_f64();
    let target = match settings.engine {
        Engine::Sled => 15_000.0,
        Engine::Fjall | Engine::Memory => 60_000.0,
    };
    report.add("publishes_waiting", WAITING as f64, "");
    report.judge("enqueues_per_s", rate, "/s", Target::AtLeast(target));
    if settings.engine == Engine::Sled {
        let stretch = Target::AtLeast(25_000.0);
        report.judge("enqueues_per_s_stretch", rate, "/s", stretch);
    }
    latency(report, &measured, Target::AtMost(50.0));
    costs(report, &measured, &counted, count);
    let io_now = proc::io();
    let each = |now: u64, before: u64| (now - before) as f64 / count;
    let reads = each(io_now.reads, io.reads);
    report.add("file_reads_per_enqueue", reads, "");
    let bytes = each(io_now.read_bytes, io.read_bytes);
    report.add("file_bytes_read_per_enqueue", bytes, "B");
    let bytes = each(io_now.written_bytes, io.written_bytes);
    report.add("file_bytes_written_per_enqueue", bytes, "B");
    let store_cpu = all_cpu.saturating_sub(driver_cpu);
    report.add("cpu_us_per_enqueue", us(store_cpu) / count, "µs");
    report.add("memory_bytes", proc::memory() as f64, "B");
    let held = measured.store.stats().memory_bytes;
    report.add("store_memory_bytes", held as f64, "B");
    report.add("disk_bytes", proc::disk_bytes(&settings.dir) as f64, "B");
    report.count("enqueue", counted);
    Ok(())
}

/// Publishes until the devices or the time run out; then waits for the answers.
fn drive(owner: &Owner, messages: &mut Messages, devices: Vec<u32>, until: Instant) -> Result<()> {
    let mut devices = devices.into_iter().map(Ordinal);
    let mut waiting = 0;
    loop {
        while waiting < WAITING
            && Instant::now() < until
            && let Some(device) = devices.next()
        {
            let message = Box::new(messages.to(device));
            owner.send(Operation::Enqueue(message, device, Instant::now()))?;
            waiting += 1;
        }
        if waiting == 0 {
            return Ok(());
        }
        if let Answer::Queued(count) = owner.answer()? {
            waiting -= count;
        }
    }
}

/// One publish at a time, with pauses between them.
pub(crate) fn lone(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    let Ready {
        opened,
        mut messages,
        devices,
    } = ready(settings)?;
    say("measuring …");
    let counted = opened.counts.now();
    let owner = Owner::start(opened.store)?;
    let until = Instant::now() + settings.duration();
    let driven = drive_slowly(&owner, &mut messages, devices, until);
    // If the owner ended early, its own error says why.
    let measured = owner.end()?;
    driven?;
    let counted = opened.counts.since(&counted);
    let count = measured.enqueues.count() as f64;
    report.add("publishes", count, "");
    latency(report, &measured, Target::AtMost(5.0));
    costs(report, &measured, &counted, count);
    report.count("lone", counted);
    Ok(())
}

fn drive_slowly(
    owner: &Owner,
    messages: &mut Messages,
    devices: Vec<u32>,
    until: Instant,
) -> Result<()> {
    for device in devices.into_iter().map(Ordinal) {
        if Instant::now() >= until {
            break;
        }
        sleep(PAUSE);
        let message = Box::new(messages.to(device));
        owner.send(Operation::Enqueue(message, device, Instant::now()))?;
        owner.answer()?;
    }
    Ok(())
}

fn latency(report: &mut Report<'_>, measured: &Measured, p99: Target) {
    let times = &measured.enqueues;
    report.add("enqueue_ms_p50", times.ms_at(0.5), "ms");
    report.judge("enqueue_ms_p99", times.ms_at(0.99), "ms", p99);
    report.add("enqueue_ms_max", times.max_ms(), "ms");
    report.add("commit_ms_p50", measured.commits.ms_at(0.5), "ms");
    report.add("commit_ms_p99", measured.commits.ms_at(0.99), "ms");
}

fn costs(report: &mut Report<'_>, measured: &Measured, counted: &Counted, count: f64) {
    let each = |what: u64| what as f64 / count;
    let reads = counted.gets + counted.ranges;
    report.add("keys_written_per_enqueue", each(counted.keys_written), "");
    report.add(
        "bytes_written_per_enqueue",
        each(counted.bytes_written),
        "B",
    );
    report.add("engine_reads_per_enqueue", each(reads), "");
    report.add(
        "engine_write_us_per_enqueue",
        each(counted.write_ns) / 1e3,
        "µs",
    );
    report.add(
        "engine_sync_us_per_enqueue",
        each(counted.sync_ns) / 1e3,
        "µs",
    );
    report.add("owner_cpu_us_per_enqueue", us(measured.cpu) / count, "µs");
    let group = count / counted.batches.max(1) as f64;
    report.add("enqueues_per_commit", group, "");
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
