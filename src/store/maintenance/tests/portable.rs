//! Export and import.

use std::io::Cursor;

use super::*;
use crate::store::layout;

const OURS: &str = "0123";

fn exported(map: &dyn OrderedMap) -> Vec<u8> {
    let mut out = Vec::new();
    export(map, vec![OURS.into()], 5, &mut out, &mut silent()).unwrap();
    out
}

fn import_as(
    data_dir: &Path,
    bytes: &[u8],
    ours: &[&str],
    foreign: bool,
    retired: &mut u32,
) -> Result<Imported, MaintenanceError> {
    let ours: Vec<String> = ours.iter().map(|k| (*k).to_owned()).collect();
    let mut terms = ImportTerms {
        sealing_keys: &ours,
        keys: data_dir.join("keys"),
        foreign,
        epoch: 3,
        retire_keys: &mut || {
            *retired += 1;
            Ok(())
        },
    };
    let mut from = Cursor::new(bytes);
    import(data_dir, &mut from, &mut terms, &sled, &mut silent())
}

fn import_into(data_dir: &Path, bytes: &[u8]) -> Result<Imported, MaintenanceError> {
    import_as(data_dir, bytes, &[OURS], false, &mut 0)
}

fn an_export() -> Vec<u8> {
    let map = MemoryMap::default();
    fill(map.clone());
    exported(&map)
}

/// The lines, each with its end.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').collect()
}

/// Puts the right sum and count at the end.
fn resealed(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = lines.concat();
    let sum = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let trailer = serde_json::json!({
        "end": true, "pairs": lines.len() - 1, "skipped": 0, "sha256": super::check::hex(sum.as_ref()),
    });
    bytes.extend_from_slice(format!("{trailer}\n").as_bytes());
    bytes
}

#[test]
fn everything_comes_back_with_a_new_epoch() {
    let map = MemoryMap::default();
    fill(map.clone());
    let directory = tempfile::tempdir().unwrap();
    let imported = import_into(directory.path(), &exported(&map)).unwrap();
    assert_eq!(imported.seen.pairs, map.pairs().len() as u64);
    // The clock stands at 3: the epoch is above all the same.
    assert_eq!(imported.epoch, EPOCH + 1);
    let stored = sled(&directory.path().join("db")).unwrap();
    assert_eq!(pairs_beside_life(&*stored), pairs_beside_life(&map));
    assert!(check(&*stored, &mut silent()).unwrap().is_fine());
    drop(stored);
    let expect = vec![vec![], vec![id(10)], vec![id(21), id(22), id(20 | GAP_BIT)]];
    assert_eq!(queued(directory.path()), expect);
}

#[test]
fn a_store_that_is_not_empty_is_not_touched() {
    let directory = filled();
    let before = contents(directory.path());
    let error = import_into(directory.path(), &an_export()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("3 registrations") && text.contains("move its db"),
        "{text}"
    );
    assert_eq!(contents(directory.path()), before);
}

/// One that was started once, and had devices that are gone.
#[test]
fn numbers_given_out_before_are_not_given_out_again() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut map = sled(&directory.path().join("db")).unwrap();
        map.write(&[
            super::life::put_meta("schema", u64::from(layout::SCHEMA)),
            super::life::put_meta("epoch", 900),
            super::life::put_meta("next_ordinal", 1_000_000),
            super::life::put_meta("next_topic", 70),
        ])
        .unwrap();
    }
    let imported = import_into(directory.path(), &an_export()).unwrap();
    assert_eq!(imported.epoch, 901);
    let map = sled(&directory.path().join("db")).unwrap();
    let number = |name| super::life::meta(&*map, name).unwrap().unwrap();
    assert!(number("next_ordinal") > 1_000_000);
    assert_eq!(number("next_topic"), 70);
    assert_eq!(number("last_time"), NOW.0);
}

