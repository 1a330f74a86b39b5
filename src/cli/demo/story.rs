//! What happens in the demo, chapter by chapter.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::time::{sleep, timeout};

use super::super::Failure;
use super::child::{Broker, Home};
use super::fleet::Fleet;
use super::progress::Progress;
use super::publisher::{Publisher, Target};
use super::report::{Report, grouped};
use super::verdict::{Outage, Verdict, judge};

/// Messages that measure the way from publish to app, and the time from one to the next.
const STEADY_MESSAGES: usize = 1000;
const STEADY_INTERVAL: Duration = Duration::from_millis(2);

/// Broadcasts in a row whose deliveries are timed.
const BROADCASTS: usize = 10;

/// While devices are away: messages to each of them, and to everyone.
const MISSED_EACH: usize = 2;
const MISSED_BROADCASTS: usize = 5;

/// How long traffic runs before the kill.
const TRAFFIC: Duration = Duration::from_millis(1500);

/// How long may be waited for what should come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to look whether something comes twice, after all is there.
const AFTERMATH: Duration = Duration::from_millis(700);

/// Between two looks at a count.
const LOOK: Duration = Duration::from_millis(20);

/// The chapters, in order.
pub(super) struct Story<'a> {
    pub(super) home: &'a Home,
    pub(super) progress: &'a Progress,
    pub(super) began: Instant,
}

/// What the chapters before the kill measured.
struct Measured {
    connect_per_s: f64,
    server_bytes_per_device: Option<u64>,
    publish_to_app: Histogram<u64>,
    deliveries_per_s: f64,
}

