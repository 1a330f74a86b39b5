//! Chores of the committer over a store in memory, with a clock that the test sets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use petrel_core::queue::{FullPolicy, Limits};
use petrel_core::{
    Content, Day, Draft, DraftOptions, PerPlatform, Ttl, UnixMillis, WallClock, Window,
};
use petrel_protocol::session::{Attributes, Register};
use petrel_protocol::{
    DeviceSecret, MessageId, Ordinal, Platform, ProjectId, SealKey, TokenSealer, TopicName, Urgency,
};
use petrel_quic::ConnId;
use tokio::sync::mpsc;

use super::committer::Turn;
use super::*;
use crate::directory::{ProjectKeys, ProjectLimits, Projects};
use crate::presence::{Place, ShardId};
use crate::store::{Embedded, HistoryLimits, MemoryMap, Store as _};

mod history;

const PROJECT: ProjectId = ProjectId(0);
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

/// One life of a broker without shards.
struct Life {
    delivery: Arc<Delivery>,
    operations: mpsc::Receiver<Operation>,
    committer: Committer,
    began: Instant,
}

fn place(shard: u8) -> Place {
    Place {
        shard: ShardId(shard),
        conn: ConnId {
            slot: 0,
            generation: 1,
        },
    }
}

fn settings() -> DeliverySettings {
    DeliverySettings {
        ack_window: Duration::ZERO,
        publish_timeout: HOUR,
        batch_operations_max: 256,
        answers_from_memory: false,
        limits: ProjectLimits {
            queue: Limits {
                messages_max: 100,
                bytes_max: 1 << 20,
                collapse_keys_max: 4,
                policy: FullPolicy::Evict,
            },
            bytes_max: 1 << 20,
        },
        disk_reserve: 0,
        log: LogLimits {
            messages_max: 100,
            bytes_max: 1 << 20,
            age_max: DAY * 2,
        },
        topics_max: 9,
        registration_expiry: DAY * 30,
        history: HistorySettings {
            is_recorded: true,
            limits: HistoryLimits {
                age_max: DAY * 7,
                bytes_max: 1 << 20,
            },
        },
        window: Window {
            messages: 9,
            bytes: 1 << 16,
            unresponsive_after: HOUR,
        },
    }
}

impl Life {
    fn begin(map: &MemoryMap, days: u32, settings: DeliverySettings) -> Self {
        let mut store = Embedded::new(map.clone(), 7);
        let loaded = store.load().unwrap();
        let sealer = TokenSealer::new(&[SealKey {
            id: 1,
            key: zeroize::Zeroizing::new([9; 32]),
        }]);
        let mut projects = Projects::default();
        let keys = ProjectKeys {
            app_keys: vec!["app".into()],
            ..ProjectKeys::default()
        };
        projects.insert("tested", PROJECT, &keys);
        let directory = Arc::new(Directory::new(sealer.unwrap(), projects, &loaded));
        let began = Instant::now();
        let wall = UnixMillis(0).after(DAY * days);
        let clock = WallClock::new(wall, loaded.last_time, began);
        let presence = Arc::default();
        let (delivery, operations) =
            Delivery::new(settings, clock, directory, presence, Vec::new(), loaded);
        let committer = Committer::new(Arc::clone(&delivery), Box::new(store), began).unwrap();
        Self {
            delivery,
            operations,
            committer,
            began,
        }
    }

    fn turn(&mut self, after: Duration) -> Turn {
        let mut group = Vec::new();
        while let Ok(operation) = self.operations.try_recv() {
            group.push(operation);
        }
        self.committer.turn(&mut group, self.began + after)
    }

    fn register(&mut self, secret: u8) {
        let register = Register {
            project: "tested".into(),
            app_key: "app".into(),
            secret: DeviceSecret::new([secret; 32]),
            platform: Platform::Android,
            attributes: Attributes::default(),
            minimum_urgency: Urgency::VeryLow,
            sdk: String::new(),
        };
        self.delivery.register(register, place(0)).unwrap();
        self.turn(Duration::ZERO);
    }

    fn is_registered(&self, ordinal: u32) -> bool {
        self.delivery.directory.device(Ordinal(ordinal)).is_some()
    }

    /// Publishes; the answer must be there after one turn.
    fn publish(&mut self, target: Target, seconds: u64) -> Result<MessageId, PublishError> {
        let options = DraftOptions {
            ttl: Ttl::new(Duration::from_secs(seconds)).unwrap(),
            urgency: Urgency::Normal,
            collapse_key: None,
        };
        let mut content = Content::default();
        content.data.insert("n".into(), "x".repeat(1000));
        let draft = Draft {
            content,
            options: PerPlatform::same(options),
        };
        let delivery = Arc::clone(&self.delivery);
        let published = async move {
            match target {
                Target::Token(token) => {
                    let device = delivery.resolve(PROJECT, &token)?;
                    delivery.publish_to_device(device, draft).await
                }
                Target::Topic(topic) => {
                    let walk = |_| ();
                    delivery.publish_to_many(PROJECT, topic, draft, walk).await
                }
            }
        };
        let mut published = std::pin::pin!(published);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let first = published.as_mut().poll(&mut context);
        self.turn(Duration::ZERO);
        match first {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => match published.poll(&mut context) {
                std::task::Poll::Ready(answer) => answer,
                std::task::Poll::Pending => panic!("no answer after the commit"),
            },
        }
    }

    fn token(&self, ordinal: u32) -> Target {
        let token = self.delivery.directory.token(PROJECT, Ordinal(ordinal));
        Target::Token(token.as_str().to_owned())
    }
}