#[test]
fn of_another_broker_only_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let mut retired = 0;
    let bytes = an_export();
    let error = import_as(directory.path(), &bytes, &["4567"], false, &mut retired).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("--foreign") && text.contains("keys"),
        "{text}"
    );
    assert!(!directory.path().join("db").exists());
    // Not for one that turns out to be cut off.
    let cut = &bytes[..bytes.len() - 9];
    assert!(import_as(directory.path(), cut, &["4567"], true, &mut retired).is_err());
    assert_eq!(retired, 0);
    let imported = import_as(directory.path(), &bytes, &["4567"], true, &mut retired).unwrap();
    assert!(imported.is_foreign);
    assert_eq!(retired, 1);
    // More keys than the export knew of are no other broker's.
    let other = tempfile::tempdir().unwrap();
    let imported = import_as(other.path(), &bytes, &["4567", OURS], true, &mut retired).unwrap();
    assert!(!imported.is_foreign && retired == 1);
}

fn check_refused(bytes: &[u8], expect: &str) {
    let directory = tempfile::tempdir().unwrap();
    let error = import_into(directory.path(), bytes)
        .unwrap_err()
        .to_string();
    assert!(error.contains(expect), "{expect}: {error}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_no_export_is_refused() {
    check_refused(b"", "it is empty");
    check_refused(b"hello\n", "not the first line");
    check_refused(b"{}\n", "not the first line");
    check_refused(&[0; 4096], "cut off");
    let header = lines(&an_export())[0].to_vec();
    check_refused(
        &resealed(&[header.clone(), b"{\"kind\":1}\n".to_vec()]),
        "not a line",
    );
    let unknown = br#"{"kind":"sorcery","key":"","value":""}"#;
    check_refused(
        &resealed(&[header, [unknown, &b"\n"[..]].concat()]),
        "does not know",
    );
}

#[test]
fn what_a_newer_petrel_wrote_is_refused() {
    let text = String::from_utf8(an_export()).unwrap();
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    check_refused(newer.as_bytes(), "format version 2");
    let now = format!("\"schema\":{}", layout::SCHEMA);
    let newer = text.replacen(&now, "\"schema\":99", 1);
    check_refused(newer.as_bytes(), "schema version 99");
}

#[test]
fn a_truncated_export_is_refused_wherever_it_ends() {
    let bytes = an_export();
    let mut ends: Vec<usize> = (0..bytes.len()).step_by(bytes.len() / 40 + 1).collect();
    let mut at = 0;
    for line in lines(&bytes) {
        at += line.len();
        ends.extend([at - 1, at]);
    }
    ends.retain(|end| *end < bytes.len());
    for end in ends {
        let expect = if end == 0 { "empty" } else { "cut off" };
        check_refused(&bytes[..end], expect);
    }
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    let bytes = an_export();
    let some = (0..bytes.len()).step_by(bytes.len() / 60 + 1);
    for (n, at) in some.enumerate() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (n % 8);
        check_refused(&flipped, "");
    }
}

#[test]
fn lines_may_not_be_repeated_moved_or_followed() {
    let bytes = an_export();
    let mut own: Vec<Vec<u8>> = lines(&bytes).into_iter().map(<[u8]>::to_vec).collect();
    own.pop();
    // The test's own last line is a right one.
    let directory = tempfile::tempdir().unwrap();
    import_into(directory.path(), &resealed(&own)).unwrap();
    let mut doubled = own.clone();
    doubled.insert(2, own[1].clone());
    check_refused(&resealed(&doubled), "not above");
    let mut moved = own.clone();
    moved.swap(1, 2);
    check_refused(&resealed(&moved), "not above");
    let mut followed = bytes.clone();
    followed.extend_from_slice(b"{}\n");
    check_refused(&followed, "follows");
}

#[test]
fn unreadable_values_are_left_out_and_counted() {
    let mut map = MemoryMap::default();
    fill(map.clone());
    map.write(&[(layout::queue(Ordinal(1), id(11)), Some(vec![1, 2, 3, 4, 5]))])
        .unwrap();
    let mut out = Vec::new();
    let exported = export(&map, vec![OURS.into()], 5, &mut out, &mut silent()).unwrap();
    assert_eq!(exported.skipped, 1);
    assert_eq!(exported.bytes, out.len() as u64);
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(import_into(directory.path(), &out).unwrap().skipped, 1);
}
