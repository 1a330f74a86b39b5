//! Fan-out: one message to all devices, again and again.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::{sleep, sleep_until};

use super::stage::Stage;
use crate::fleet::{Fleet, Harvest};
use crate::measure::window::{Sample, Window};
use crate::progress::grouped;
use crate::report::Report;
use crate::settings::Fanout;

pub(super) async fn run(stage: &mut Stage<'_>, fanout: &Fanout, report: &mut Report) -> Result<()> {
    stage.register(report).await?;
    let devices = fanout.generator.devices;
    // A topic for each number of devices: those of a larger run before are not in this one's audience.
    let topic = format!("load-fanout-{devices}");
    let fleet = stage.fleet(Some(&topic), fanout.warm_up + fanout.rounds, fanout.warm_up)?;
    let connecting = stage.arrive(&fleet, devices, report).await?;
    report.connects_per_s = connecting.rate(u64::from(devices));
    report.server_cpu_us_per_handshake = connecting.server_us_per(u64::from(devices));
    report.generator_cpu_us_per_handshake = connecting.generator_us_per(u64::from(devices));

    let mut rounds = Rounds {
        fanout,
        topic: &topic,
        fleet: &fleet,
        answered: Vec::new(),
        late_max: Duration::ZERO,
    };
    rounds.warm_up(stage, report).await?;
    rounds.measure(stage, report).await?;
    let answered = rounds.answered;

    let memory = stage.memory("after the rounds", fleet.seen().online);
    report.server_pss_bytes = memory.server_bytes;
    report.generator_pss_bytes = memory.generator_bytes;
    report.memory.push(memory);
    sleep(fanout.generator.hold).await;
    let harvest = stage.leave(fleet, report)?;
    judge(&harvest, &answered, report);
    Ok(())
}

/// The broadcasts.
struct Rounds<'a> {
    fanout: &'a Fanout,
    topic: &'a str,
    fleet: &'a Fleet,
    /// Numbers of those that were answered 200: each promises a delivery to every device.
    answered: Vec<u32>,
    /// The longest that a publish left after its time.
    late_max: Duration,
}