#[test]
fn a_registration_ends_when_its_device_was_not_seen_for_long_and_its_messages_with_it() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    for secret in 0..4 {
        life.register(secret);
    }
    life.publish(life.token(0), 2_000_000).unwrap();
    drop(life);

    for day in 1001..1031 {
        let mut life = Life::begin(&map, day, settings());
        if day == 1020 {
            life.delivery.attach(Ordinal(1), place(0));
        }
        life.turn(HOUR * 2);
        assert!((0..4).all(|device| life.is_registered(device)));
    }

    // 31 days after the registration; one device is connected while it is looked for.
    let mut life = Life::begin(&map, 1031, settings());
    life.delivery.attach(Ordinal(2), place(0));
    life.turn(HOUR / 2);
    assert!(
        life.is_registered(0),
        "not before everybody had time to come back"
    );
    life.turn(HOUR * 2);
    let registered = [0, 1, 2, 3].map(|device| life.is_registered(device));
    assert_eq!(registered, [false, true, true, false]);
    assert!(life.delivery.balance().is_even());
    assert_eq!(life.delivery.balance().owed, 0);
    life.turn(HOUR * 3);
    drop(life);

    let mut life = Life::begin(&map, 1031, settings());
    assert_eq!(life.delivery.directory.seen(Ordinal(2)), Some(Day(1031)));
    assert!(!life.is_registered(0));
    life.turn(HOUR * 2);
    assert!(life.is_registered(1));
}

#[test]
fn nobody_was_absent_while_the_broker_was_down_or_its_clock_was_wrong() {
    let map = MemoryMap::default();
    Life::begin(&map, 1000, settings()).register(0);
    for day in (2000..2030).step_by(2) {
        let mut life = Life::begin(&map, day, settings());
        life.turn(HOUR * 2);
        assert!(life.is_registered(0), "{day}");
    }
    let mut life = Life::begin(&map, 2030, settings());
    life.turn(HOUR * 2);
    assert!(!life.is_registered(0));
}

/// A clock that was set back does not lengthen a message's life, one that was set forward does not end it.
#[test]
fn the_clock_may_be_set_both_ways() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    life.register(0);
    life.publish(life.token(0), 900).unwrap();
    let before = life.delivery.now();
    let forward = life.delivery.observe_wall_clock(before.after(DAY * 100));
    assert!(forward.is_some_and(|milliseconds| milliseconds > 0));
    assert!(life.delivery.now() < before.after(HOUR / 60));
    life.turn(HOUR);
    assert_eq!(life.delivery.balance().owed, 1);
    drop(life);

    let mut life = Life::begin(&map, 900, settings());
    assert!(
        life.delivery.now() >= before,
        "never below the time that was stored"
    );
    assert!(
        life.delivery
            .observe_wall_clock(UnixMillis(0).after(DAY * 900))
            .is_some()
    );
    assert!(life.delivery.now().after(HOUR / 60) > before);
    life.turn(HOUR);
    assert_eq!(life.delivery.balance().owed, 1);
}

#[test]
fn what_expires_for_a_device_that_never_comes_leaves_the_books_even() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    life.register(0);
    for seconds in [60, 120, 900_000] {
        life.publish(life.token(0), seconds).unwrap();
    }
    assert_eq!(life.delivery.balance().owed, 3);
    drop(life);
    let mut life = Life::begin(&map, 1001, settings());
    life.turn(HOUR);
    assert_eq!(life.delivery.balance().owed, 1);
    assert!(life.delivery.balance().is_even());
    assert!(life.delivery.has_queue(Ordinal(0)));
}

#[test]
fn a_log_lets_go_of_what_is_too_old() {
    let map = MemoryMap::default();
    let mut life = Life::begin(&map, 1000, settings());
    life.register(0);
    let topic = TopicName::parse("t").unwrap();
    let device = life.delivery.directory.device(Ordinal(0)).unwrap();
    let subscribe = petrel_protocol::session::RequestBody::Subscribe(topic.clone());
    life.delivery
        .request(device, 1, subscribe, place(0))
        .unwrap();
    life.turn(Duration::ZERO);
    life.publish(Target::Topic(topic.clone()), 900_000).unwrap();
    drop(life);
    let mut life = Life::begin(&map, 1003, settings());
    life.publish(Target::Topic(topic), 900_000).unwrap();
    assert_eq!(life.delivery.balance().owed, 2);
    life.turn(HOUR);
    assert_eq!(life.delivery.balance().owed, 1);
    assert_eq!(life.delivery.dropped(DropReason::Trimmed), 1);
    assert!(life.delivery.balance().is_even());
}

#[test]
fn a_project_that_has_as_much_waiting_as_it_may_is_refused_until_it_has_less() {
    let map = MemoryMap::default();
    let mut small = settings();
    small.limits.bytes_max = 2500;
    let mut life = Life::begin(&map, 1000, small);
    life.register(0);
    for _ in 0..3 {
        life.publish(life.token(0), 60).unwrap();
    }
    life.turn(HOUR);
    let refused = life.publish(life.token(0), 60).unwrap_err();
    assert!(matches!(refused, PublishError::QuotaExceeded { .. }));
    // What goes now or never takes no room.
    life.publish(life.token(0), 0).unwrap();
    drop(life);
    let mut life = Life::begin(&map, 1001, small);
    life.turn(HOUR);
    life.turn(HOUR * 2);
    life.publish(life.token(0), 60).unwrap();
}

#[test]
fn an_answer_from_memory_does_not_wait_for_the_commit() {
    let map = MemoryMap::default();
    let fast = DeliverySettings {
        answers_from_memory: true,
        ..settings()
    };
    let mut life = Life::begin(&map, 1000, fast);
    life.register(0);
    life.publish(life.token(0), 60).unwrap();
    life.turn(HOUR);
    drop(life);
    let life = Life::begin(&map, 1000, fast);
    assert_eq!(life.delivery.balance().owed, 1, "the commit follows");
}
