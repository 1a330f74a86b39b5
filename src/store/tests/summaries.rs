//! What the store knows of queues without reading them is true.

use super::*;

impl<M: OrderedMap> Embedded<M> {
    /// What is said of each queue is what reading it would say.
    pub(super) fn check_summaries(&self) {
        let queues = self.summaries_and_truth().unwrap();
        for (device, said, truth) in queues {
            let deadline = truth.earliest;
            assert!(
                said.earliest <= deadline,
                "{device:?} has something due earlier than is said"
            );
            let said = petrel_core::queue::Summary {
                earliest: deadline,
                ..said
            };
            assert_eq!(said, truth, "{device:?}");
        }
    }
}

fn keyed(sequence: u64, key: &str) -> Message {
    message(sequence, Some(key), 3600, Urgency::Normal)
}

#[test]
fn a_queue_is_known_to_be_there_without_reading_it() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        assert!(!store.has_queue(DEVICE));
        enqueue(&mut *store, &plain(1));
        assert!(store.has_queue(DEVICE));
        assert!(matches!(store.queued_bytes()[..], [(PROJECT, bytes)] if bytes > 0));
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        assert!(store.load().unwrap().queued.contains(DEVICE.0));
        assert!(store.settle(DEVICE, id(1)).unwrap());
        assert!(!store.has_queue(DEVICE));
        assert_eq!(store.stats().queued_bytes, 0);
        store.commit().unwrap();
        drop(store);
        assert!(engine.open().load().unwrap().queued.is_empty());
    });
}

#[test]
fn of_too_many_collapse_keys_the_oldest_goes_and_is_told() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        enqueue(&mut *store, &keyed(1, "a"));
        enqueue(&mut *store, &keyed(2, "b"));
        let third = enqueue(&mut *store, &keyed(3, "c"));
        let evicted = vec![(id(1), DropReason::Evicted)];
        assert_eq!(third, Enqueued::Queued { dropped: evicted });
        let newer = enqueue(&mut *store, &keyed(4, "b"));
        let collapsed = vec![(id(2), DropReason::Collapsed)];
        assert_eq!(newer, Enqueued::Queued { dropped: collapsed });
        let gap = id(1 | GAP_BIT);
        assert_eq!(found(&mut *store, terms(9)), [3, 4, gap.sequence]);
    });
}

#[test]
fn what_expired_goes_without_being_asked_for_and_other_queues_are_not_looked_at() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let short = message(1, None, 60, Urgency::Normal);
        enqueue(&mut *store, &short);
        enqueue(&mut *store, &message(2, None, 7200, Urgency::Normal));
        let other = Ordinal(9);
        let long = message(3, None, 7200, Urgency::Normal);
        let platform = Platform::Android;
        store.enqueue(other, &long, platform, LIMITS, NOW).unwrap();
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        store.load().unwrap();

        let after = |minutes: u64| NOW.after(Duration::from_secs(60 * minutes));
        assert_eq!(
            store.expire(after(2), 9).unwrap(),
            [],
            "not long ago enough"
        );
        let expired = |device, sequence, is_empty| Expired {
            device,
            dropped: vec![(id(sequence), DropReason::Expired)],
            is_empty,
        };
        assert_eq!(
            store.expire(after(40), 9).unwrap(),
            [expired(DEVICE, 1, false)]
        );
        assert_eq!(store.expire(after(40), 9).unwrap(), []);
        let both = after(180);
        assert_eq!(store.expire(both, 1).unwrap(), [expired(DEVICE, 2, true)]);
        assert_eq!(store.expire(both, 1).unwrap(), [expired(other, 3, true)]);
        assert_eq!(store.stats().queued_messages, 0);
    });
}

/// Enough queues that chunks are written and journal records go, over restarts.
#[test]
fn summaries_stay_true_over_many_commits_and_take_little_room() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        for round in 0..12_u64 {
            for n in 0..200_u32 {
                let device = Ordinal(n * 37 + round as u32);
                let sequence = round * 1000 + u64::from(n) + 1;
                let message = plain(sequence);
                let platform = Platform::Android;
                store
                    .enqueue(device, &message, platform, LIMITS, NOW)
                    .unwrap();
                if n % 3 == 0 {
                    store.settle(device, message.id).unwrap();
                }
            }
            store.commit().unwrap();
            if round % 4 == 3 {
                drop(store);
                store = engine.open();
                let loaded = store.load().unwrap();
                assert_eq!(loaded.unreadable, 0);
                store.check_summaries();
            }
        }
    });
}

#[test]
fn the_journal_is_folded_into_chunks() {
    let map = MemoryMap::default();
    let mut store = map.open();
    store.load().unwrap();
    let count = |kind: u8| map.pairs().iter().filter(|(key, _)| key[0] == kind).count();
    // Eight chunks, each stale again after every commit.
    for commit in 0..100_u64 {
        for n in 0..64 {
            let message = plain(commit * 64 + u64::from(n) + 1);
            let platform = Platform::Android;
            let device = Ordinal(n << 7);
            store
                .enqueue(device, &message, platform, LIMITS, NOW)
                .unwrap();
        }
        store.commit().unwrap();
    }
    assert_eq!(count(layout::SUMMARIES), 8);
    let records = count(layout::JOURNAL);
    assert!((1..=40).contains(&records), "{records}");
}

