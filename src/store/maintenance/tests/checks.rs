//! What a check finds, and what a repair does about it.

use super::kinds::{KINDS, Kind};
use super::*;
use crate::store::layout;

fn flip(map: &mut MemoryMap, key: &[u8]) {
    let mut value = map.get(key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    map.write(&[(key.to_vec(), Some(value))]).unwrap();
}

fn checked(map: &MemoryMap) -> CheckReport {
    check(map, &mut silent()).unwrap()
}

fn repaired(map: &mut MemoryMap) -> (Repair, String) {
    let mut aside = Vec::new();
    let repair = repair(map, &mut aside, &mut |_| Ok(()), &mut silent()).unwrap();
    (repair, String::from_utf8(aside).unwrap())
}

#[test]
fn a_good_store_has_all_kinds_and_nothing_wrong() {
    let map = MemoryMap::default();
    fill(map.clone());
    let report = checked(&map);
    assert!(report.is_fine(), "{report:?}");
    for count in &report.kinds {
        assert!(count.pairs > 0, "no {} in the test's store", count.kind);
    }
    let targeted = report.kinds.iter().find(|k| k.kind == "targeted").unwrap();
    assert!(targeted.pairs > 1, "the set has one piece only");
    assert_eq!(report.seen.pairs, map.pairs().len() as u64);
}

#[test]
fn kinds_are_told_apart() {
    for (n, kind) in KINDS.iter().enumerate() {
        for other in &KINDS[..n] {
            assert!(kind.byte != other.byte && kind.name != other.name);
        }
        assert_eq!(Kind::named(kind.name).unwrap().byte, kind.byte);
    }
}

/// One value of each kind after the other.
#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    for kind in KINDS {
        let mut map = MemoryMap::default();
        fill(map.clone());
        let key = map.pairs().into_iter().find(|(k, _)| k[0] == kind.byte);
        let key = key.unwrap().0;
        flip(&mut map, &key);
        let report = checked(&map);
        assert_eq!(report.bad, 1, "{}: {report:?}", kind.name);
        let bad = &report.listed[0];
        assert_eq!((bad.kind, &bad.key), (kind.name, &super::check::hex(&key)));
        if kind.name == "queue" {
            assert_eq!(bad.device, Some(1));
            assert_eq!(bad.message.as_deref(), Some("7-10"));
        }
    }
}

#[test]
fn a_repair_takes_out_what_it_wrote_aside() {
    let mut map = MemoryMap::default();
    fill(map.clone());
    let secret = map
        .pairs()
        .into_iter()
        .find(|(k, _)| k[0] == layout::SECRET);
    let (secret, _) = secret.unwrap();
    flip(&mut map, &secret);
    flip(&mut map, &layout::queue(Ordinal(1), id(10)));
    flip(&mut map, &layout::meta("last_time"));
    let value = map.get(&secret).unwrap().unwrap();
    let (repair, aside) = repaired(&mut map);
    let expect = Repair {
        removed: 1,
        left_to_broker: 1,
        irreparable: 1,
    };
    assert_eq!(repair, expect);
    assert_eq!(map.get(&secret).unwrap(), None);
    let line: serde_json::Value = serde_json::from_str(&aside).unwrap();
    use base64::Engine as _;
    let decode = |name: &str| {
        let text = line[name].as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    };
    assert_eq!((decode("key"), decode("value")), (secret, value));
}

/// What a repair leaves to the broker, the broker does: the device hears of a gap.
#[test]
fn what_is_left_to_the_broker_becomes_a_gap() {
    let mut map = MemoryMap::default();
    fill(map.clone());
    flip(&mut map, &layout::queue(Ordinal(1), id(10)));
    flip(&mut map, &layout::journal(1));
    let mut store = Embedded::new(map.clone(), EPOCH);
    store.load().unwrap();
    let terms = ScanTerms {
        platform: Platform::Android,
        minimum_urgency: Urgency::VeryLow,
        limit: 9,
        now: NOW,
    };
    store.scan(Ordinal(1), terms).unwrap();
    let found = store.scan(Ordinal(1), terms).unwrap().found;
    assert!(found.iter().any(|q| q.id().sequence & GAP_BIT != 0));
    store.commit().unwrap();
    let report = checked(&map);
    assert!(report.is_fine(), "{report:?}");
}

#[test]
fn what_does_not_fit_together_is_found() {
    let check_without_all = |keys: &[Vec<u8>], expect: &str| {
        let mut map = MemoryMap::default();
        fill(map.clone());
        let changes: Vec<_> = keys.iter().map(|key| (key.clone(), None)).collect();
        map.write(&changes).unwrap();
        let report = checked(&map);
        assert_eq!(report.bad, 0);
        let problems = report.problems.join("\n");
        assert!(problems.contains(expect), "{expect}: {problems}");
    };
    let check_without = |key: Vec<u8>, expect: &str| check_without_all(&[key], expect);
    let summaries = [layout::summaries(0), layout::journal(0)];
    check_without_all(&summaries, "device 1 has no summary");
    check_without(
        layout::queue(Ordinal(2), id(22)),
        "the summary of device 2 says",
    );
    check_without(
        layout::queue(Ordinal(1), id(10)),
        "1 summaries speak of queues",
    );
    check_without(
        layout::piece(layout::TARGETED, id(50), 0),
        "target set of broadcast 7-50",
    );
    check_without(layout::meta("schema"), "schema version is missing");
    check_without(layout::meta("epoch"), "epoch is missing");
    check_without(layout::meta("next_ordinal"), "next ordinal");
}

#[test]
fn at_most_a_hundred_are_listed_and_all_are_counted() {
    let mut map = MemoryMap::default();
    fill(map.clone());
    for n in 0..150_u8 {
        map.write(&[(vec![b'x', n], Some(vec![n]))]).unwrap();
    }
    let report = checked(&map);
    assert_eq!((report.bad, report.listed.len()), (150, LISTED_MAX));
    let (repair, aside) = repaired(&mut map);
    assert_eq!((repair.irreparable, aside.as_str()), (150, ""));
}

#[test]
fn a_newer_store_is_not_judged() {
    let mut map = MemoryMap::default();
    fill(map.clone());
    let newer = super::life::put_meta("schema", u64::from(layout::SCHEMA) + 1);
    map.write(&[newer]).unwrap();
    let error = check(&map, &mut silent()).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
    assert!(usage(&map, &mut silent()).is_err());
    assert!(export(&map, Vec::new(), 0, &mut Vec::new(), &mut silent()).is_err());
}

#[test]
fn sizes_are_by_kind_and_by_project() {
    let map = MemoryMap::default();
    fill(map.clone());
    let usage = usage(&map, &mut silent()).unwrap();
    let [project] = usage.projects.as_slice() else {
        panic!("{usage:?}");
    };
    assert_eq!(project.project, "shop");
    assert_eq!((project.registrations, project.queued_messages), (3, 3));
    assert!(project.queued_bytes > 0);
    assert_eq!(usage.oldest_queued_at_ms, Some(NOW.0));
    let sum: u64 = usage
        .kinds
        .iter()
        .map(|k| k.key_bytes + k.value_bytes)
        .sum();
    assert_eq!((sum, usage.unreadable), (usage.live.bytes, 0));
}
