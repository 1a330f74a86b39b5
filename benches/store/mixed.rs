//! Scans of attaching devices while much is being written, all on the one thread that owns the store, in the order of
//! arrival. Publishes and attaches come at their times whether or not those before them are done, and are measured from
//! these times; whoever attaches acks what it found.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use petrel_protocol::Ordinal;

use crate::owner::{Answer, Operation, Owner};
use crate::report::{Report, Target};
use crate::settings::Settings;
use crate::workload::{self, Messages, Random};
use crate::{engine, proc, say};

/// Messages that wait for a device that attaches.
const DEPTH: u64 = 10;

/// How long the driver sleeps when nothing is due.
const PAUSE: Duration = Duration::from_micros(100);

/// Things that happen at a rate.
struct Schedule {
    started: Instant,
    per_second: u32,
    done: u64,
}

impl Schedule {
    fn new(started: Instant, per_second: u32) -> Self {
        Self {
            started,
            per_second,
            done: 0,
        }
    }

    /// When the next was to happen, once it is due.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        let after = self.done as f64 / f64::from(self.per_second);
        let at = self.started + Duration::from_secs_f64(after);
        let is_due = at <= now;
        self.done += u64::from(is_due);
        is_due.then_some(at)
    }
}

pub(crate) fn run(settings: &Settings, report: &mut Report<'_>) -> Result<()> {
    let mut opened = engine::open(settings)?;
    workload::register(&mut opened, settings)?;
    let mut messages = Messages::new(&mut opened, settings)?;
    let devices = workload::shuffled(settings.devices, &mut Random::new(1));
    let owed = usize::try_from(settings.messages / DEPTH)?.min(devices.len());
    let wanted = u64::from(settings.attaches) * u64::from(settings.seconds);
    ensure!(
        owed as u64 >= wanted,
        "{wanted} devices attach, and {} messages make queues for {owed}: choose --messages {}",
        settings.messages,
        wanted * DEPTH
    );
    workload::fill(
        &mut *opened.store,
        &mut messages,
        &devices[..owed],
        settings.messages,
        |_| {},
    )?;

    say("measuring …");
    let counted = opened.counts.now();
    let owner = Owner::start(opened.store)?;
    let started = Instant::now();
    let driven = drive(&owner, &mut messages, &devices, owed, settings, started);
    // If the owner ended early, its own error says why.
    let measured = owner.end()?;
    driven?;
    let took = started.elapsed();
    let seconds = took.as_secs_f64();
    let counted = opened.counts.since(&counted);
    let rate = measured.enqueues.count() as f64 / seconds;
    // The last group may fall behind the end.
    let intended = f64::from(settings.rate);
    report.judge(
        "enqueues_per_s",
        rate,
        "/s",
        Target::AtLeast(0.99 * intended),
    );
    report.add(
        "attaches_per_s",
        measured.attaches.count() as f64 / seconds,
        "/s",
    );
    report.add("settled_per_s", measured.settled as f64 / seconds, "/s");
    let found = measured.found as f64 / measured.attaches.count() as f64;
    report.add("found_per_attach", found, "");
    report.add("attach_ms_p50", measured.attaches.ms_at(0.5), "ms");
    let p99 = measured.attaches.ms_at(0.99);
    report.judge("attach_ms_p99", p99, "ms", Target::AtMost(20.0));
    report.add("attach_ms_max", measured.attaches.max_ms(), "ms");
    report.add("enqueue_ms_p50", measured.enqueues.ms_at(0.5), "ms");
    report.add("enqueue_ms_p99", measured.enqueues.ms_at(0.99), "ms");
    report.add("enqueue_ms_max", measured.enqueues.max_ms(), "ms");
    report.add("commit_ms_p50", measured.commits.ms_at(0.5), "ms");
    report.add("commit_ms_p99", measured.commits.ms_at(0.99), "ms");
    let busy = measured.cpu.as_secs_f64() / seconds;
    report.add("owner_busy_cores", busy, "");
    let keys = counted.keys_written as f64 / seconds;
    report.add("keys_written_per_s", keys, "/s");
    report.add("memory_bytes", proc::memory() as f64, "B");
    report.count("mixed", counted);
    Ok(())
}

/// Publishes to random devices, lets the first `owed` attach one after the other, and sends their acks.
fn drive(
    owner: &Owner,
    messages: &mut Messages,
    devices: &[u32],
    owed: usize,
    settings: &Settings,
    started: Instant,
) -> Result<()> {
    let until = started + settings.duration();
    let mut publishes = Schedule::new(started, settings.rate);
    let mut attaches = Schedule::new(started, settings.attaches);
    let mut attaching = devices[..owed].iter().copied().map(Ordinal);
    let mut random = Random::new(3);
    loop {
        let now = Instant::now();
        if now >= until {
            return Ok(());
        }
        let mut next = Vec::new();
        while let Some(answer) = owner.answer_now() {
            if let Answer::Found(device, ids) = answer {
                next.push(Operation::Settle(device, ids));
            }
        }
        while let Some(at) = attaches.due(now) {
            next.extend(attaching.next().map(|device| Operation::Attach(device, at)));
        }
        while let Some(at) = publishes.due(now) {
            let device = Ordinal(devices[random.below(devices.len())]);
            let message = Box::new(messages.to(device));
            next.push(Operation::Enqueue(message, device, at));
        }
        if next.is_empty() {
            sleep(PAUSE);
        }
        for operation in next {
            owner.send(operation)?;
        }
    }
}