impl Story<'_> {
    /// Tells all of it. Dropped on the way, it takes the broker with it.
    pub(super) async fn tell(&self, devices: usize) -> Result<Report, Failure> {
        let broker = Broker::start(self.home, None).await?;
        self.progress
            .end(&format!("broker started in {}", seconds(self.began)))?;
        let mut fleet = Fleet::new(broker.ready(), devices)?;
        let (connect_per_s, server_bytes_per_device) =
            self.connect(&broker, &mut fleet, devices).await?;
        let publisher = Publisher::new(broker.ready(), fleet.tokens())?;

        self.send_to_one(&fleet, &publisher).await?;
        let publish_to_app = self.send_steadily(&fleet, &publisher, devices).await?;
        let deliveries_per_s = self.broadcast(&fleet, &publisher, devices).await?;
        let measured = Measured {
            connect_per_s,
            server_bytes_per_device,
            publish_to_app,
            deliveries_per_s,
        };

        let away: Vec<usize> = (0..devices).filter(|index| index % 10 < 3).collect();
        self.publish_to_absent(&mut fleet, &publisher, &away)
            .await?;
        let (broker, outage, answered_under_traffic) = self.kill(broker, &publisher).await?;
        self.bring_back(&mut fleet, devices, &away, outage).await?;
        let verdict = self.collect(&fleet, &publisher, outage).await?;
        drop(broker);
        let (renewed, gaps) = fleet.renewed_and_gaps();
        Ok(Report {
            devices,
            sockets: fleet.sockets(),
            connect_per_s: measured.connect_per_s,
            publish_to_app: measured.publish_to_app,
            steady_per_s: 1.0 / STEADY_INTERVAL.as_secs_f64(),
            broadcasts: BROADCASTS,
            deliveries_per_s: measured.deliveries_per_s,
            server_bytes_per_device: measured.server_bytes_per_device,
            online: fleet.online_since(outage.to),
            answered_under_traffic,
            renewed,
            gaps,
            closed: fleet.closed(),
            verdict,
            elapsed: self.began.elapsed(),
        })
    }

    async fn connect(
        &self,
        broker: &Broker,
        fleet: &mut Fleet,
        devices: usize,
    ) -> Result<(f64, Option<u64>), Failure> {
        let before = broker.memory_bytes();
        let start = Instant::now();
        self.progress.begin("connecting", devices as u64);
        fleet
            .grow(devices, |count| self.progress.set(count as u64))
            .await?;
        let per_s = devices as f64 / start.elapsed().as_secs_f64();
        self.progress.end(&format!(
            "{} devices connected over QUIC in {}",
            grouped(devices as u64),
            seconds(start)
        ))?;

        let start = Instant::now();
        self.progress.begin("subscribing", devices as u64);
        fleet
            .subscribe(|count| self.progress.set(count as u64))
            .await?;
        self.progress
            .end(&format!("all subscribed to a topic in {}", seconds(start)))?;
        let grown = broker
            .memory_bytes()
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before));
        Ok((per_s, grown.map(|bytes| bytes / devices as u64)))
    }

    async fn send_to_one(&self, fleet: &Fleet, publisher: &Publisher) -> Result<(), Failure> {
        let mut lane = publisher.lane()?;
        // The first request pays for the connection.
        let start = Instant::now();
        let before = fleet.received();
        publisher.publish(&mut lane, Target::Device(0), start).await;
        self.wait_for("one message", before + 1, || fleet.received())
            .await;
        let one = fleet
            .receipts()
            .first()
            .and_then(|receipts| receipts.last().copied());
        Ok(match one {
            Some(receipt) => self.progress.end(&format!(
                "one message to one device: {:.1} ms from publish to app",
                millis(receipt.at.saturating_duration_since(start))
            )),
            None => self
                .progress
                .end("one message to one device: it did not come"),
        }?)
    }

    async fn send_steadily(
        &self,
        fleet: &Fleet,
        publisher: &Arc<Publisher>,
        devices: usize,
    ) -> Result<Histogram<u64>, Failure> {
        let (first, before) = (publisher.len() as u64, fleet.received());
        let targets = (0..STEADY_MESSAGES)
            .map(|n| Target::Device(n * 7919 % devices))
            .collect();
        let total = STEADY_MESSAGES as u64;
        let received = || fleet.received() - before;
        self.watching(
            "messages one by one",
            total,
            received,
            publisher.steady(targets, STEADY_INTERVAL),
        )
        .await?;
        self.wait_for("messages one by one", total, received).await;

        let list = publisher.list();
        let mut micros = Histogram::new(3).map_err(|error| Failure::new(format!("{error:?}")))?;
        for receipt in fleet.receipts().iter().flatten() {
            let number = receipt.number.filter(|number| *number >= first);
            let publication = number.and_then(|n| list.get(usize::try_from(n).ok()?));
            if let Some(publication) = publication {
                let took = receipt.at.saturating_duration_since(publication.intended);
                micros.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
        }
        self.progress.end(&format!(
            "{} messages to single devices: p50 {:.1} ms, p99 {:.1} ms",
            grouped(micros.len()),
            micros.value_at_quantile(0.5) as f64 / 1000.0,
            micros.value_at_quantile(0.99) as f64 / 1000.0
        ))?;
        Ok(micros)
    }

    async fn broadcast(
        &self,
        fleet: &Fleet,
        publisher: &Publisher,
        devices: usize,
    ) -> Result<f64, Failure> {
        let (before, start) = (fleet.received(), Instant::now());
        let total = (BROADCASTS * devices) as u64;
        let mut lane = publisher.lane()?;
        self.progress.begin("broadcasting", total);
        for _ in 0..BROADCASTS {
            publisher
                .publish(&mut lane, Target::Everyone, Instant::now())
                .await;
            self.progress.set(fleet.received() - before);
        }
        self.wait_for("broadcasting", total, || fleet.received() - before)
            .await;
        let received = fleet.receipts();
        let last = received
            .iter()
            .flatten()
            .map(|receipt| receipt.at)
            .max()
            .unwrap_or(start);
        let took = last.saturating_duration_since(start);
        let per_s = (fleet.received() - before) as f64 / took.as_secs_f64().max(1e-6);
        self.progress.end(&format!(
            "{BROADCASTS} broadcasts to all: {} deliveries in {:.0} ms",
            grouped(fleet.received() - before),
            millis(took)
        ))?;
        Ok(per_s)
    }

    async fn publish_to_absent(
        &self,
        fleet: &mut Fleet,
        publisher: &Arc<Publisher>,
        away: &[usize],
    ) -> Result<(), Failure> {
        fleet.leave(away).await?;
        let mut targets = Vec::new();
        for _ in 0..MISSED_EACH {
            targets.extend(away.iter().map(|index| Target::Device(*index)));
        }
        targets.extend([Target::Everyone; MISSED_BROADCASTS]);
        let (total, before) = (targets.len() as u64, publisher.answered() as u64);
        let answered = || publisher.answered() as u64 - before;
        self.watching(
            "publishing to the absent",
            total,
            answered,
            publisher.burst(targets),
        )
        .await?;
        self.progress.end(&format!(
            "{} devices taken offline; {} messages published that they miss",
            grouped(away.len() as u64),
            grouped(total)
        ))?;
        Ok(())
    }

    /// Kills the broker under traffic and starts it again on the same data.
    async fn kill(
        &self,
        broker: Broker,
        publisher: &Arc<Publisher>,
    ) -> Result<(Broker, Outage, usize), Failure> {
        let before = publisher.answered();
        let mut traffic = publisher.traffic()?;
        sleep(TRAFFIC).await;
        let from = Instant::now();
        let ready = broker.kill().await?;
        // Their connections are dead, so they end by themselves; nobody may hold up the restart.
        let all_ended = async { while traffic.join_next().await.is_some() {} };
        let _ = timeout(PATIENCE, all_ended).await;
        drop(traffic);
        let answered = publisher.answered() - before;
        let per_s = answered as f64 / TRAFFIC.as_secs_f64();
        self.progress.end(&format!(
            "broker killed with SIGKILL under {} publishes a second",
            grouped(per_s as u64)
        ))?;
        let to = Instant::now();
        let broker = Broker::start(self.home, Some(&ready)).await?;
        self.progress.end(&format!(
            "broker restarted on the same data in {}",
            seconds(to)
        ))?;
        Ok((broker, Outage { from, to }, answered))
    }

    /// Those taken offline return; those that the kill surprised notice by themselves.
    async fn bring_back(
        &self,
        fleet: &mut Fleet,
        devices: usize,
        away: &[usize],
        outage: Outage,
    ) -> Result<(), Failure> {
        self.progress.begin("devices come back", devices as u64);
        fleet.come_back(away).await?;
        let online = || fleet.online_since(outage.to) as u64;
        self.wait_for("devices come back", devices as u64, online)
            .await;
        self.progress.end(&format!(
            "{} of {} devices online again within {}",
            grouped(online()),
            grouped(devices as u64),
            seconds(outage.to)
        ))?;
        Ok(())
    }

    /// Sends to everyone once more, waits until all promised is there, and then whether something comes twice.
    async fn collect(
        &self,
        fleet: &Fleet,
        publisher: &Publisher,
        outage: Outage,
    ) -> Result<Verdict, Failure> {
        let start = Instant::now();
        publisher
            .publish(&mut publisher.lane()?, Target::Everyone, start)
            .await;
        let list = publisher.list();
        let look = || judge(&list, &fleet.receipts(), Some(outage));
        let promised = look().promised;
        self.progress.begin("what is owed", promised);
        while start.elapsed() < PATIENCE {
            let verdict = look();
            self.progress.set(promised - verdict.lost);
            if verdict.lost == 0 {
                break;
            }
            sleep(5 * LOOK).await;
        }
        sleep(AFTERMATH).await;
        let verdict = look();
        self.progress.end(&format!(
            "{} deliveries replayed",
            grouped(verdict.replayed)
        ))?;
        Ok(verdict)
    }

    /// Waits until a count is reached, or patience ends: what is missing then, the verdict finds.
    async fn wait_for(&self, what: &str, total: u64, count: impl Fn() -> u64) {
        self.progress.begin(what, total);
        let start = Instant::now();
        while count() < total && start.elapsed() < PATIENCE {
            self.progress.set(count());
            sleep(LOOK).await;
        }
    }

    /// Shows a count while work is done.
    async fn watching<T>(
        &self,
        what: &str,
        total: u64,
        count: impl Fn() -> u64,
        work: impl Future<Output = T>,
    ) -> T {
        self.progress.begin(what, total);
        let mut work = pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = sleep(LOOK) => self.progress.set(count()),
            }
        }
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
