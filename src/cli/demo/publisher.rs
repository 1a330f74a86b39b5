//! The publisher of the demo: what it sent to whom, and exactly what it was answered.
//!
//! A publish is in the list before its first byte leaves, so that one that dies with the broker is known, too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use petrel_client::MessageId;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::Failure;
use super::super::http::{Answer, Http, HttpError};
use super::super::target::demo_value;
use super::fleet::{NUMBER, TOPIC};
use crate::data_dir::Ready;

/// Connections that publish at once.
pub(super) const LANES: usize = 16;

/// How often the traffic sends to everyone.
const BROADCAST_INTERVAL: Duration = Duration::from_millis(100);

/// Between an answer and the next publish of the same lane under traffic.
const PAUSE: Duration = Duration::from_millis(2);

/// Whom a publish is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// One device, by index.
    Device(usize),
    /// Every device.
    Everyone,
}

/// What became of a publish, as its publisher knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Answered 200: it must arrive, once, under this id.
    Answered(MessageId),
    /// Sent, and no answer, or one that leaves it open: it may arrive, once.
    Unanswered,
    /// Answered with an error: it must not arrive.
    Refused(String),
    /// It never left: it must not arrive.
    NotSent,
}

/// One entry of the list; its number is its place.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) target: Target,
    /// When it was to be sent, whatever was in the way.
    pub(super) intended: Instant,
    pub(super) outcome: Outcome,
}

/// Publishes and keeps the list.
pub(super) struct Publisher {
    url: String,
    project: String,
    api_key: String,
    tokens: Vec<String>,
    list: Mutex<Vec<Publication>>,
}

impl Publisher {
    /// `tokens` by index of the device.
    pub(super) fn new(ready: &Ready, tokens: Vec<String>) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self {
            url: ready.http.clone(),
            project: demo_value(ready.project.clone(), "--project")?,
            api_key: demo_value(ready.api_key.clone(), "--api-key")?,
            tokens,
            list: Mutex::default(),
        }))
    }

    /// A connection of its own.
    pub(super) fn lane(&self) -> Result<Http, HttpError> {
        Http::new(&self.url, None, &self.api_key)
    }

    /// The list so far.
    pub(super) fn list(&self) -> Vec<Publication> {
        self.lock().clone()
    }

    /// How long the list is: the number of the next publish.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many were answered 200 so far.
    pub(super) fn answered(&self) -> usize {
        let list = self.lock();
        list.iter()
            .filter(|p| matches!(p.outcome, Outcome::Answered(_)))
            .count()
    }

    /// Publishes one message. `false`: the connection is of no use any more.
    pub(super) async fn publish(&self, lane: &mut Http, target: Target, intended: Instant) -> bool {
        let number = {
            let mut list = self.lock();
            list.push(Publication {
                target,
                intended,
                outcome: Outcome::Unanswered,
            });
            list.len() - 1
        };
        let mut message = json!({
            "notification": {"title": "Petrel", "body": format!("message {number} of the demo")},
            "data": {NUMBER: number.to_string()},
        });
        match target {
            Target::Device(index) => message["token"] = self.tokens.get(index).cloned().into(),
            Target::Everyone => message["topic"] = TOPIC.into(),
        }
        let body = json!({"message": message}).to_string();
        let answer = lane.publish(&self.project, body.into()).await;
        let goes_on = answer.is_ok();
        let outcome = outcome(answer);
        if let Some(publication) = self.lock().get_mut(number) {
            publication.outcome = outcome;
        }
        goes_on
    }

    /// Publishes a list over all lanes, each waiting for its answer before the next.
    pub(super) async fn burst(self: &Arc<Self>, targets: Vec<Target>) -> Result<(), Failure> {
        let targets = Arc::new(targets);
        self.on_lanes(|publisher, mut lane, first| {
            let targets = Arc::clone(&targets);
            async move {
                for target in targets.iter().skip(first).step_by(LANES) {
                    publisher.publish(&mut lane, *target, Instant::now()).await;
                }
            }
        })
        .await
    }

    /// Publishes a list at a fixed rate: each has its time, whether or not earlier ones were answered by then.
    pub(super) async fn steady(
        self: &Arc<Self>,
        targets: Vec<Target>,
        interval: Duration,
    ) -> Result<(), Failure> {
        let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..LANES)
            .map(|_| mpsc::channel(targets.len().max(1)))
            .unzip();
        let lanes = self.on_lanes(|publisher, mut lane, _| {
            let due = receivers.pop();
            async move {
                let Some(mut due) = due else { return };
                while let Some((target, intended)) = due.recv().await {
                    publisher.publish(&mut lane, target, intended).await;
                }
            }
        });
        // On a thread of its own: the runtime's timers are late by up to a millisecond, which would be measured too.
        drop(tokio::task::spawn_blocking(move || {
            pace(&targets, interval, &senders)
        }));
        lanes.await
    }

    async fn on_lanes<F>(
        self: &Arc<Self>,
        mut run: impl FnMut(Arc<Self>, Http, usize) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut lanes = JoinSet::new();
        for first in 0..LANES {
            lanes.spawn(run(Arc::clone(self), self.lane()?, first));
        }
        while let Some(outcome) = lanes.join_next().await {
            outcome?;
        }
        Ok(())
    }

    /// Starts traffic to single devices and to everyone. Each lane ends when its connection does.
    pub(super) fn traffic(self: &Arc<Self>) -> Result<JoinSet<()>, Failure> {
        let mut lanes = JoinSet::new();
        for first in 0..LANES {
            let (publisher, mut lane) = (Arc::clone(self), self.lane()?);
            lanes.spawn(async move {
                let devices = publisher.tokens.len().max(1);
                // Every lane walks over all devices, in strides that share no factor with their number for long.
                for step in 0.. {
                    let target = Target::Device((first * 61 + step * 7919) % devices);
                    if !publisher.publish(&mut lane, target, Instant::now()).await {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        let (publisher, mut lane) = (Arc::clone(self), self.lane()?);
        lanes.spawn(async move {
            while publisher
                .publish(&mut lane, Target::Everyone, Instant::now())
                .await
            {
                tokio::time::sleep(BROADCAST_INTERVAL).await;
            }
        });
        Ok(lanes)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Publication>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands each target to a lane when its time has come. Ends with the list, or with the lanes.
fn pace(targets: &[Target], interval: Duration, lanes: &[mpsc::Sender<(Target, Instant)>]) {
    let mut intended = Instant::now();
    for (target, lane) in targets.iter().zip(lanes.iter().cycle()) {
        intended += interval;
        thread::sleep(intended.saturating_duration_since(Instant::now()));
        if lane.try_send((*target, intended)).is_err() {
            return;
        }
    }
}

fn outcome(answer: Result<Answer, HttpError>) -> Outcome {
    match answer {
        Ok(answer) => {
            let name = answer.name();
            let id = name
                .as_deref()
                .and_then(|name| name.rsplit('/').next()?.parse().ok());
            match id {
                Some(id) => Outcome::Answered(id),
                None if answer.is_open() => Outcome::Unanswered,
                None => Outcome::Refused(answer.error()),
            }
        }
        Err(error) if error.may_have_arrived() => Outcome::Unanswered,
        Err(_) => Outcome::NotSent,
    }
}
