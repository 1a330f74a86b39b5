//! What the scenarios have in common: a broker, devices, samples, waiting.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use crate::broker::{Broker, Choice};
use crate::fleet::{FILLER, Fleet, Harvest, NUMBER, Plan, RUN, STAMP, Seen};
use crate::http::Http;
use crate::measure::memory;
use crate::measure::metrics::Metrics;
use crate::measure::window::{Sample, Window};
use crate::progress::{Progress, grouped};
use crate::registrations::Registrations;
use crate::report::{MemoryPoint, Report};
use crate::settings::Generator;

/// How often a count is looked at: often enough that it does not show in a round of some thousand deliveries.
const LOOK: Duration = Duration::from_millis(1);

/// How often the broker is asked how many acks it took. Each answer costs it about a millisecond.
const ASK: Duration = Duration::from_millis(20);

/// The broker renews what `/metrics` tells of its datagrams four times a second.
const REST: Duration = Duration::from_millis(500);

/// The broker, and how devices are made for it.
pub(super) struct Stage<'a> {
    pub(super) broker: Broker,
    pub(super) progress: &'a Progress,
    generator: Generator,
    registrations: Arc<Registrations>,
    admin: Option<Http>,
    publisher: Http,
    /// Names the messages of this run.
    run: u64,
    began: Instant,
}

impl<'a> Stage<'a> {
    /// Starts or finds the broker, and reads the registrations that are kept for it.
    pub(super) async fn open(
        choice: Choice,
        generator: Generator,
        progress: &'a Progress,
        began: Instant,
    ) -> Result<Self> {
        let broker = Broker::open(choice).await?;
        let home = broker.target.home();
        let kept = match &broker.registrations {
            Some(path) => Registrations::load(path, &home)?,
            None => None,
        };
        let mut random = [0; 40];
        let filled = SystemRandom::new().fill(&mut random);
        filled.map_err(|_| anyhow::anyhow!("the operating system gives no random bytes"))?;
        let (mut seed, mut run) = ([0; 32], [0; 8]);
        seed.copy_from_slice(&random[..32]);
        run.copy_from_slice(&random[32..]);
        let registrations = kept.unwrap_or_else(|| Registrations::new(home, seed));
        let (admin, publisher) = connections(&broker)?;
        progress.end(&format!(
            "broker {} on {}",
            if broker.is_own() { "started" } else { "found" },
            broker.target.quic
        ))?;
        Ok(Self {
            broker,
            progress,
            generator,
            registrations: Arc::new(registrations),
            admin,
            publisher,
            run: u64::from_le_bytes(run),
            began,
        })
    }

    /// Restarts a broker of our own; devices made before must have left.
    pub(super) async fn restart(&mut self) -> Result<()> {
        let start = Instant::now();
        self.broker.restart().await?;
        (self.admin, self.publisher) = connections(&self.broker)?;
        self.progress
            .end(&format!("broker restarted in {}", seconds(start)))?;
        Ok(())
    }

    /// Makes the registrations that are missing, and keeps them.
    pub(super) async fn register(&mut self, report: &mut Report) -> Result<()> {
        let devices = self.generator.devices;
        let missing = u64::from(devices - self.registrations.registered(devices));
        if missing == 0 {
            self.progress.end(&format!(
                "{} devices are registered already",
                grouped(u64::from(devices))
            ))?;
            return Ok(());
        }
        let start = Instant::now();
        let fleet = self.fleet(None, 0, 0)?;
        fleet.connect(devices);
        // Those that are registered come online meanwhile; that does no harm.
        let done = |seen: &Seen| seen.registered + seen.gave_up;
        let outcome = self
            .until("registering", missing, || fleet.seen(), done)
            .await;
        let harvest = fleet.stop()?;
        // Also after a failure: what was registered need not be registered again.
        let mut registrations = Registrations::clone(&self.registrations);
        for (device, token) in &harvest.tokens {
            registrations.set(*device, token)?;
        }
        if let Some(path) = &self.broker.registrations {
            registrations.save(path)?;
        }
        self.registrations = Arc::new(registrations);
        outcome.with_context(|| complaints(&harvest.complaints))?;
        let left = devices - self.registrations.registered(devices);
        if left > 0 {
            bail!(
                "{left} devices could not be registered{}",
                complaints(&harvest.complaints)
            );
        }
        report.registered_new = missing;
        self.progress.end(&format!(
            "{} devices registered in {}",
            grouped(missing),
            seconds(start)
        ))?;
        Ok(())
    }

