//! Everything outside the committer: publishers, devices, shards, the clock, and the map that survives crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use petrel_core::queue::{FullPolicy, Limits};
use petrel_core::{UnixMillis, WallClock, Window};
use petrel_protocol::{MessageId, Ordinal, ProjectId, SealKey, TokenSealer};
use tokio::sync::mpsc;

use super::device::Device;
use super::publisher::Publish;
use super::seeded::Seeded;
use super::shard::{Shard, Told};
use crate::delivery::{
    Committer, Delivery, DeliverySettings, HistorySettings, LogLimits, Operation,
};
use crate::directory::{Directory, ProjectKeys, ProjectLimits, Projects};
use crate::fanout::Sequencer;
use crate::presence::{Mailbox, Presence};
use crate::store::{Embedded, HistoryLimits, MemoryMap, Store};

pub(super) const PROJECT: ProjectId = ProjectId(0);
pub(super) const SHARDS: u8 = 2;
/// Far more than a simulation takes, so that it decides alone when an ack window ends.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// What becomes of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Commit,
    Fail,
    /// Nothing is durable and nobody hears of it.
    Crash,
    /// Everything is durable and nobody hears of it.
    CommitAndCrash,
}

/// One process: gone after a crash.
pub(super) struct Life {
    pub(super) delivery: Arc<Delivery>,
    pub(super) sequencer: Arc<Sequencer>,
    pub(super) operations: mpsc::Receiver<Operation>,
    pub(super) shards: Vec<Shard>,
}

pub(super) struct World {
    pub(super) rng: Seeded,
    pub(super) trace: Vec<String>,
    pub(super) settings: DeliverySettings,
    pub(super) map: MemoryMap,
    /// Empty at the start of each process. Its pages are large, so one serves all.
    pub(super) presence: Arc<Presence>,
    /// What happens during the next commit.
    pub(super) meanwhile: Option<super::race::Step>,
    pub(super) life: Option<Life>,
    pub(super) devices: Vec<Device>,
    pub(super) publishes: Vec<Publish>,
    /// Wall time in milliseconds; moves in steps so large that the time a run takes does not matter.
    pub(super) wall: u64,
    pub(super) now: Instant,
    pub(super) last_id: MessageId,
    pub(super) next_number: u32,
    /// Whether commits may fail and others act while the store works.
    pub(super) is_wild: bool,
    /// Whether processes crash in this run.
    pub(super) is_crashing: bool,
    /// A commit was the last thing that this life did.
    pub(super) is_dead: bool,
    /// Durable evictions of each device, durably trimmed broadcasts.
    pub(super) evicted: BTreeMap<Ordinal, u64>,
    pub(super) trimmed: BTreeSet<MessageId>,
}

pub(super) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(seed: u64, presence: Arc<Presence>) -> Self {
        let mut rng = Seeded(seed);
        let settings = DeliverySettings {
            ack_window: if rng.percent(70) {
                HOUR
            } else {
                Duration::ZERO
            },
            publish_timeout: HOUR,
            batch_operations_max: 1 + rng.below(8),
            answers_from_memory: false,
            disk_reserve: 0,
            limits: ProjectLimits {
                queue: Limits {
                    messages_max: 2 + rng.below(10),
                    bytes_max: 1 << 20,
                    collapse_keys_max: 1 + rng.below(3),
                    policy: if rng.percent(80) {
                        FullPolicy::Evict
                    } else {
                        FullPolicy::Refuse
                    },
                },
                bytes_max: u64::MAX,
            },
            log: LogLimits {
                messages_max: 1 + rng.below(8),
                bytes_max: 1 << 20,
                age_max: Duration::MAX,
            },
            topics_max: 2,
            registration_expiry: Duration::MAX,
            history: HistorySettings {
                is_recorded: true,
                limits: HistoryLimits {
                    age_max: Duration::MAX,
                    bytes_max: 1 << 12,
                },
            },
            window: Window {
                messages: 1 + rng.below(5),
                bytes: 1 << 16,
                unresponsive_after: Duration::from_secs(30),
            },
        };
        Self {
            rng,
            trace: Vec::new(),
            settings,
            map: MemoryMap::default(),
            presence,
            meanwhile: None,
            life: None,
            devices: (0..3).map(Device::new).collect(),
            publishes: Vec::new(),
            wall: 1_700_000_000_000,
            now: Instant::now(),
            last_id: MessageId::ZERO,
            next_number: 0,
            is_wild: false,
            is_crashing: !seed.is_multiple_of(3),
            is_dead: false,
            evicted: BTreeMap::new(),
            trimmed: BTreeSet::new(),
        }
    }

    pub(super) fn say(&mut self, what: String) {
        self.trace.push(what);
    }

    pub(super) fn life(&mut self) -> &mut Life {
        self.life.as_mut().unwrap()
    }

    pub(super) fn delivery(&self) -> Arc<Delivery> {
        Arc::clone(&self.life.as_ref().unwrap().delivery)
    }

    pub(super) fn shard(&mut self, at: usize) -> &mut Shard {
        &mut self.life().shards[at]
    }

    /// Others act while the store works.
    pub(super) fn go_on(&mut self) {
        if self.is_wild && !self.is_dead && self.rng.percent(40) {
            for _ in 0..=self.rng.below(6) {
                self.say("  meanwhile:".into());
                self.step();
            }
        }
    }

    /// Others act before anything is durable.
    pub(super) fn begin_commit(&mut self) {
        if let Some(step) = self.meanwhile.take() {
            self.race(step);
        }
        self.go_on();
    }

    pub(super) fn fate_of_commit(&mut self) -> Fate {
        let fate = match self.rng.below(100) {
            _ if !self.is_wild => Fate::Commit,
            0..4 => Fate::Fail,
            4..6 if self.is_crashing => Fate::Crash,
            6..8 if self.is_crashing => Fate::CommitAndCrash,
            _ => Fate::Commit,
        };
        if fate != Fate::Commit {
            self.say(format!("  {fate:?}"));
        }
        self.is_dead |= matches!(fate, Fate::Crash | Fate::CommitAndCrash);
        fate
    }

    /// Time passes: for everybody's deadlines, or only for the patience with devices.
    pub(super) fn pass_time(&mut self) {
        if self.rng.percent(50) {
            self.wall += 100_000;
            let clock = WallClock::new(UnixMillis(self.wall), UnixMillis(0), Instant::now());
            *self.life().delivery.clock.write().unwrap() = clock;
            self.say("the wall clock moves on".into());
        } else {
            self.now += Duration::from_secs(40);
            let now = self.now;
            for shard in &mut self.life().shards {
                shard.now = now;
            }
            self.say("devices take long".into());
        }
    }

    /// What shards told devices reaches the devices' books.
    pub(super) fn hear(&mut self) {
        for at in 0..usize::from(SHARDS) {
            for told in std::mem::take(&mut self.shard(at).told) {
                match told {
                    Told::Registered(owner, device) => {
                        self.devices[owner].registered = Some(device)
                    }
                    Told::Answered(owner, number, result) => {
                        let device = &mut self.devices[owner];
                        let Some((topic, member)) = device.requests.remove(&number) else {
                            continue;
                        };
                        assert!(result.is_ok() || device.is_ending, "{result:?}");
                        // Answers may overtake each other; the last request decides.
                        if device.last_requests[topic] == number && !device.is_ending {
                            device.topics[topic] = member;
                        }
                    }
                }
            }
        }
    }
}

