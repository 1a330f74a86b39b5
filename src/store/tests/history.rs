//! What became of messages: coalesced, in order, within its bounds, erased with its device.

use petrel_core::{Event, Happening, Timeline};

use super::*;

const WIDE: HistoryLimits = HistoryLimits {
    age_max: Duration::from_secs(3600),
    bytes_max: 1 << 30,
};

fn event(device: Ordinal, sequence: u64, happening: Happening, at: u64) -> Event {
    Event {
        device,
        id: id(sequence),
        happening,
        at: UnixMillis(NOW.0 + at),
    }
}

fn online(device: Ordinal, sequence: u64, at: u64) -> [Event; 3] {
    [
        event(device, sequence, Happening::Accepted, at),
        event(device, sequence, Happening::Sent, at),
        event(device, sequence, Happening::Acked, at + 1),
    ]
}

/// Records all of it, so many milliseconds after the beginning; how many slices that took.
fn record(store: &mut dyn Checked, mut events: Vec<Event>, at: u64, keys_max: usize) -> usize {
    let mut slices = 0;
    while !events.is_empty() {
        slices += 1;
        let now = UnixMillis(NOW.0 + at);
        store.record_history(&mut events, now, keys_max).unwrap();
    }
    store.check_history();
    slices
}

fn trim(store: &mut dyn Checked, at: u64, limits: HistoryLimits) {
    let now = UnixMillis(NOW.0 + at);
    while store.trim_history(now, limits, 3).unwrap() {
        store.commit().unwrap();
    }
    store.check_history();
}

fn names(timeline: &Timeline) -> Vec<&'static str> {
    timeline.steps().iter().map(|(h, _)| h.as_str()).collect()
}

fn page(store: &dyn Checked, device: Ordinal, before: u64, limit: usize) -> Vec<u64> {
    let page = store.history_of_device(device, id(before), limit).unwrap();
    page.iter().map(|t| t.id.sequence).collect()
}

const ALL: u64 = u64::MAX >> 1;

#[test]
fn what_is_written_together_shares_a_key_and_reads_back_in_order() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let mut events = Vec::new();
        // A thousand messages to devices of one bucket, and two of another.
        for sequence in 1..=1000 {
            let device = Ordinal(256 * u32::try_from(sequence % 50).unwrap());
            events.extend(online(device, sequence, sequence));
        }
        events.extend(online(Ordinal(1), 7, 3));
        events.extend(online(Ordinal(257), 8, 3));
        assert_eq!(record(&mut *store, events, 2000, 1), 4);
        store.commit().unwrap();
        let stats = store.stats();
        assert_eq!(stats.history_bytes, stats.history_bytes_written);
        assert!(stats.history_bytes < 1002 * 14, "{}", stats.history_bytes);
        drop(store);

        let mut store = engine.open();
        store.load().unwrap();
        store.check_history();
        assert_eq!(store.stats().history_bytes, stats.history_bytes);
        let device = Ordinal(256 * 7);
        let found = store.history_of(device, id(957)).unwrap().unwrap();
        assert_eq!(names(&found), ["accepted", "sent", "acked"]);
        assert_eq!(found.steps()[2].1, UnixMillis(NOW.0 + 958));
        assert_eq!(store.history_of(Ordinal(1), id(957)).unwrap(), None);
        assert_eq!(page(&*store, device, ALL, 3), [957, 907, 857]);
        assert_eq!(page(&*store, device, 857, 2), [807, 757]);
        assert_eq!(page(&*store, device, ALL, 99).len(), 20);
        assert_eq!(page(&*store, Ordinal(1), ALL, 9), [7]);
    });
}

#[test]
fn parts_of_a_timeline_written_at_different_times_are_one() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let queued = |sequence, at| {
            vec![
                event(DEVICE, sequence, Happening::Accepted, at),
                event(DEVICE, sequence, Happening::Queued, at + 2),
            ]
        };
        record(&mut *store, queued(1, 10), 500, 9);
        store.commit().unwrap();
        // Twice in the same millisecond: neither overwrites the other.
        record(&mut *store, queued(2, 20), 600, 9);
        record(&mut *store, queued(3, 30), 600, 9);
        let later = vec![
            event(DEVICE, 1, Happening::Sent, 900),
            event(DEVICE, 1, Happening::Acked, 905),
            event(DEVICE, 2, Happening::Dropped(DropReason::Expired), 900),
        ];
        record(&mut *store, later, 1000, 9);
        store.commit().unwrap();
        drop(store);

        let mut store = engine.open();
        store.load().unwrap();
        let page = store.history_of_device(DEVICE, id(ALL), 9).unwrap();
        let seen: Vec<_> = page.iter().map(|t| (t.id.sequence, names(t))).collect();
        assert_eq!(
            seen,
            [
                (3, vec!["accepted", "queued"]),
                (2, vec!["accepted", "queued", "expired"]),
                (1, vec!["accepted", "queued", "sent", "acked"]),
            ]
        );
        let first = store.history_of(DEVICE, id(1)).unwrap();
        assert_eq!(first.as_ref(), page.last());
        assert_eq!(self::page(&*store, DEVICE, ALL, 1), [3]);
    });
}

