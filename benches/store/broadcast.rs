//! Broadcasts to very many offline subscribers: what the one write of each costs the thread that owns the store.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use petrel_core::Address;
use petrel_protocol::TopicName;
use roaring::RoaringBitmap;

use crate::engine::{self, Opened};
use crate::report::{Latencies, Report, Target};
use crate::settings::Settings;
use crate::workload::{Messages, Random};
use crate::{proc, say};

/// The most that a broadcast may take of the store's time.
const TARGET: Target = Target::AtMost(2.0);

pub(crate) fn run(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    ensure!(settings.messages > 0, "choose --messages above 0");
    let mut opened = engine::open(settings)?;
    let mut messages = Messages::new(&mut opened, settings)?;
    let count = settings.devices;
    say("ordinals 0, 1, 2 …");
    let dense: RoaringBitmap = (0..count).collect();
    let figures = measure(&mut opened, &mut messages, &dense, settings)?;
    report.add("subscribers", f64::from(count), "");
    report.judge("dense_store_ms_p50", figures.times.ms_at(0.5), "ms", TARGET);
    report.judge(
        "dense_store_ms_p99",
        figures.times.ms_at(0.99),
        "ms",
        TARGET,
    );
    report.add("dense_cpu_ms", figures.cpu_ms, "ms");
    report.add("dense_bytes_written", figures.bytes, "B");
    report.count("dense", figures.counted);

    say("half of the ordinals, chosen at random …");
    let random = half(count, &mut Random::new(1));
    let figures = measure(&mut opened, &mut messages, &random, settings)?;
    report.judge(
        "random_store_ms_p50",
        figures.times.ms_at(0.5),
        "ms",
        TARGET,
    );
    report.judge(
        "random_store_ms_p99",
        figures.times.ms_at(0.99),
        "ms",
        TARGET,
    );
    report.add("random_cpu_ms", figures.cpu_ms, "ms");
    report.add("random_bytes_written", figures.bytes, "B");
    report.count("random", figures.counted);
    Ok(())
}

/// As many of twice as many.
fn half(count: u32, random: &mut Random) -> RoaringBitmap {
    let mut set = RoaringBitmap::new();
    let all = count as usize * 2;
    while set.len() < u64::from(count) {
        // Below 2^32, for there are at most 10^8 devices.
        set.insert(random.below(all) as u32);
    }
    set
}

struct Figures {
    times: Latencies,
    /// Of a broadcast, on average.
    cpu_ms: f64,
    /// Of a broadcast.
    bytes: f64,
    counted: engine::Counted,
}

/// Each broadcast is one append and one commit; the engine has nothing else to do.
fn measure(
    opened: &mut Opened,
    messages: &mut Messages,
    targeted: &RoaringBitmap,
    settings: &Settings,
) -> Result<Figures> {
    let topic = TopicName::parse("news")?;
    let counted = opened.counts.now();
    let mut times = Latencies::new();
    let mut cpu = Duration::ZERO;
    for _ in 0..settings.messages {
        let message = messages.next(Address::Topic(topic.clone()));
        let (started, used) = (Instant::now(), proc::thread_cpu());
        opened.store.append(&message, targeted)?;
        opened.store.commit()?;
        times.record(started.elapsed());
        cpu += proc::thread_cpu().saturating_sub(used);
    }
    let counted = opened.counts.since(&counted);
    let count = settings.messages as f64;
    Ok(Figures {
        times,
        cpu_ms: cpu.as_secs_f64() * 1e3 / count,
        bytes: counted.bytes_written as f64 / count,
        counted,
    })
}
