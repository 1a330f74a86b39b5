//! The conformance suite of a store: every engine passes the same tests; sled is compared with memory over random
//! histories with reopening as an operation.

use std::path::Path;
use std::time::Duration;

use petrel_core::queue::FullPolicy;
use petrel_core::{Address, Content, Draft, DraftOptions, PerPlatform, Ttl};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::*;

mod history;
mod sets;
mod summaries;

const NOW: UnixMillis = UnixMillis(1_000_000);
const LIMITS: Limits = Limits {
    messages_max: 4,
    bytes_max: 1 << 20,
    collapse_keys_max: 2,
    policy: FullPolicy::Evict,
};
const DEVICE: Ordinal = Ordinal(0);
const PROJECT: ProjectId = ProjectId(0);

fn id(sequence: u64) -> MessageId {
    MessageId { epoch: 7, sequence }
}

fn message(sequence: u64, key: Option<&str>, ttl_seconds: u64, urgency: Urgency) -> Message {
    let draft = draft(sequence, key, ttl_seconds, urgency);
    draft.accept(id(sequence), PROJECT, Address::Device(DEVICE), NOW)
}

fn draft(sequence: u64, key: Option<&str>, ttl_seconds: u64, urgency: Urgency) -> Draft {
    let options = DraftOptions {
        ttl: Ttl::new(Duration::from_secs(ttl_seconds)).unwrap(),
        urgency,
        collapse_key: key.map(|k| CollapseKey::parse(k).unwrap()),
    };
    let mut content = Content::default();
    content.data.insert("n".into(), sequence.to_string());
    Draft {
        content,
        options: PerPlatform::same(options),
    }
}

fn plain(sequence: u64) -> Message {
    message(sequence, None, 3600, Urgency::Normal)
}

fn registration(secret: u8) -> NewRegistration {
    NewRegistration {
        project: PROJECT,
        secret_hash: [secret; 32],
        platform: Platform::Android,
        attributes: Attributes::default(),
        at: NOW,
    }
}

fn terms(limit: usize) -> ScanTerms {
    ScanTerms {
        platform: Platform::Android,
        minimum_urgency: Urgency::VeryLow,
        limit,
        now: NOW,
    }
}

fn enqueue(store: &mut dyn Store, message: &Message) -> Enqueued {
    store
        .enqueue(DEVICE, message, Platform::Android, LIMITS, NOW)
        .unwrap()
}

fn found(store: &mut dyn Store, terms: ScanTerms) -> Vec<u64> {
    let scan = store.scan(DEVICE, terms).unwrap();
    scan.found.iter().map(|q| q.id().sequence).collect()
}

/// Something that can be opened again and again over the same data.
trait Engine {
    fn open(&self) -> Box<dyn Checked>;
}

/// A store that can check itself.
trait Checked: Store {
    fn check_summaries(&self);

    /// What is said of the size of the history is what reading it says.
    fn check_history(&self);

    /// Makes these devices registered, whatever came before.
    fn register_all(&mut self, devices: &RoaringBitmap);
}

impl<M: OrderedMap> Checked for Embedded<M> {
    fn check_summaries(&self) {
        Self::check_summaries(self);
    }

    fn check_history(&self) {
        assert_eq!(self.stats().history_bytes, self.count_history().unwrap());
    }

    fn register_all(&mut self, devices: &RoaringBitmap) {
        self.put_registrations(devices, &registration(1));
    }
}

impl Engine for MemoryMap {
    fn open(&self) -> Box<dyn Checked> {
        Box::new(Embedded::new(self.clone(), 7))
    }
}

impl Engine for &Path {
    fn open(&self) -> Box<dyn Checked> {
        Box::new(Embedded::new(SledMap::open(self, 1 << 20).unwrap(), 7))
    }
}

#[cfg(feature = "fjall")]
struct Fjall(tempfile::TempDir);

#[cfg(feature = "fjall")]
impl Engine for Fjall {
    fn open(&self) -> Box<dyn Checked> {
        Box::new(Embedded::new(
            FjallMap::open(self.0.path(), 1 << 20).unwrap(),
            7,
        ))
    }
}

/// Runs a test on every engine.
fn on_every_engine(test: impl Fn(&dyn Engine)) {
    #[cfg(feature = "fjall")]
    test(&Fjall(tempfile::tempdir().unwrap()));
    test(&MemoryMap::default());
    let directory = tempfile::tempdir().unwrap();
    test(&directory.path());
}

