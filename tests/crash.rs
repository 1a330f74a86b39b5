//! A 200 is a promise: the real broker is killed with SIGKILL at random moments while publishers publish and devices come
//! and go, started again on what it left, and in the end everything must add up.
//!
//! Checked over all kills: nothing answered 200 is lost, nothing reaches an app twice, what comes again on the wire is what
//! could not be known to be acked, collapse keys and deadlines hold, messages of one address come in order within a
//! session, gaps are exact, and no id is used twice. Which moments, from a seed: `TEST_CRASH_SEED` repeats a run as far as a
//! machine can, `TEST_CRASH_KILLS` makes it longer.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

#[path = "crash/account.rs"]
mod account;
#[path = "crash/arrivals.rs"]
mod arrivals;
#[path = "crash/book.rs"]
mod book;
#[path = "crash/chance.rs"]
mod chance;
#[path = "crash/history.rs"]
mod history;
#[path = "crash/link.rs"]
mod link;
#[path = "crash/moments.rs"]
mod moments;
#[path = "crash/phone.rs"]
mod phone;
#[path = "crash/publisher.rs"]
mod publisher;
#[path = "crash/sdk.rs"]
mod sdk;
#[path = "crash/verdict.rs"]
mod verdict;
#[path = "crash/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Api, Broker, PATIENCE, endpoint, eventually, tls};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

use crate::book::{Answer, COMMIT_WINDOW};
use crate::chance::Chance;
use crate::moments::{Moment, start_and_kill, timed};
use crate::phone::{Habit, Phone};
use crate::verdict::Verdict;
use crate::world::{Life, Mood, World};

const KILLS: usize = 12;
const PUBLISHERS: u64 = 8;

/// Small enough that devices which are away miss something.
const CONFIG: &str = "[queue]\nmessages_max = 30\n[topic]\nlog_messages_max = 40\n";

/// The books are looked at after so many kills, while nobody publishes.
const KILLS_PER_REST: usize = 8;

fn knob(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is no number")),
    )
}

fn habit(number: u64) -> Habit {
    match number {
        0..7 => Habit::Eager,
        7..13 => Habit::Lazy,
        13..16 => Habit::Reserved,
        _ => Habit::Away,
    }
}

/// Of these devices the first so many are on the wire level, the others of the SDK.
const PHONES: u64 = 22;
const DEVICES: u64 = 25;

/// The broker and who uses it.
struct Run {
    world: Arc<World>,
    broker: Broker,
    chance: Chance,
    lives: usize,
    starts: Vec<Duration>,
    moments: BTreeMap<&'static str, usize>,
    actors: JoinSet<()>,
}

impl Run {
    fn start(seed: u64, inboxes: &std::path::Path) -> Self {
        let broker = block_in_place(|| Broker::with_config(CONFIG));
        let endpoint = endpoint(tls(&broker), |_| {});
        let keys = (
            broker.ready.project.clone(),
            broker.ready.api_key.clone(),
            broker.ready.app_key.clone(),
        );
        let world = World::new(seed, endpoint, keys, broker.ready.ca.clone());
        let mut actors = JoinSet::new();
        for number in 0..PHONES {
            actors.spawn(Phone::new(Arc::clone(&world), number, habit(number)).live());
        }
        for number in PHONES..DEVICES {
            let inbox = inboxes.join(format!("{number}.json"));
            actors.spawn(sdk::live(Arc::clone(&world), number, inbox));
        }
        for number in 0..PUBLISHERS {
            actors.spawn(publisher::publish(Arc::clone(&world), number));
        }
        Self {
            chance: world.chance(1),
            world,
            broker,
            lives: 0,
            starts: Vec::new(),
            moments: BTreeMap::new(),
            actors,
        }
    }

    /// Tells everybody that a broker runs.
    fn announce(&mut self) {
        self.lives += 1;
        let life = Life {
            number: self.lives,
            quic: self.broker.ready.quic,
            http: self.broker.ready.http,
        };
        self.world.life.send_replace(Some(life));
    }

    fn kill(&mut self) {
        self.world.book().kill_begins();
        block_in_place(|| self.broker.kill());
        self.world.book().kill_ends();
        self.world.life.send_replace(None);
    }

    fn restart(&mut self) {
        self.starts
            .push(block_in_place(|| timed(|| self.broker.restart())));
        self.announce();
    }

    async fn kill_at(&mut self, nth: usize) {
        let moment = Moment::choose(nth, &mut self.chance);
        *self.moments.entry(moment.name()).or_default() += 1;
        moment.come(&self.world, &self.broker).await;
        self.kill();
        self.world.mood.send_replace(Mood::Steady);
        if let Moment::Loading(_, starts) = moment {
            for after in starts {
                self.world.book().kill_begins();
                block_in_place(|| start_and_kill(&self.broker, after));
                self.world.book().kill_ends();
            }
        }
        self.restart();
        self.show_violations(nth);
    }

    /// Fails with everything that is known of what is wrong.
    fn show_violations(&mut self, nth: usize) {
        if let Some(Err(error)) = self.actors.try_join_next() {
            std::panic::resume_unwind(error.into_panic());
        }
        let violations = std::mem::take(&mut self.world.book().violations);
        assert!(
            violations.is_empty(),
            "TEST_CRASH_SEED={} kill {nth}:\n{}",
            self.world.seed,
            violations.join("\n")
        );
    }