/// Starts a process over what is durable. The committer stays outside of the world: the world goes on during its turns.
pub(super) fn start(world: &Arc<Mutex<World>>) -> Committer {
    let (map, settings, wall, mailbox, places) = {
        let mut world = lock(world);
        world.life = None;
        world.is_dead = false;
        world.is_wild = false;
        let mailbox = 1 + world.rng.below(6);
        let places = 4 + world.rng.below(12);
        (
            world.map.clone(),
            world.settings,
            world.wall,
            mailbox,
            places,
        )
    };
    let mut store = super::hooked::Hooked {
        inner: Embedded::new(map, 7),
        world: Arc::clone(world),
        evicted: BTreeMap::new(),
        trimmed: Vec::new(),
    };
    let loaded = store.load().unwrap();
    let key = SealKey {
        id: 1,
        key: zeroize::Zeroizing::new([9; 32]),
    };
    let keys = ProjectKeys {
        app_keys: vec!["app".into()],
        ..ProjectKeys::default()
    };
    let mut projects = Projects::default();
    projects.insert("simulated", PROJECT, &keys);
    let directory = Directory::new(TokenSealer::new(&[key]).unwrap(), projects, &loaded);
    let clock = WallClock::new(UnixMillis(wall), loaded.last_time, Instant::now());
    let mailboxes: Vec<_> = (0..SHARDS)
        .map(|_| Arc::new(Mailbox::new(mailbox, Box::new(|| ()))))
        .collect();
    let presence = Arc::clone(&lock(world).presence);
    assert_eq!(presence.online(), 0);
    let (mut delivery, _) = Delivery::new(
        settings,
        clock,
        Arc::new(directory),
        presence,
        mailboxes.clone(),
        loaded,
    );
    // So little room that shards meet a busy store and publishers wait.
    let (sender, operations) = mpsc::channel(places);
    Arc::get_mut(&mut delivery).unwrap().operations = sender;
    let sequencer = Arc::new(Sequencer::new(mailboxes));
    let committer = Committer::new(Arc::clone(&delivery), Box::new(store), Instant::now()).unwrap();
    let shards = (0..SHARDS)
        .map(|id| Shard::new(id, &delivery, &sequencer))
        .collect();
    let mut world = lock(world);
    world.now = Instant::now();
    world.life = Some(Life {
        delivery,
        sequencer,
        operations,
        shards,
    });
    committer
}

/// The process is gone: what was on its way or only in memory is lost.
pub(super) fn crash(world: &mut World) {
    world.say("crash".into());
    // Time never runs backwards over a restart, by however little.
    world.wall += 1_000;
    if let Some(life) = world.life.take() {
        for shard in &life.shards {
            shard.vanish();
        }
    }
    for device in &mut world.devices {
        device.at = None;
        device.left.clear();
        device.requests.clear();
    }
    for publish in &mut world.publishes {
        publish.future = None;
    }
}