impl Rounds<'_> {
    fn promised(&self) -> u64 {
        self.answered.len() as u64 * u64::from(self.fanout.generator.devices)
    }

    /// Rounds that are not measured; their acks are all taken before the others begin.
    async fn warm_up(&mut self, stage: &mut Stage<'_>, report: &mut Report) -> Result<()> {
        let from = stage.sample(self.fleet.addresses()).await?;
        for number in 0..self.fanout.warm_up {
            self.publish(stage, number, Instant::now(), report).await;
            if !self.all_arrived(stage, report).await {
                return Ok(());
            }
        }
        stage.until_acked(&from, self.promised()).await?;
        stage.rest().await;
        Ok(())
    }

    async fn measure(&mut self, stage: &mut Stage<'_>, report: &mut Report) -> Result<()> {
        let warm = self.promised();
        let received_before = self.fleet.seen().received;
        let from = stage.sample(self.fleet.addresses()).await?;
        let start = Instant::now();
        for round in 0..self.fanout.rounds {
            let intended = match self.fanout.interval {
                None => Instant::now(),
                Some(interval) => start + interval * round,
            };
            sleep_until(intended.into()).await;
            self.late_max = self.late_max.max(intended.elapsed());
            self.publish(stage, self.fanout.warm_up + round, intended, report)
                .await;
            if self.fanout.interval.is_none() && !self.all_arrived(stage, report).await {
                break;
            }
        }
        let published_after = start.elapsed();
        let all_arrived = self.all_arrived(stage, report).await;
        let arrived_after = start.elapsed();
        let acked_at = match all_arrived {
            true => stage.until_acked(&from, self.promised() - warm).await?,
            false => None,
        };
        let mut to = stage.sample(self.fleet.addresses()).await?;
        stage.rest().await;
        to.metrics = stage.metrics().await?;

        let deliveries = self.fleet.seen().received - received_before;
        report.broadcasts_per_s = per_s(u64::from(self.fanout.rounds), published_after);
        report.deliveries_per_s = per_s(deliveries, arrived_after);
        report.acked_deliveries_per_s =
            acked_at.and_then(|at| per_s(deliveries, at.saturating_duration_since(start)));
        if acked_at.is_none() && from.metrics.is_some() {
            report.problem("the broker did not count an ack for every delivery");
        }
        if let Some(interval) = self.fanout.interval {
            report.broadcasts_per_s_intended = Some(1.0 / interval.as_secs_f64());
            report.publish_late_ms_max = Some(self.late_max.as_secs_f64() * 1000.0);
        }
        self.costs(&from, &to, deliveries, report);
        stage.progress.end(&format!(
            "{} broadcasts: {} deliveries in {:.2} s",
            grouped(u64::from(self.fanout.rounds)),
            grouped(deliveries),
            arrived_after.as_secs_f64()
        ))?;
        Ok(())
    }

    fn costs(&self, from: &Sample, to: &Sample, deliveries: u64, report: &mut Report) {
        let window = Window::between(from, to);
        report.deliveries = deliveries;
        report.server_cpu_us_per_delivery = window.server_us_per(deliveries);
        report.generator_cpu_us_per_delivery = window.generator_us_per(deliveries);
        if deliveries > 0 {
            let each = |used: &Duration| used.as_secs_f64() * 1e6 / deliveries as f64;
            report.server_cpu_us_per_delivery_by_thread = window
                .server_cpu
                .iter()
                .map(|(name, used)| (name.clone(), each(used)))
                .collect();
            report.packets_per_delivery = window
                .datagrams
                .map(|count| count as f64 / deliveries as f64);
        }
        report.note("broadcasting", &window);
    }

    async fn publish(
        &mut self,
        stage: &mut Stage<'_>,
        number: u32,
        intended: Instant,
        report: &mut Report,
    ) {
        let sent = stage
            .publish(self.topic, number, intended, self.fanout.payload_bytes)
            .await;
        match sent {
            Ok(()) => {
                self.answered.push(number);
                report.published += 1;
            }
            Err(error) => report.problem(format!("broadcast {number}: {error:#}")),
        }
    }

    /// Waits until every device has (and so has acked) what was answered; `false` if that stood still. Who is missing is
    /// counted at the end.
    async fn all_arrived(&self, stage: &Stage<'_>, report: &mut Report) -> bool {
        let arrived = stage
            .until(
                "deliveries",
                self.promised(),
                || self.fleet.seen(),
                |seen| seen.received,
            )
            .await;
        if let Err(error) = &arrived {
            report.problem(format!("{error:#}"));
        }
        arrived.is_ok()
    }
}

/// Loss and doubling, per device and message.
fn judge(harvest: &Harvest, answered: &[u32], report: &mut Report) {
    let lost = harvest.missing(answered.iter().copied());
    report.lost = Some(lost);
    report.doubled = Some(harvest.doubled);
    report.foreign = Some(harvest.foreign);
    report.publish_to_app_ms = harvest.latencies.quantiles();
    if lost > 0 {
        report.problem(format!(
            "{} deliveries that were promised did not come",
            grouped(lost)
        ));
    }
    if harvest.doubled > 0 {
        report.problem(format!(
            "{} deliveries came twice",
            grouped(harvest.doubled)
        ));
    }
    if harvest.foreign > 0 {
        report.warnings.push(format!(
            "{} deliveries were of no broadcast of this run",
            grouped(harvest.foreign)
        ));
    }
}

fn per_s(count: u64, elapsed: Duration) -> Option<f64> {
    let seconds = elapsed.as_secs_f64();
    (seconds > 0.0).then(|| count as f64 / seconds)
}
