//! Looking after a store, over memory and sled.

use std::path::Path;
use std::time::Duration;

use petrel_core::queue::{FullPolicy, Limits};
use petrel_core::{
    Address, Content, Draft, DraftOptions, Event, Happening, Message, PerPlatform, Ttl, UnixMillis,
};
use petrel_protocol::session::Attributes;
use petrel_protocol::{MessageId, Ordinal, Platform, TopicName, Urgency};
use roaring::RoaringBitmap;

use super::*;
use crate::store::{
    BroadcastHistory, Embedded, GAP_BIT, MemoryMap, NewRegistration, Pair, ScanTerms, SledMap,
    Store, TopicGap,
};

mod backups;
mod checks;
mod portable;
mod swaps;

const NOW: UnixMillis = UnixMillis(1_000_000);
const EPOCH: u32 = 7;
const DEVICES: u8 = 3;

fn sled(path: &Path) -> Result<Box<dyn OrderedMap>, StoreError> {
    Ok(Box::new(SledMap::open(path, 1 << 20)?))
}

fn id(sequence: u64) -> MessageId {
    MessageId {
        epoch: EPOCH,
        sequence,
    }
}

fn message(project: petrel_protocol::ProjectId, device: Ordinal, sequence: u64) -> Message {
    let mut content = Content::default();
    content.data.insert("n".into(), sequence.to_string());
    let options = DraftOptions {
        ttl: Ttl::new(Duration::from_secs(3600)).unwrap(),
        urgency: Urgency::Normal,
        collapse_key: None,
    };
    let draft = Draft {
        content,
        options: PerPlatform::same(options),
    };
    draft.accept(id(sequence), project, Address::Device(device), NOW)
}

/// What became of a message for a device that is gone since, and of a broadcast.
fn fill_history(store: &mut dyn Store, project: petrel_protocol::ProjectId) {
    let device = Ordinal(256 + u32::from(DEVICES));
    let mut events = vec![Event {
        device,
        id: id(5),
        happening: Happening::Sent,
        at: NOW,
    }];
    store.record_history(&mut events, NOW, 9).unwrap();
    store.unregister(device).unwrap();
    let history = BroadcastHistory {
        id: id(50),
        project,
        topic: "news".into(),
        accepted_at: NOW,
        committed_at: NOW,
        targeted: 200_000,
        acked: 2,
        dropped: Default::default(),
        acks: Some((NOW, NOW)),
    };
    store.record_broadcast(&history).unwrap();
}

/// Fills a store with every kind of value: 3 devices, 2 with a queue, one of them with a gap, and a broadcast with a
/// target set in several pieces.
fn fill(map: impl OrderedMap) {
    let mut store = Embedded::new(map, EPOCH);
    store.load().unwrap();
    let project = store.project("shop").unwrap();
    let limits = Limits {
        messages_max: 2,
        bytes_max: 1 << 20,
        collapse_keys_max: 4,
        policy: FullPolicy::Evict,
    };
    for n in 0..DEVICES {
        let new = NewRegistration {
            project,
            secret_hash: [n; 32],
            platform: Platform::Android,
            attributes: Attributes::default(),
            at: NOW,
        };
        let device = store.register(&new).unwrap().ordinal;
        let topic = TopicName::parse("news").unwrap();
        store.subscribe(device, project, &topic, 9).unwrap();
        // None for the first, one for the second, three for the third, of which one is evicted.
        for at in 0..[0, 1, 3][usize::from(n)] {
            let message = message(project, device, u64::from(n) * 10 + at);
            store
                .enqueue(device, &message, Platform::Android, limits, NOW)
                .unwrap();
        }
    }
    // Every other one of so many, so that no run shortens it.
    let targeted: RoaringBitmap = (0..400_000).filter(|n| n % 2 == 0).collect();
    store
        .append(&message(project, Ordinal(0), 50), &targeted)
        .unwrap();
    store
        .save_settled(id(50), &RoaringBitmap::from([0, 2]))
        .unwrap();
    fill_history(&mut store, project);
    store.reserve(500).unwrap();
    store.save_time(NOW).unwrap();
    // Queues that come and go, enough for a chunk of summaries, and a gap that was told and acked.
    for device in (100..400).map(Ordinal) {
        let message = message(project, device, 60);
        store
            .enqueue(device, &message, Platform::Android, limits, NOW)
            .unwrap();
        store.settle(device, id(60)).unwrap();
    }
    // The chunk makes the journal of this commit needless; that of the next one stays.
    store.commit().unwrap();
    let gap = TopicGap {
        project,
        topic: TopicName::parse("news").unwrap(),
        newest: id(40),
        count: 1,
    };
    store.put_topic_gap(Ordinal(0), &gap).unwrap();
    assert!(store.settle(Ordinal(0), id(40 | GAP_BIT)).unwrap());
    store.commit().unwrap();
}

fn pairs(map: &dyn OrderedMap) -> Vec<Pair> {
    map.range(walk::FIRST, walk::END)
        .map(Result::unwrap)
        .collect()
}

/// Without the numbers that a new life changes.
fn pairs_beside_life(map: &dyn OrderedMap) -> Vec<Pair> {
    let changed = ["epoch", "next_ordinal", "restored"].map(crate::store::layout::meta);
    let mut pairs = pairs(map);
    pairs.retain(|(key, _)| !changed.contains(key));
    pairs
}

/// A directory with a filled store.
fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fill(SledMap::open(&directory.path().join("db"), 1 << 20).unwrap());
    directory
}

fn contents(data_dir: &Path) -> Vec<Pair> {
    pairs(&*sled(&data_dir.join("db")).unwrap())
}

/// What devices find in their queues.
fn queued(data_dir: &Path) -> Vec<Vec<MessageId>> {
    let map = SledMap::open(&data_dir.join("db"), 1 << 20).unwrap();
    let mut store = Embedded::new(map, EPOCH);
    store.load().unwrap();
    let terms = ScanTerms {
        platform: Platform::Android,
        minimum_urgency: Urgency::VeryLow,
        limit: 9,
        now: NOW,
    };
    (0..DEVICES)
        .map(|n| {
            let scan = store.scan(Ordinal(n.into()), terms).unwrap();
            scan.found.iter().map(|q| q.id()).collect()
        })
        .collect()
}

fn silent() -> impl FnMut(Seen) {
    |_| {}
}
