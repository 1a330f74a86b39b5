//! Reading every pair: is each what its kind says?

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::kinds::{KINDS, Kind, Remedy};
use super::life;
use super::together::{Queues, Sets};
use super::walk::{self, SLICE, Seen};
use super::{MaintenanceError, Progress};
use crate::store::{Change, Durability, OrderedMap, StoreError, layout};

/// Most bad values that a report lists; all are counted.
pub const LISTED_MAX: usize = 100;

/// Most bytes of a key that are shown: keys are short, except where something is wrong.
const KEY_SHOWN_BYTES: usize = 128;

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct CheckReport {
    /// What was read.
    pub seen: Seen,
    /// By kind, all kinds in order of their keys.
    pub kinds: Vec<KindCount>,
    /// The first bad values.
    pub listed: Vec<BadValue>,
    /// All of them.
    pub bad: u64,
    /// What does not fit together beside single values; the first ones.
    pub problems: Vec<String>,
    /// All of those.
    pub mismatches: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.bad == 0 && self.mismatches == 0
    }

    /// Adds something that does not fit together.
    pub fn problem(&mut self, problem: String) {
        self.mismatches += 1;
        if self.problems.len() < LISTED_MAX {
            self.problems.push(problem);
        }
    }
}

/// How many there are of a kind.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct KindCount {
    /// Which.
    pub kind: &'static str,
    /// Pairs.
    pub pairs: u64,
    /// Unreadable ones among them.
    pub bad: u64,
}

/// A value that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct BadValue {
    /// Its key, in hexadecimal; the beginning of a very long one.
    pub key: String,
    /// What it should be.
    pub kind: &'static str,
    /// Ordinal of the device that it is about.
    pub device: Option<u32>,
    /// The message that it is about.
    pub message: Option<String>,
    /// What is wrong with it.
    pub problem: &'static str,
    /// What can be done.
    pub remedy: Remedy,
}

/// What a repair did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Repair {
    /// Written to the file and taken out.
    pub removed: u64,
    /// Left to the broker, which tells the device.
    pub left_to_broker: u64,
    /// Nothing can be done about these.
    pub irreparable: u64,
}

const UNKNOWN: &str = "unknown";

fn bad_value(key: &[u8], value: &[u8]) -> Option<BadValue> {
    let shown = &key[..key.len().min(KEY_SHOWN_BYTES)];
    let Some(kind) = Kind::of(key) else {
        return Some(BadValue {
            key: hex(shown),
            kind: UNKNOWN,
            device: None,
            message: None,
            problem: "no kind of this Petrel begins like this",
            remedy: Remedy::None,
        });
    };
    let problem = kind.problem(key, value)?;
    let message = kind.message(key);
    let remedy = match kind.remedy {
        // The broker finds it under a whole key only.
        Remedy::Broker if kind.has_message && message.is_none() => Remedy::Remove,
        remedy => remedy,
    };
    Some(BadValue {
        key: hex(shown),
        kind: kind.name,
        device: kind.device(key),
        message: message.map(|id| id.to_string()),
        problem,
        remedy,
    })
}

/// Reads every pair.
///
/// # Errors
/// The engine fails, or the store is of a newer Petrel.
pub fn check(map: &dyn OrderedMap, progress: Progress<'_>) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport::default();
    // Unreadable numbers are bad values below; only a readable version can be a newer one.
    let schema = life::known_schema(map)?;
    let mut sets = Sets::default();
    let mut queues = Queues::new(map, schema)?;
    let mut counts: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
    let mut unknown = (0, 0);
    let mut last_device = None;
    for pair in map.range(walk::FIRST, walk::END) {
        let (key, value) = pair?;
        report.seen.add(&key, &value);
        if report.seen.is_due() {
            progress(report.seen);
        }
        let kind = Kind::of(&key);
        let count = kind.map_or(&mut unknown, |k| counts.entry(k.byte).or_default());
        count.0 += 1;
        if let Some(bad) = bad_value(&key, &value) {
            count.1 += 1;
            report.bad += 1;
            if report.listed.len() < LISTED_MAX {
                report.listed.push(bad);
            }
        }
        match key.first().copied().unwrap_or_default() {
            layout::REGISTRATION => last_device = last_device.max(layout::number_at(&key, 1)),
            layout::TARGETED | layout::SETTLED => sets.take(&key, &value, &mut report),
            layout::QUEUE => queues.entry(&key, &value, &mut report),
            _ => {}
        }
    }
    sets.end(&mut report);
    queues.end(&mut report);
    report.kinds = KINDS
        .iter()
        .map(|kind| {
            let (pairs, bad) = counts.get(&kind.byte).copied().unwrap_or_default();
            KindCount {
                kind: kind.name,
                pairs,
                bad,
            }
        })
        .collect();
    if unknown.0 > 0 {
        report.kinds.push(KindCount {
            kind: UNKNOWN,
            pairs: unknown.0,
            bad: unknown.1,
        });
    }
    check_numbers(map, schema, last_device, &mut report);
    Ok(report)
}

/// The numbers that everything else follows from.
fn check_numbers(
    map: &dyn OrderedMap,
    schema: u32,
    last_device: Option<u32>,
    report: &mut CheckReport,
) {
    let number = |name| life::meta(map, name).unwrap_or(None);
    if report.seen.pairs > 0 && schema == 0 {
        let problem = "the schema version is missing: a start would take the store for a new one";
        report.problem(problem.into());
    }
    if schema > 0 && number("epoch").is_none_or(|epoch| epoch == 0) {
        report.problem("the epoch is missing: ids of messages would repeat".into());
    }
    if let Some(last) = last_device
        && number("next_ordinal").is_none_or(|next| next <= u64::from(last))
    {
        report.problem(format!(
            "the next ordinal is not above the last device, {last}: it would be given out twice"
        ));
    }
}

/// Takes unreadable values out, each written to `aside` as a line of JSON before. `sync` makes `aside` durable.
///
/// # Errors
/// The engine or the file fails. What is in the file may still be in the store then, never the other way round.
pub fn repair(
    map: &mut dyn OrderedMap,
    aside: &mut dyn Write,
    sync: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
    progress: Progress<'_>,
) -> Result<Repair, MaintenanceError> {
    let mut done = Repair::default();
    let mut seen = Seen::default();
    let mut next = Some(walk::FIRST.to_vec());
    while let Some(start) = next {
        let slice = walk::slice(map, &start, SLICE)?;
        let mut removals: Vec<Change> = Vec::new();
        for (key, value) in slice.pairs {
            seen.add(&key, &value);
            let Some(bad) = bad_value(&key, &value) else {
                continue;
            };
            match bad.remedy {
                Remedy::Broker => done.left_to_broker += 1,
                Remedy::None => done.irreparable += 1,
                Remedy::Remove => {
                    let line = serde_json::json!({
                        "kind": bad.kind, "device": bad.device, "message": bad.message, "problem": bad.problem,
                        "key": STANDARD.encode(&key), "value": STANDARD.encode(&value),
                    });
                    writeln!(aside, "{line}").map_err(MaintenanceError::Unwritable)?;
                    removals.push((key, None));
                }
            }
        }
        if !removals.is_empty() {
            sync(aside).map_err(MaintenanceError::Unwritable)?;
            map.write(&removals)?;
            done.removed += removals.len() as u64;
        }
        progress(seen);
        next = slice.next;
    }
    map.sync(Durability::Durable)?;
    Ok(done)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