#[test]
fn what_is_too_old_goes_and_the_rest_stays() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        for sequence in 1..=40 {
            // Over seven buckets.
            let device = Ordinal(u32::try_from(sequence % 7).unwrap());
            let events = online(device, sequence, sequence * 1000);
            record(&mut *store, events.to_vec(), sequence * 1000, 9);
        }
        store.commit().unwrap();
        trim(&mut *store, 40_000, WIDE);
        assert_eq!(page(&*store, Ordinal(1), ALL, 9).len(), 6);
        let age_max = Duration::from_secs(10);
        trim(&mut *store, 40_000, HistoryLimits { age_max, ..WIDE });
        let left: Vec<Vec<u64>> = (0..7)
            .map(|device| page(&*store, Ordinal(device), ALL, 9))
            .collect();
        assert_eq!(left[1], [36]);
        assert_eq!(left.concat().len(), 10);
        assert_eq!(left.concat().iter().min(), Some(&31));
        // What is written from now on is found by retention, in a bucket that was empty, too.
        record(
            &mut *store,
            online(Ordinal(99), 50, 41_000).to_vec(),
            41_000,
            9,
        );
        trim(&mut *store, 60_000, HistoryLimits { age_max, ..WIDE });
        assert_eq!(store.stats().history_bytes, 0);
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        store.load().unwrap();
        assert_eq!(store.stats().history_bytes, 0);
        store.check_history();
    });
}

#[test]
fn beyond_its_bytes_the_oldest_goes_first() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        for sequence in 1..=40 {
            let device = Ordinal(u32::try_from(sequence % 7).unwrap());
            let events = online(device, sequence, sequence * 1000);
            record(&mut *store, events.to_vec(), sequence * 1000, 9);
        }
        store.commit().unwrap();
        let bytes_max = store.stats().history_bytes / 4;
        trim(&mut *store, 40_000, HistoryLimits { bytes_max, ..WIDE });
        let held = store.stats().history_bytes;
        assert!(held <= bytes_max && held > bytes_max / 2, "{held}");
        let left: Vec<Vec<u64>> = (0..7)
            .map(|device| page(&*store, Ordinal(device), ALL, 9))
            .collect();
        let mut left = left.concat();
        left.sort_unstable();
        assert_eq!(left.last(), Some(&40));
        assert!(left.is_sorted_by(|a, b| a + 1 == *b), "{left:?}");
    });
}

#[test]
fn a_device_that_is_gone_leaves_no_history_even_over_a_crash() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let gone = store.register(&registration(1)).unwrap().ordinal;
        let neighbour = Ordinal(gone.0 + 256);
        for sequence in 1..=20 {
            let mut events = online(gone, sequence * 2, sequence).to_vec();
            if sequence % 2 == 0 {
                events.extend(online(neighbour, sequence * 2 + 1, sequence));
            }
            record(&mut *store, events, sequence * 1000, 9);
        }
        store.commit().unwrap();
        store.unregister(gone).unwrap();
        assert!(store.trim_history(NOW, WIDE, 5).unwrap(), "not all at once");
        store.commit().unwrap();
        drop(store);

        let mut store = engine.open();
        store.load().unwrap();
        trim(&mut *store, 0, WIDE);
        assert_eq!(page(&*store, gone, ALL, 99), [] as [u64; 0]);
        assert_eq!(page(&*store, neighbour, ALL, 99).len(), 10);
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        store.load().unwrap();
        assert!(
            !store.trim_history(NOW, WIDE, 1).unwrap(),
            "nothing is left to erase"
        );
        let age_max = Duration::from_secs(1);
        trim(&mut *store, 60_000, HistoryLimits { age_max, ..WIDE });
        assert_eq!(store.stats().history_bytes, 0);
    });
}

fn broadcast_history(sequence: u64) -> BroadcastHistory {
    BroadcastHistory {
        id: id(sequence),
        project: PROJECT,
        topic: "news".into(),
        accepted_at: UnixMillis(NOW.0 + sequence * 1000),
        committed_at: UnixMillis(NOW.0 + sequence * 1000 + 4),
        targeted: 1000,
        acked: 0,
        dropped: [0; DropReason::ALL.len()],
        acks: None,
    }
}