    /// Shows that everything accepted is settled or owed; how much is owed.
    async fn balance(&self) -> f64 {
        let api = Api::new(&self.broker);
        let mut owed = f64::NAN;
        eventually("the books balance", async || {
            let page = api.page("/metrics").await.text;
            let sum = |name: &str| -> f64 {
                page.lines()
                    .filter_map(|line| line.rsplit_once(' '))
                    .filter(|(series, _)| series.split('{').next() == Some(name))
                    .map(|(_, value)| value.parse::<f64>().unwrap())
                    .sum()
            };
            owed = sum("petrel_delivery_owed");
            let before = sum("petrel_delivery_owed_at_start");
            let accepted = sum("petrel_delivery_accepted_total");
            before + accepted == sum("petrel_delivery_settled_total") + owed
        })
        .await;
        owed
    }

    /// Every device attaches and stays until nothing is owed to it any more.
    async fn finish(&mut self) {
        self.world.quiet.send_replace(BTreeSet::new());
        self.world.mood.send_replace(Mood::Finish);
        let all: BTreeSet<u64> = (0..DEVICES).collect();
        let mut quiet = self.world.quiet.subscribe();
        let waited = timeout(PATIENCE, quiet.wait_for(|quiet| *quiet == all)).await;
        if waited.is_err() {
            self.show_violations(self.lives);
            let busy = self.world.book().busy();
            let missing: Vec<_> = all
                .difference(&self.world.quiet.borrow())
                .copied()
                .collect();
            panic!(
                "TEST_CRASH_SEED={}: devices {missing:?} are not quiet within {PATIENCE:?}:{busy}",
                self.world.seed
            );
        }
        let api = Api::new(&self.broker);
        eventually("nothing to be owed", async || {
            api.metric("petrel_delivery_owed", "").await == 0.0
        })
        .await;
        assert_eq!(self.balance().await, 0.0);
    }

    fn summary(&self, verdict: &Verdict) -> String {
        let book = self.world.book();
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let answered = |wanted: fn(&Answer) -> bool| {
            let answers = book.publications.iter().map(|p| &p.answer);
            answers.filter(|answer| wanted(answer)).count()
        };
        format!(
            "TEST_CRASH_SEED={} kills {} ({:?})\n\
             publishes: {} sent, {} answered 200, {} without a sure answer, {} refused\n\
             owed to living devices {}: arrived {}, collapsed {}, expired {}, in gaps {}; lost {}, doubled {}\n\
             gaps {}: exact {}, within bounds {}; told again {}, {} of them with another count\n\
             arrivals {} at {} registrations ({} ended) in {} sessions; again on the wire {}, in one session at most {}; \
             latest {} ms after its deadline\n\
             start until ready: median {:?}, most {:?}",
            self.world.seed,
            book.kills.len(),
            self.moments,
            book.publications.len(),
            answered(|a| matches!(a, Answer::Accepted(_))),
            answered(|a| matches!(a, Answer::Unsure(_) | Answer::Awaited)),
            answered(|a| *a == Answer::Refused),
            verdict.owed,
            verdict.arrived,
            verdict.collapsed,
            verdict.expired,
            verdict.in_gaps,
            verdict.lost,
            book.totals.doubled,
            verdict.gaps,
            verdict.gaps_pinned,
            verdict.gaps_open,
            book.totals.gap_frames_repeated,
            book.totals.gap_frames_changed,
            book.totals.delivered,
            book.totals.registered,
            book.totals.ended,
            book.totals.sessions,
            book.totals.repeats,
            book.totals.repeats_in_one_session_max,
            book.totals.lateness_max_ms,
            starts[starts.len() / 2],
            starts[starts.len() - 1],
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_200_survives_kill_9_at_any_moment() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = knob("TEST_CRASH_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let kills = knob("TEST_CRASH_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let inboxes = tempfile::tempdir().unwrap();
    let mut run = Run::start(seed, inboxes.path());
    run.announce();
    for nth in 0..kills {
        run.kill_at(nth).await;
        if nth % KILLS_PER_REST == KILLS_PER_REST - 1 {
            run.world.mood.send_replace(Mood::Rest);
            run.balance().await;
            run.world.mood.send_replace(Mood::Steady);
        }
    }
    run.finish().await;
    run.show_violations(kills);
    // What is settled stays settled once it was written, and the devices' acks with it.
    tokio::time::sleep(COMMIT_WINDOW).await;
    run.world.mood.send_replace(Mood::Rest);
    run.kill();
    run.restart();
    let owed = Api::new(&run.broker)
        .metric("petrel_delivery_owed_at_start", "")
        .await;
    assert_eq!(owed, 0.0, "TEST_CRASH_SEED={seed}");
    run.finish().await;
    let verdict = run.world.book().verdict();
    // The record of a run.
    println!("{}", run.summary(&verdict));
    run.show_violations(kills + 1);
    assert!(verdict.arrived > 0 && verdict.gaps > 0, "{verdict:?}");
}