    /// Devices with their registrations, none of them connected yet.
    pub(super) fn fleet(
        &self,
        topic: Option<&str>,
        messages_max: u32,
        warm_up: u32,
    ) -> Result<Fleet> {
        let target = &self.broker.target;
        Fleet::start(Plan {
            broker: target.quic,
            ca: target.ca.clone(),
            project: target.project.clone(),
            app_key: target.app_key.clone(),
            registrations: Arc::clone(&self.registrations),
            devices: self.generator.devices,
            topic: topic.map(str::to_owned),
            threads: self.generator.threads,
            sockets: self.generator.sockets,
            concurrency: self.generator.concurrency,
            keep_alive: self.generator.keep_alive,
            run: self.run,
            messages_max,
            warm_up,
            clock: self.began,
        })
    }

    /// Waits until so many devices are online, and measures it.
    pub(super) async fn arrive(
        &mut self,
        fleet: &Fleet,
        devices: u32,
        report: &mut Report,
    ) -> Result<Window> {
        let from = self.sample(fleet.addresses()).await?;
        let before = fleet.seen();
        fleet.connect(devices);
        let outcome = self
            .until(
                "connecting",
                u64::from(devices),
                || fleet.seen(),
                |seen| seen.online + seen.gave_up,
            )
            .await;
        let to = self.sample(fleet.addresses()).await?;
        let seen = fleet.seen();
        report.connected_peak = report.connected_peak.max(seen.online);
        outcome.with_context(|| complaints(&fleet.complaints()))?;
        if seen.online < u64::from(devices) {
            let missing = u64::from(devices) - seen.online;
            bail!(
                "{missing} of {devices} devices could not connect{}",
                complaints(&fleet.complaints())
            );
        }
        let window = Window::between(&from, &to);
        report.note(&format!("connecting up to {devices}"), &window);
        let rate = window.rate(seen.online - before.online).unwrap_or_default();
        self.progress.end(&format!(
            "{} devices online, {} connects a second",
            grouped(seen.online),
            grouped(rate as u64)
        ))?;
        Ok(window)
    }

    /// Everything that is read at one moment.
    pub(super) async fn sample(&mut self, addresses: &BTreeSet<SocketAddr>) -> Result<Sample> {
        let metrics = self.metrics().await?;
        Ok(Sample::now(
            self.broker.target.pid,
            metrics,
            self.broker.target.quic,
            addresses,
        ))
    }

    /// Lets the broker's metrics catch up with what it did.
    pub(super) async fn rest(&self) {
        sleep(REST).await;
    }

    /// What the broker says of itself, if it can be asked.
    pub(super) async fn metrics(&mut self) -> Result<Option<Metrics>> {
        let Some(admin) = &mut self.admin else {
            return Ok(None);
        };
        let answer = admin.request(Method::GET, "/metrics", Bytes::new()).await?;
        if answer.status != StatusCode::OK {
            bail!(
                "the broker tells no metrics (HTTP {})",
                answer.status.as_u16()
            );
        }
        Ok(Some(Metrics::parse(&String::from_utf8_lossy(&answer.body))))
    }

    /// Reads memory of both.
    pub(super) fn memory(&self, stage: &'static str, connected: u64) -> MemoryPoint {
        MemoryPoint {
            seconds: self.began.elapsed().as_secs_f64(),
            stage,
            connected,
            server_bytes: self.broker.target.pid.and_then(memory::of),
            generator_bytes: memory::of(std::process::id()),
        }
    }

    /// Publishes message `number` to a topic. Its stamp is when it was to be sent, not when it was.
    pub(super) async fn publish(
        &mut self,
        topic: &str,
        number: u32,
        intended: Instant,
        payload_bytes: usize,
    ) -> Result<()> {
        let stamp = intended.saturating_duration_since(self.began).as_micros();
        let body = message(topic, self.run, number, stamp, payload_bytes);
        let path = format!("/v1/projects/{}/messages:send", self.broker.target.project);
        let answer = self
            .publisher
            .request(Method::POST, &path, body.into())
            .await?;
        if answer.status != StatusCode::OK {
            bail!("the broker refused a publish: {}", answer.error());
        }
        Ok(())
    }