#[test]
fn a_broadcast_is_told_in_counts_and_outlives_its_log_until_it_is_old() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        let topic = Address::Topic(TopicName::parse("news").unwrap());
        let logged = draft(9, None, 3600, Urgency::Normal).accept(id(9), PROJECT, topic, NOW);
        store.append(&logged, &(0..9).collect()).unwrap();
        store.register_all(&(0..9).collect());
        for sequence in 1..=9 {
            store
                .record_broadcast(&broadcast_history(sequence))
                .unwrap();
        }
        let mut changed = broadcast_history(2);
        changed.acked = 990;
        changed.dropped[DropReason::Expired.index()] = 4;
        changed.acks = Some((UnixMillis(NOW.0 + 2001), UnixMillis(NOW.0 + 8000)));
        store.record_broadcast(&changed).unwrap();
        store.check_history();
        store.commit().unwrap();
        drop(store);

        let mut store = engine.open();
        let loaded = store.load().unwrap();
        let live = &loaded.broadcasts[0];
        assert_eq!(live.history, Some(broadcast_history(9)));
        assert_eq!(store.history_of_broadcast(id(2)).unwrap(), Some(changed));
        let age_max = Duration::from_secs(4);
        trim(&mut *store, 10_000, HistoryLimits { age_max, ..WIDE });
        let is_kept = |sequence| store.history_of_broadcast(id(sequence)).unwrap().is_some();
        let kept: Vec<u64> = (1..=9).filter(|n| is_kept(*n)).collect();
        // One was acked lately, and one stands in its log.
        assert_eq!(kept, [2, 6, 7, 8, 9]);
        let nothing = HistoryLimits {
            bytes_max: 1,
            ..WIDE
        };
        trim(&mut *store, 20_000, nothing);
        assert!(store.history_of_broadcast(id(8)).unwrap().is_none());
        assert!(store.history_of_broadcast(id(9)).unwrap().is_some());
    });
}

#[test]
fn an_unreadable_leaf_hides_itself_alone_and_an_unreadable_size_is_counted_anew() {
    let map = MemoryMap::default();
    let mut store = map.open();
    store.load().unwrap();
    record(&mut *store, online(DEVICE, 1, 1).to_vec(), 1, 9);
    record(&mut *store, online(DEVICE, 2, 2).to_vec(), 2, 9);
    store.commit().unwrap();
    let bytes = store.stats().history_bytes;
    drop(store);
    let key = layout::history(0, UnixMillis(NOW.0 + 1), 0);
    let mut raw = map.clone();
    let value = raw.get(&key).unwrap().unwrap();
    raw.write(&[
        (key, Some(vec![0; value.len()])),
        (layout::meta("history_bytes"), Some(b"rubbish".to_vec())),
    ])
    .unwrap();
    let mut store = map.open();
    store.load().unwrap();
    assert_eq!(store.stats().history_bytes, bytes);
    assert_eq!(page(&*store, DEVICE, ALL, 9), [2]);
}

/// Random events in random slices, with commits, crashes and trims between: what is read is what was written.
#[derive(Clone, Debug)]
enum Act {
    Record(Vec<(u32, u64, usize)>),
    Commit,
    Reopen,
}

fn any_act() -> impl Strategy<Value = Act> {
    let event = (0_u32..4, 1_u64..6, 0_usize..4);
    prop_oneof![
        5 => proptest::collection::vec(event, 1..8).prop_map(Act::Record),
        2 => Just(Act::Commit),
        1 => Just(Act::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn sled_tells_what_memory_tells(acts in proptest::collection::vec(any_act(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let (memory, sled) = (MemoryMap::default(), directory.path());
        let (mut left, mut right) = (memory.open(), sled.open());
        left.load().unwrap();
        right.load().unwrap();
        for (at, act) in (0..).zip(&acts) {
            match act {
                Act::Record(events) => {
                    let happening = |n: usize| Happening::ALL[n];
                    let events: Vec<Event> = events
                        .iter()
                        .map(|&(d, s, h)| event(Ordinal(d * 128), s, happening(h), at))
                        .collect();
                    record(&mut *left, events.clone(), at, 2);
                    record(&mut *right, events, at, 2);
                }
                Act::Commit => {
                    left.commit().unwrap();
                    right.commit().unwrap();
                }
                Act::Reopen => {
                    drop((left, right));
                    (left, right) = (memory.open(), sled.open());
                    left.load().unwrap();
                    right.load().unwrap();
                }
            }
            for device in [0, 128, 256, 384].map(Ordinal) {
                for limit in [1, 3, 99] {
                    let page = left.history_of_device(device, id(5), limit).unwrap();
                    prop_assert_eq!(&page, &right.history_of_device(device, id(5), limit).unwrap());
                    prop_assert!(page.len() <= limit && page.iter().all(|t| t.id < id(5)));
                }
            }
            left.check_history();
            right.check_history();
        }
    }
}
