//! Density: what a device costs the broker while nothing happens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::stage::{Stage, seconds};
use crate::fleet::Fleet;
use crate::measure::fit::Line;
use crate::measure::window::Window;
use crate::progress::grouped;
use crate::report::{MemoryPoint, Report};
use crate::settings::Idle;

/// What every device subscribes to where there is a broadcast.
const TOPIC: &str = "load-idle";

/// The one message.
const PAYLOAD_BYTES: usize = 256;

/// Readings of memory while devices are held, and the least time between two.
const HOLD_READINGS: u32 = 60;
const READING_MIN: Duration = Duration::from_secs(1);

pub(super) async fn run(stage: &mut Stage<'_>, idle: &Idle, report: &mut Report) -> Result<()> {
    stage.register(report).await?;
    if stage.broker.is_own() {
        // What registering left behind in memory is not what an idle device costs.
        stage.restart().await?;
    } else {
        report.warnings.push(
            "the broker was not restarted between registering and measuring: its memory may hold what registering left"
                .to_owned(),
        );
    }
    let fleet = stage.fleet(idle.broadcast.then_some(TOPIC), 1, 0)?;
    measure_steps(stage, idle, &fleet, report).await?;
    hold(stage, idle, &fleet, report).await?;
    resume(stage, idle, &fleet, report).await?;
    if idle.broadcast {
        broadcast(stage, idle, &fleet, report).await?;
    }
    let harvest = stage.leave(fleet, report)?;
    if idle.broadcast {
        report.lost = Some(harvest.missing([0]));
        report.doubled = Some(harvest.doubled);
        report.foreign = Some(harvest.foreign);
        report.publish_to_app_ms = harvest.latencies.quantiles();
    }
    if report.lost.unwrap_or(0) + report.doubled.unwrap_or(0) > 0 {
        report.problem("the broadcast did not reach every device exactly once");
    }
    let resumed = u64::from(resumed(idle));
    if harvest.tickets_offered < resumed {
        report.warnings.push(format!(
            "only {} of {} returning devices had a ticket: the figure for resumed handshakes is mixed",
            grouped(harvest.tickets_offered),
            grouped(resumed)
        ));
    }
    Ok(())
}

/// Connects in equal steps and reads memory at each.
async fn measure_steps(
    stage: &mut Stage<'_>,
    idle: &Idle,
    fleet: &Fleet,
    report: &mut Report,
) -> Result<()> {
    sleep(idle.settle).await;
    report.memory.push(stage.memory("registered", 0));
    let mut connecting = Window::default();
    let mut owners = Vec::new();
    for step in 1..=idle.steps {
        let devices = u64::from(idle.generator.devices) * u64::from(step) / u64::from(idle.steps);
        let window = stage.arrive(fleet, u32::try_from(devices)?, report).await?;
        connecting.add(&window);
        sleep(idle.settle).await;
        report.memory.push(stage.memory("step", devices));
        if let Some(metrics) = stage.metrics().await? {
            owners.push((devices, metrics.memory_by_owner()));
        }
    }
    let devices = u64::from(idle.generator.devices);
    report.connects_per_s = connecting.rate(devices);
    report.server_cpu_us_per_handshake = connecting.server_us_per(devices);
    report.generator_cpu_us_per_handshake = connecting.generator_us_per(devices);

    let steps: Vec<MemoryPoint> = report
        .memory
        .iter()
        .filter(|point| point.stage == "step")
        .cloned()
        .collect();
    if let Some(line) = slope(&steps, |point| point.server_bytes) {
        report.server_bytes_per_device = Some(line.slope);
        report.server_bytes_base = Some(line.base);
        report.server_bytes_residual_max = Some(line.residual_max);
        let bytes = grouped(line.slope.max(0.0).round() as u64);
        stage.progress.end(&format!(
            "{bytes} bytes of the broker's memory for each device"
        ))?;
    }
    report.generator_bytes_per_device =
        slope(&steps, |point| point.generator_bytes).map(|line| line.slope);
    report.server_pss_bytes = steps.last().and_then(|point| point.server_bytes);
    report.generator_pss_bytes = steps.last().and_then(|point| point.generator_bytes);
    report.server_bytes_per_device_by_owner = by_owner(&owners);
    Ok(())
}

fn slope(points: &[MemoryPoint], bytes: impl Fn(&MemoryPoint) -> Option<u64>) -> Option<Line> {
    let points: Option<Vec<(f64, f64)>> = points
        .iter()
        .map(|point| Some((point.connected as f64, bytes(point)? as f64)))
        .collect();
    Line::through(&points?)
}

/// The slope of each owner's bytes, as the broker itself counts them.
fn by_owner(readings: &[(u64, BTreeMap<String, f64>)]) -> BTreeMap<String, f64> {
    let Some((_, first)) = readings.first() else {
        return BTreeMap::new();
    };
    let of = |owner: &String| {
        let points: Vec<(f64, f64)> = readings
            .iter()
            .filter_map(|(devices, bytes)| Some((*devices as f64, *bytes.get(owner)?)))
            .collect();
        Some((owner.clone(), Line::through(&points)?.slope))
    };
    first.keys().filter_map(of).collect()
}