    /// Waits until a count is reached. Gives up when it stands still for longer than the user's patience.
    pub(super) async fn until(
        &self,
        what: &str,
        total: u64,
        seen: impl Fn() -> Seen,
        count: impl Fn(&Seen) -> u64,
    ) -> Result<()> {
        self.progress.begin(what, total);
        let (mut best, mut since) = (0, Instant::now());
        loop {
            let now = count(&seen());
            self.progress.set(now.min(total));
            if now >= total {
                return Ok(());
            }
            if now > best {
                (best, since) = (now, Instant::now());
            } else if since.elapsed() >= self.generator.patience {
                bail!(
                    "{what} stood still at {best} of {total} for {:?}",
                    self.generator.patience
                );
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the broker has taken so many acks since `from`; when that was, where it can be asked.
    pub(super) async fn until_acked(
        &mut self,
        from: &Sample,
        acks: u64,
    ) -> Result<Option<Instant>> {
        let Some(before) = from.metrics.as_ref().and_then(Metrics::acked) else {
            return Ok(None);
        };
        let (mut best, mut since) = (0, Instant::now());
        loop {
            let Some(now) = self.metrics().await?.and_then(|metrics| metrics.acked()) else {
                return Ok(None);
            };
            let acked = now.saturating_sub(before);
            if acked >= acks {
                return Ok(Some(Instant::now()));
            }
            if acked > best {
                (best, since) = (acked, Instant::now());
            } else if since.elapsed() >= self.generator.patience {
                return Ok(None);
            }
            sleep(ASK).await;
        }
    }

    /// All devices leave; what is said of every run is put into the report.
    pub(super) fn leave(&self, fleet: Fleet, report: &mut Report) -> Result<Harvest> {
        let start = Instant::now();
        let harvest = fleet.stop()?;
        let seen = harvest.seen;
        report.connect_ms = harvest.connects[0].quantiles();
        report.resumed_connect_ms = harvest.connects[1].quantiles();
        report.connect_retries = seen.retried;
        report.cut_off = seen.cut_off;
        report.gaps = seen.gaps;
        if seen.cut_off > 0 {
            report.problem(format!(
                "{} sessions were cut off{}",
                seen.cut_off,
                complaints(&harvest.complaints)
            ));
        } else if !harvest.complaints.is_empty() {
            report
                .warnings
                .push(format!("on the way{}", complaints(&harvest.complaints)));
        }
        self.progress
            .end(&format!("all devices left in {}", seconds(start)))?;
        Ok(harvest)
    }
}

fn connections(broker: &Broker) -> Result<(Option<Http>, Http)> {
    let target = &broker.target;
    let admin = target
        .admin
        .map(|admin| Http::new(admin, None))
        .transpose()?;
    Ok((admin, Http::new(target.http, Some(&target.api_key))?))
}

/// A publish whose keys and values have so many bytes.
fn message(topic: &str, run: u64, number: u32, stamp: u128, payload_bytes: usize) -> String {
    let mut data = Map::new();
    let mut bytes = FILLER.len();
    for (key, value) in [
        (RUN, format!("{run:016x}")),
        (NUMBER, number.to_string()),
        (STAMP, stamp.to_string()),
    ] {
        bytes += key.len() + value.len();
        data.insert(key.to_owned(), Value::String(value));
    }
    data.insert(
        FILLER.to_owned(),
        Value::String("x".repeat(payload_bytes.saturating_sub(bytes))),
    );
    json!({"message": {"topic": topic, "data": data}}).to_string()
}

fn complaints(texts: &[String]) -> String {
    if texts.is_empty() {
        String::new()
    } else {
        format!(": {}", texts.join("; "))
    }
}

pub(super) fn seconds(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_size_that_was_asked_for() {
        for (number, stamp, bytes) in [
            (0, 0, 96),
            (99_999, 3_600_000_000_000, 96),
            (7, 123_456, 4096),
        ] {
            let text = message("t", u64::MAX, number, stamp, bytes);
            let json: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["message"]["topic"], "t");
            let data = json["message"]["data"].as_object().unwrap();
            let sum: usize = data
                .iter()
                .map(|(key, value)| key.len() + value.as_str().unwrap().len())
                .sum();
            assert_eq!(sum, bytes, "{text}");
        }
    }
}
