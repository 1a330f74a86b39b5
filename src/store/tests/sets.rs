//! Broadcasts and their sets.

use super::*;

fn broadcast(sequence: u64) -> Message {
    let topic = Address::Topic(TopicName::parse("t").unwrap());
    draft(sequence, None, 3600, Urgency::Normal).accept(id(sequence), PROJECT, topic, NOW)
}

/// Every third device: nothing that could be written shorter.
fn scattered(count: u32) -> RoaringBitmap {
    (0..count).map(|n| n * 3).collect()
}

#[test]
fn large_sets_come_back_and_shorter_ones_leave_nothing_of_the_longer() {
    on_every_engine(|engine| {
        let (targeted, settled) = (scattered(100_000), scattered(60_000));
        let mut store = engine.open();
        store.load().unwrap();
        store.register_all(&targeted);
        store.append(&broadcast(1), &targeted).unwrap();
        store.append(&broadcast(2), &scattered(5)).unwrap();
        store.save_settled(id(1), &settled).unwrap();
        store.commit().unwrap();
        drop(store);
        let mut store = engine.open();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.broadcasts[0].targeted, targeted);
        assert_eq!(loaded.broadcasts[0].settled, settled);
        assert_eq!(loaded.broadcasts[1].targeted, scattered(5));

        store.save_settled(id(1), &scattered(7)).unwrap();
        store.remove_broadcast(id(2)).unwrap();
        store.commit().unwrap();
        drop(store);
        let loaded = engine.open().load().unwrap();
        assert_eq!(loaded.broadcasts.len(), 1);
        assert_eq!(loaded.broadcasts[0].settled, scattered(7));
        assert_eq!(loaded.unreadable, 0);
    });
}

#[test]
fn a_trimmed_broadcast_keeps_who_was_owed_it_but_not_what_it_said() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        store.register_all(&scattered(5));
        let bytes = store.append(&broadcast(1), &scattered(5)).unwrap();
        store.trim(id(1)).unwrap();
        store.commit().unwrap();
        drop(store);
        let loaded = engine.open().load().unwrap();
        let trimmed = &loaded.broadcasts[0];
        assert!(trimmed.is_trimmed && trimmed.bytes < bytes);
        assert_eq!(trimmed.message.content, Content::default());
        assert_eq!(trimmed.message.address, broadcast(1).address);
        assert_eq!(trimmed.targeted, scattered(5));
    });
}

/// PROTO-31: whoever is owed what cannot be read is told, once.
#[test]
fn an_unreadable_broadcast_becomes_a_gap_for_those_who_were_still_owed_it() {
    let map = MemoryMap::default();
    let mut store = map.open();
    store.load().unwrap();
    for secret in 1..=3 {
        store.register(&registration(secret)).unwrap();
    }
    // The fourth is not registered any more.
    store.append(&broadcast(1), &(0..4).collect()).unwrap();
    store.save_settled(id(1), &(1..2).collect()).unwrap();
    store.append(&broadcast(2), &(0..4).collect()).unwrap();
    store.commit().unwrap();
    drop(store);
    let mut raw = map.clone();
    let rubbish = Some(b"rubbish".to_vec());
    raw.write(&[(layout::broadcast(id(1)), rubbish)]).unwrap();

    for expected_unreadable in [1, 0] {
        let mut store = map.open();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.unreadable, expected_unreadable);
        assert_eq!(loaded.broadcasts.len(), 1);
        let told: Vec<u32> = loaded.queued.iter().collect();
        assert_eq!(told, [0, 2]);
        let scan = store.scan(DEVICE, terms(9)).unwrap();
        assert!(matches!(&scan.found[..], [Queued::Gap(_, gap)] if gap.counts["unreadable"] == 1));
        store.commit().unwrap();
    }
}

#[test]
fn a_set_with_a_piece_missing_is_lost_whole_and_its_broadcast_left_out() {
    let map = MemoryMap::default();
    let mut store = map.open();
    store.load().unwrap();
    store.append(&broadcast(1), &scattered(100_000)).unwrap();
    store.append(&broadcast(2), &scattered(5)).unwrap();
    store.commit().unwrap();
    drop(store);
    let mut raw = map.clone();
    raw.write(&[(layout::piece(layout::TARGETED, id(1), 1), None)])
        .unwrap();
    let loaded = map.open().load().unwrap();
    assert!(loaded.unreadable > 0);
    let left: Vec<_> = loaded.broadcasts.iter().map(|b| b.message.id).collect();
    assert_eq!(left, [id(2)]);
}

#[test]
fn whose_registration_has_ended_is_in_no_set_after_the_next_load() {
    on_every_engine(|engine| {
        let mut store = engine.open();
        store.load().unwrap();
        store.register_all(&(0..3).collect());
        store.append(&broadcast(1), &(0..3).collect()).unwrap();
        store.save_settled(id(1), &(1..3).collect()).unwrap();
        store.unregister(Ordinal(1)).unwrap();
        store.commit().unwrap();
        drop(store);
        for _ in 0..2 {
            let mut store = engine.open();
            let loaded = store.load().unwrap();
            let sets = [
                &loaded.broadcasts[0].targeted,
                &loaded.broadcasts[0].settled,
            ];
            let sets = sets.map(|set| set.iter().collect::<Vec<_>>());
            assert_eq!(sets, [vec![0, 2], vec![2]]);
            store.commit().unwrap();
        }
    });
}