#[test]
fn only_what_was_committed_survives() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        assert_eq!(store.load().unwrap().epoch, 7);
        store.register(&registration(1)).unwrap();
        enqueue(&mut *store, &plain(1));
        store.reserve(500).unwrap();
        store.save_time(NOW).unwrap();
        store.commit().unwrap();
        enqueue(&mut *store, &plain(2));
        drop(store);

        let mut store = engine.open();
        let loaded = store.load().unwrap();
        assert_eq!((loaded.epoch, loaded.reserved_end), (7, 500));
        assert_eq!(loaded.last_time, NOW);
        assert_eq!(loaded.registrations.len(), 1);
        assert_eq!(loaded.queued_messages, 1);
        assert!(loaded.queued.contains(DEVICE.0));
        assert_eq!(found(&mut *store, terms(9)), [1]);
    });
}

#[test]
fn registering_again_finds_the_same_and_ordinals_are_never_reused() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let first = store.register(&registration(1)).unwrap();
        assert_eq!(store.register(&registration(1)).unwrap(), first);
        let second = store.register(&registration(2)).unwrap();
        assert_ne!(first.ordinal, second.ordinal);
        store.unregister(second.ordinal).unwrap();
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        store.load().unwrap();
        let third = store.register(&registration(2)).unwrap();
        assert!(third.ordinal > second.ordinal);
    });
}

#[test]
fn after_a_rotation_only_the_new_secret_leads_to_the_registration() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let first = store.register(&registration(1)).unwrap();
        store.rotate(first.ordinal, [9; 32]).unwrap();
        let again = store.register(&registration(9)).unwrap();
        assert_eq!(again.ordinal, first.ordinal);
        let other = store.register(&registration(1)).unwrap();
        assert_ne!(other.ordinal, first.ordinal);
    });
}

#[test]
fn subscriptions_come_back_and_have_a_limit() {
    on_every_engine(|engine| {
        let topic = |n: u32| TopicName::parse(&format!("t{n}")).unwrap();
        let mut store = engine.open();
        store.load().unwrap();
        let subscribe =
            |store: &mut dyn Store, n| store.subscribe(DEVICE, PROJECT, &topic(n), 2).unwrap();
        let Subscribed::Done(first) = subscribe(&mut *store, 1) else {
            panic!("refused");
        };
        assert!(matches!(subscribe(&mut *store, 2), Subscribed::Done(_)));
        assert_eq!(subscribe(&mut *store, 3), Subscribed::TooMany);
        assert_eq!(subscribe(&mut *store, 1), Subscribed::Done(first));
        assert_eq!(
            store.unsubscribe(DEVICE, PROJECT, &topic(2)).unwrap(),
            Some(TopicId(1))
        );
        assert_eq!(store.unsubscribe(DEVICE, PROJECT, &topic(2)).unwrap(), None);
        store.commit().unwrap();
        drop(store);
        let loaded = engine.open().load().unwrap();
        assert_eq!(loaded.subscriptions, [(DEVICE, first)]);
        assert_eq!(loaded.topics.len(), 2);
    });
}

#[test]
fn unregistering_takes_everything_along() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let device = store.register(&registration(1)).unwrap().ordinal;
        let topic = TopicName::parse("t").unwrap();
        store.subscribe(device, PROJECT, &topic, 10).unwrap();
        for sequence in 1..=6 {
            enqueue(&mut *store, &plain(sequence));
        }
        let gone = store.unregister(device).unwrap();
        assert_eq!((gone.topics.len(), gone.queued), (1, 4));
        store.commit().unwrap();
        drop(store);
        let loaded = engine.open().load().unwrap();
        assert!(loaded.registrations.is_empty() && loaded.subscriptions.is_empty());
        assert!(loaded.queued.is_empty());
    });
}

#[test]
fn a_scan_is_in_order_bounded_and_leaves_out_what_is_not_wanted() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        enqueue(&mut *store, &message(1, None, 0, Urgency::Normal));
        enqueue(&mut *store, &message(2, None, 60, Urgency::Low));
        store.commit().unwrap();
        enqueue(&mut *store, &plain(4));
        enqueue(&mut *store, &plain(3));

        assert_eq!(found(&mut *store, terms(2)), [2, 3]);
        let wanted = ScanTerms {
            minimum_urgency: Urgency::Normal,
            ..terms(2)
        };
        let scan = store.scan(DEVICE, wanted).unwrap();
        assert!(scan.is_complete && scan.found.len() == 2);
        assert_eq!(scan.dropped, [], "the expired one went with the first scan");
        assert_eq!(store.stats().queued_messages, 3);
    });
}