#[test]
fn unreadable_summaries_are_made_anew() {
    let chunk = |_: u64| layout::summaries(0);
    for key in [layout::journal, chunk] {
        let map = MemoryMap::default();
        let mut store = map.open();
        store.load().unwrap();
        store.register(&registration(1)).unwrap();
        enqueue(&mut *store, &plain(1));
        store.commit().unwrap();
        enqueue(&mut *store, &keyed(2, "k"));
        store.commit().unwrap();
        let bytes = store.stats().queued_bytes;
        drop(store);
        let mut raw = map.clone();
        raw.write(&[(key(1), Some(b"rubbish".to_vec()))]).unwrap();
        let mut store = Embedded::new(map.clone(), 7);
        let loaded = store.load().unwrap();
        assert_eq!((loaded.unreadable, loaded.queued_messages), (1, 2));
        assert_eq!(store.stats().queued_bytes, bytes);
        store.check_summaries();
        store.commit().unwrap();
        let mut store = Embedded::new(map, 7);
        store.load().unwrap();
        store.check_summaries();
    }
}

/// Version 1 had no summaries, and sets whole.
#[test]
fn the_first_version_is_brought_to_this_one() {
    let map = MemoryMap::default();
    let mut store = Embedded::new(map.clone(), 7);
    store.load().unwrap();
    enqueue(&mut store, &plain(1));
    enqueue(&mut store, &keyed(2, "k"));
    let topic = Address::Topic(TopicName::parse("t").unwrap());
    let broadcast = draft(3, None, 3600, Urgency::Normal).accept(id(3), PROJECT, topic, NOW);
    let targeted: RoaringBitmap = (0..9).collect();
    let settled: RoaringBitmap = (3..5).collect();
    store.put_registrations(&targeted, &registration(1));
    store.append(&broadcast, &targeted).unwrap();
    store.commit().unwrap();
    drop(store);

    let whole = |set: &RoaringBitmap| {
        let mut bytes = Vec::new();
        set.serialize_into(&mut bytes).unwrap();
        bytes
    };
    let mut record = records::BroadcastRecord::new(petrel_core::encode_message(&broadcast));
    record.targeted = whole(&targeted);
    let mut settled_key = layout::piece(layout::SETTLED, id(3), 0);
    settled_key.truncate(13);
    let mut raw = map.clone();
    raw.write(&[
        (
            layout::meta("schema"),
            Some(layout::seal(&1_u64.to_be_bytes())),
        ),
        (layout::journal(0), None),
        (layout::piece(layout::TARGETED, id(3), 0), None),
        (layout::broadcast(id(3)), Some(record.write())),
        (settled_key, Some(layout::seal(&whole(&settled)))),
    ])
    .unwrap();

    for _ in 0..2 {
        let mut store = Embedded::new(map.clone(), 9);
        let loaded = store.load().unwrap();
        assert_eq!((loaded.epoch, loaded.unreadable), (7, 0));
        assert_eq!(loaded.queued_messages, 2);
        assert_eq!(loaded.broadcasts.len(), 1);
        assert_eq!(loaded.broadcasts[0].targeted, targeted);
        assert_eq!(loaded.broadcasts[0].settled, settled);
        store.check_summaries();
    }
}

/// An export leaves out what is unreadable, a summary too: the import marks the store.
#[test]
fn a_store_that_is_marked_makes_its_summaries_anew_once() {
    let map = MemoryMap::default();
    let mut store = map.open();
    store.load().unwrap();
    store.register(&registration(1)).unwrap();
    enqueue(&mut *store, &plain(1));
    store.commit().unwrap();
    drop(store);
    let mark = layout::meta(layout::SUMMARIZE);
    let one = layout::seal(&1_u64.to_be_bytes());
    let mut raw = map.clone();
    raw.write(&[(layout::journal(0), None), (mark.clone(), Some(one))])
        .unwrap();
    let mut store = map.open();
    let loaded = store.load().unwrap();
    assert_eq!((loaded.unreadable, loaded.queued_messages), (0, 1));
    store.check_summaries();
    assert_eq!(found(&mut *store, terms(9)), [1]);
    store.commit().unwrap();
    assert_eq!(raw.get(&mark).unwrap(), None);
    let mut store = map.open();
    assert!(store.load().unwrap().queued.contains(DEVICE.0));
}

/// Very many queues may be due and have nothing to expire any more.
#[test]
fn a_slice_of_expiry_is_bounded_by_the_queues_that_it_looks_at() {
    let mut store = MemoryMap::default().open();
    store.load().unwrap();
    let platform = Platform::Android;
    for device in (0..5).map(Ordinal) {
        for (sequence, ttl) in [(1, 60), (2, 7200)] {
            let sequence = u64::from(device.0) * 10 + sequence;
            let message = message(sequence, Some("k"), ttl, Urgency::Normal);
            store
                .enqueue(device, &message, platform, LIMITS, NOW)
                .unwrap();
        }
    }
    let now = NOW.after(Duration::from_secs(3000));
    let looked_at = [2, 2, 2, 2].map(|most| store.expire(now, most).unwrap().len());
    assert_eq!(looked_at, [2, 2, 1, 0]);
    assert_eq!(store.stats().queued_messages, 5);
}