/// Stays, and sees whether memory grows.
async fn hold(
    stage: &mut Stage<'_>,
    idle: &Idle,
    fleet: &Fleet,
    report: &mut Report,
) -> Result<()> {
    let hold = idle.generator.hold;
    if hold.is_zero() {
        return Ok(());
    }
    let pause = (hold / HOLD_READINGS).max(READING_MIN).min(hold);
    let from = stage.sample(fleet.addresses()).await?;
    let start = Instant::now();
    let first = stage.memory("hold", fleet.seen().online);
    let mut last = first.clone();
    report.memory.push(first.clone());
    stage.progress.begin("holding", hold.as_secs());
    while start.elapsed() < hold {
        sleep(pause.min(hold.saturating_sub(start.elapsed()))).await;
        stage.progress.set(start.elapsed().as_secs());
        last = stage.memory("hold", fleet.seen().online);
        report.memory.push(last.clone());
    }
    let to = stage.sample(fleet.addresses()).await?;
    report.note("holding", &Window::between(&from, &to));
    let growth = last
        .server_bytes
        .zip(first.server_bytes)
        .map(|(last, first)| last as i64 - first as i64);
    report.server_growth_bytes = growth;
    stage.progress.end(&format!(
        "{} devices held for {}",
        grouped(last.connected),
        seconds(start)
    ))?;
    Ok(())
}

/// How many leave and come back: all of them at most.
fn resumed(idle: &Idle) -> u32 {
    idle.resumed.min(idle.generator.devices)
}

/// Some leave and come back with their tickets.
async fn resume(
    stage: &mut Stage<'_>,
    idle: &Idle,
    fleet: &Fleet,
    report: &mut Report,
) -> Result<()> {
    if idle.resumed == 0 {
        return Ok(());
    }
    let (devices, resumed) = (u64::from(idle.generator.devices), resumed(idle));
    fleet.leave(resumed);
    let resumed = u64::from(resumed);
    let gone = |open: u64| devices.saturating_sub(open);
    stage
        .until("leaving", resumed, || fleet.seen(), |seen| gone(seen.open))
        .await?;
    // The broker's side of leaving is not what is measured.
    sleep(idle.settle).await;
    fleet.resume();
    let window = stage.arrive(fleet, idle.generator.devices, report).await?;
    report.resumed_connects_per_s = window.rate(resumed);
    report.server_cpu_us_per_resumed_handshake = window.server_us_per(resumed);
    report.generator_cpu_us_per_resumed_handshake = window.generator_us_per(resumed);
    Ok(())
}

/// One message to all, and what it leaves in memory.
async fn broadcast(
    stage: &mut Stage<'_>,
    idle: &Idle,
    fleet: &Fleet,
    report: &mut Report,
) -> Result<()> {
    let devices = u64::from(idle.generator.devices);
    stage
        .publish(TOPIC, 0, Instant::now(), PAYLOAD_BYTES)
        .await?;
    report.published = 1;
    // Whoever is missing is counted at the end.
    let arrived = stage
        .until(
            "broadcasting",
            devices,
            || fleet.seen(),
            |seen| seen.received,
        )
        .await;
    if let Err(error) = arrived {
        report.problem(format!("{error:#}"));
    }
    report.deliveries = fleet.seen().received;
    sleep(idle.aftermath).await;
    let after = stage.memory("after the broadcast", fleet.seen().online);
    report.server_bytes_after_broadcast = after.server_bytes;
    report.memory.push(after);
    stage.progress.end(&format!(
        "one broadcast, and {} s of rest",
        idle.aftermath.as_secs()
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(connected: u64, server_bytes: Option<u64>) -> MemoryPoint {
        MemoryPoint {
            seconds: 0.0,
            stage: "step",
            connected,
            server_bytes,
            generator_bytes: None,
        }
    }

    #[test]
    fn a_slope_needs_every_reading() {
        let whole = [point(10, Some(5_000)), point(20, Some(8_000))];
        let line = slope(&whole, |point| point.server_bytes).unwrap();
        assert!((line.slope - 300.0).abs() < 1e-9);
        let holed = [
            point(10, Some(5_000)),
            point(20, None),
            point(30, Some(11_000)),
        ];
        assert_eq!(slope(&holed, |point| point.server_bytes), None);
    }

    #[test]
    fn each_owner_has_its_slope() {
        let reading = |devices, sessions, directory| {
            let bytes = [("sessions", sessions), ("directory", directory)];
            (
                devices,
                bytes.map(|(owner, bytes)| (owner.to_owned(), bytes)).into(),
            )
        };
        let slopes = by_owner(&[reading(10, 1000.0, 7.0), reading(30, 5000.0, 7.0)]);
        assert!((slopes["sessions"] - 200.0).abs() < 1e-9);
        assert!(slopes["directory"].abs() < 1e-9);
        assert!(by_owner(&[]).is_empty());
    }
}