/// PROTO-31: each message that was evicted is told once, and only once it is acked is it forgotten.
#[test]
fn gaps_are_exact() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        for sequence in 1..=7 {
            enqueue(&mut *store, &plain(sequence));
        }
        let gaps = |store: &mut dyn Store| -> Vec<(MessageId, u64)> {
            let scan = store.scan(DEVICE, terms(99)).unwrap();
            scan.found
                .iter()
                .filter_map(|q| match q {
                    Queued::Gap(id, gap) => Some((*id, gap.counts["evicted"])),
                    Queued::Message(_) => None,
                })
                .collect()
        };
        let first = gaps(&mut *store);
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].1, 3);
        // It was read: what is evicted now is a gap of its own, also after a restart.
        enqueue(&mut *store, &plain(8));
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        store.load().unwrap();
        enqueue(&mut *store, &plain(9));
        let both = gaps(&mut *store);
        assert_eq!(both.iter().map(|g| g.1).sum::<u64>(), 5);
        assert_eq!(both[0], first[0]);
        assert!(store.settle(DEVICE, first[0].0).unwrap());
        assert!(!store.settle(DEVICE, first[0].0).unwrap());
        assert_eq!(gaps(&mut *store).iter().map(|g| g.1).sum::<u64>(), 2);
    });
}

#[test]
fn broadcasts_come_back_with_their_sets() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let topic = Address::Topic(TopicName::parse("t").unwrap());
        let broadcast = |sequence| {
            let draft = draft(sequence, None, 3600, Urgency::Normal);
            draft.accept(id(sequence), PROJECT, topic.clone(), NOW)
        };
        let targeted: RoaringBitmap = (0..1000).collect();
        store.register_all(&targeted);
        for sequence in 1..=3 {
            store.append(&broadcast(sequence), &targeted).unwrap();
        }
        store.save_settled(id(1), &(0..300).collect()).unwrap();
        store.trim(id(2)).unwrap();
        store.remove_broadcast(id(3)).unwrap();
        store.commit().unwrap();
        drop(store);
        let loaded = engine.open().load().unwrap();
        let seen: Vec<_> = loaded
            .broadcasts
            .iter()
            .map(|b| (b.message.id.sequence, b.settled.len(), b.is_trimmed))
            .collect();
        assert_eq!(seen, [(1, 300, false), (2, 0, true)]);
        assert_eq!(loaded.broadcasts[0].targeted, targeted);
    });
}

#[test]
fn a_newer_schema_is_refused_and_nothing_is_touched() {
    let map = MemoryMap::default();
    let mut raw = map.clone();
    let newer = layout::seal(&u64::from(layout::SCHEMA + 1).to_be_bytes());
    raw.write(&[(layout::meta("schema"), Some(newer))]).unwrap();
    let before = map.pairs();
    let error = map.open().load().unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { .. }));
    assert_eq!(map.pairs(), before);
}

#[test]
fn an_unreadable_message_becomes_a_gap_and_hurts_nobody_else() {
    let map = MemoryMap::default();
    let mut store = map.open();
    store.load().unwrap();
    for sequence in 1..=3 {
        enqueue(&mut *store, &plain(sequence));
    }
    store.commit().unwrap();
    let mut raw = map.clone();
    let key = layout::queue(DEVICE, id(2));
    raw.write(&[(key, Some(b"rubbish".to_vec()))]).unwrap();
    let scan = store.scan(DEVICE, terms(99)).unwrap();
    assert_eq!(scan.dropped, [(id(2), DropReason::Unreadable)]);
    assert_eq!(scan.found.len(), 2);
    assert!(!scan.is_complete, "the gap is still to be told");
    let scan = store.scan(DEVICE, terms(99)).unwrap();
    assert!(matches!(&scan.found[2], Queued::Gap(_, gap) if gap.counts["unreadable"] == 1));
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue {
        device: u32,
        key: u8,
        urgency: u8,
        ttl: u64,
    },
    Settle {
        device: u32,
        back: u64,
    },
    Scan {
        device: u32,
    },
    Subscribe {
        device: u32,
        topic: u8,
    },
    Unsubscribe {
        device: u32,
        topic: u8,
    },
    Register {
        secret: u8,
    },
    Unregister {
        device: u32,
    },
    Collapse {
        device: u32,
        key: u8,
    },
    /// After so many spans.
    Expire {
        spans: u64,
    },
    Commit,
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    let device = 0_u32..4;
    prop_oneof![
        6 => (device.clone(), 0_u8..6, 1_u8..=4, 0_u64..3)
            .prop_map(|(device, key, urgency, ttl)| Step::Enqueue { device, key, urgency, ttl }),
        4 => (device.clone(), 0_u64..8).prop_map(|(device, back)| Step::Settle { device, back }),
        3 => device.clone().prop_map(|device| Step::Scan { device }),
        2 => (device.clone(), 0_u8..4).prop_map(|(device, topic)| Step::Subscribe { device, topic }),
        1 => (device.clone(), 0_u8..4).prop_map(|(device, topic)| Step::Unsubscribe { device, topic }),
        2 => (0_u8..6).prop_map(|secret| Step::Register { secret }),
        1 => device.clone().prop_map(|device| Step::Unregister { device }),
        1 => (device.clone(), 3_u8..6).prop_map(|(device, key)| Step::Collapse { device, key }),
        1 => (0_u64..4).prop_map(|spans| Step::Expire { spans }),
        3 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

/// One step on one store; what can be seen of it.
fn perform(store: &mut dyn Store, step: &Step, sequence: u64) -> String {
    match *step {
        Step::Enqueue {
            device,
            key,
            urgency,
            ttl,
        } => {
            let urgency = Urgency::from_number(urgency).unwrap();
            let keys = [None, None, None, Some("a"), Some("b"), Some("c")];
            let message = message(sequence, keys[usize::from(key)], ttl * 1800, urgency);
            let platform = Platform::Android;
            let outcome = store.enqueue(Ordinal(device), &message, platform, LIMITS, NOW);
            format!("{:?}", outcome.unwrap())
        }
        Step::Settle { device, back } => {
            let outcome = store.settle(Ordinal(device), id(sequence.saturating_sub(back)));
            format!("{:?}", outcome.unwrap())
        }
        Step::Scan { device } => {
            let scan = store.scan(Ordinal(device), terms(3)).unwrap();
            let ids: Vec<_> = scan.found.iter().map(Queued::id).collect();
            format!("{ids:?} {} {:?}", scan.is_complete, scan.dropped)
        }
        Step::Subscribe { device, topic } => {
            let topic = TopicName::parse(&format!("t{topic}")).unwrap();
            format!(
                "{:?}",
                store
                    .subscribe(Ordinal(device), PROJECT, &topic, 3)
                    .unwrap()
            )
        }
        Step::Unsubscribe { device, topic } => {
            let topic = TopicName::parse(&format!("t{topic}")).unwrap();
            format!(
                "{:?}",
                store.unsubscribe(Ordinal(device), PROJECT, &topic).unwrap()
            )
        }
        Step::Register { secret } => {
            format!("{:?}", store.register(&registration(secret)).unwrap())
        }
        Step::Unregister { device } => {
            format!("{:?}", store.unregister(Ordinal(device)).unwrap())
        }
        Step::Collapse { device, key } => {
            let key = CollapseKey::parse(["a", "b", "c"][usize::from(key) - 3]).unwrap();
            let older = store.collapse(Ordinal(device), &key, id(sequence));
            format!("{:?}", older.unwrap())
        }
        Step::Expire { spans } => {
            let now = UnixMillis(NOW.0 + (spans << 20));
            format!("{:?}", store.expire(now, 99).unwrap())
        }
        Step::Commit => {
            store.commit().unwrap();
            String::new()
        }
        Step::Reopen => String::new(),
    }
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// sled and memory answer every history alike, crashes included: `TEST_STORE_HISTORIES` of them, from a seed that
/// `TEST_STORE_SEED` repeats.
#[test]
fn sled_behaves_as_memory_does() {
    let now = std::time::SystemTime::now();
    let nanos = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    let seed = number_from_env("TEST_STORE_SEED").unwrap_or(nanos as u64);
    let histories = number_from_env("TEST_STORE_HISTORIES").unwrap_or(1000);
    println!("TEST_STORE_SEED={seed} TEST_STORE_HISTORIES={histories}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        cases: u32::try_from(histories).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let steps = proptest::collection::vec(any_step(), 1..120);
    TestRunner::new_with_rng(config, rng)
        .run(&steps, |steps| compare(&steps))
        .unwrap();
}

fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let memory = MemoryMap::default();
    let sled_engine = directory.path();
    let (mut left, mut right) = (memory.open(), sled_engine.open());
    left.load().unwrap();
    right.load().unwrap();
    for (at, step) in steps.iter().enumerate() {
        let sequence = at as u64 + 1;
        if matches!(step, Step::Reopen) {
            // Dropped before the next one opens: sled locks its files.
            drop((left, right));
            (left, right) = (memory.open(), sled_engine.open());
            let (l, r) = (left.load().unwrap(), right.load().unwrap());
            prop_assert_eq!(l.registrations, r.registrations);
            prop_assert_eq!(l.subscriptions, r.subscriptions);
            prop_assert_eq!(l.queued, r.queued);
            prop_assert_eq!(l.queued_messages, r.queued_messages);
        }
        let seen = perform(&mut *left, step, sequence);
        prop_assert_eq!(seen, perform(&mut *right, step, sequence), "{:?}", step);
        for device in (0..4).map(Ordinal) {
            prop_assert_eq!(left.has_queue(device), right.has_queue(device));
        }
        let (l, r) = (left.stats(), right.stats());
        prop_assert_eq!(l.queued_messages, r.queued_messages);
        prop_assert_eq!(l.queued_bytes, r.queued_bytes);
        left.check_summaries();
        right.check_summaries();
    }
    Ok(())
}
