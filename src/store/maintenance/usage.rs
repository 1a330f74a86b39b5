//! What takes how much room: by kind, and by project.

use std::collections::BTreeMap;

use petrel_core::decode_message;
use roaring::RoaringBitmap;

use super::super::records::{self, QueueValue, RegistrationRecord};
use super::Progress;
use super::kinds::{self, KINDS, Kind};
use super::walk::{self, Seen};
use crate::store::{OrderedMap, StoreError, layout};

/// Sizes of a store, by reading all of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Usage {
    /// All pairs: live bytes.
    pub live: Seen,
    /// By kind, in order of their keys.
    pub kinds: Vec<KindUsage>,
    /// By project, in order of their names.
    pub projects: Vec<ProjectUsage>,
    /// Values that cannot be read.
    pub unreadable: u64,
    /// When the message was accepted that waits longest in a queue, in milliseconds since 1970.
    pub oldest_queued_at_ms: Option<u64>,
}

/// Sizes of a kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct KindUsage {
    /// Which.
    pub kind: &'static str,
    /// Pairs.
    pub keys: u64,
    /// Bytes of keys.
    pub key_bytes: u64,
    /// Bytes of values.
    pub value_bytes: u64,
}

/// Sizes of a project.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ProjectUsage {
    /// Its name; `#` and its number where that is unknown.
    pub project: String,
    /// Devices registered.
    pub registrations: u64,
    /// Messages in their queues.
    pub queued_messages: u64,
    /// Bytes of their keys and values.
    pub queued_bytes: u64,
}

#[derive(Default)]
struct Project {
    name: Option<String>,
    devices: RoaringBitmap,
    messages: u64,
    bytes: u64,
}

/// Reads a store to its end. Memory grows with projects, and by a bit or so for each device.
///
/// # Errors
/// The engine fails, or the store is of a newer Petrel.
pub fn usage(map: &dyn OrderedMap, progress: Progress<'_>) -> Result<Usage, StoreError> {
    super::life::known_schema(map)?;
    let mut projects = projects(map)?;
    let mut kinds: Vec<KindUsage> = KINDS
        .iter()
        .map(|kind| KindUsage {
            kind: kind.name,
            ..KindUsage::default()
        })
        .collect();
    let mut usage = Usage::default();
    // Keys of one device follow each other.
    let mut last: Option<(u32, Option<u32>)> = None;
    for pair in map.range(walk::FIRST, walk::END) {
        let (key, value) = pair?;
        usage.live.add(&key, &value);
        if usage.live.is_due() {
            progress(usage.live);
        }
        let Some(kind) = Kind::of(&key) else {
            usage.unreadable += 1;
            continue;
        };
        if let Some(of_kind) = kinds.iter_mut().find(|k| k.kind == kind.name) {
            of_kind.keys += 1;
            of_kind.key_bytes += key.len() as u64;
            of_kind.value_bytes += value.len() as u64;
        }
        if kind.problem(&key, &value).is_some() {
            usage.unreadable += 1;
            continue;
        }
        let (Some(device), Some(id)) = (kind.device(&key), kind.message(&key)) else {
            continue;
        };
        let Some(QueueValue::Message(_, body)) = records::read_queued(id, &value) else {
            continue;
        };
        let project = match last {
            Some((of, project)) if of == device => project,
            _ => projects
                .iter()
                .find(|(_, p)| p.devices.contains(device))
                .map(|(number, _)| *number),
        };
        last = Some((device, project));
        if let Some(project) = project.and_then(|number| projects.get_mut(&number)) {
            project.messages += 1;
            project.bytes += (key.len() + value.len()) as u64;
        }
        if let Ok(message) = decode_message(body) {
            let at = message.accepted_at.0;
            usage.oldest_queued_at_ms = Some(usage.oldest_queued_at_ms.map_or(at, |o| o.min(at)));
        }
    }
    usage.kinds = kinds;
    usage.projects = projects
        .into_iter()
        .map(|(number, project)| ProjectUsage {
            project: project.name.unwrap_or_else(|| format!("#{number}")),
            registrations: project.devices.len(),
            queued_messages: project.messages,
            queued_bytes: project.bytes,
        })
        .collect();
    usage.projects.sort_by(|a, b| a.project.cmp(&b.project));
    Ok(usage)
}

/// Names and devices of all projects, by number.
fn projects(map: &dyn OrderedMap) -> Result<BTreeMap<u32, Project>, StoreError> {
    let mut projects: BTreeMap<u32, Project> = BTreeMap::new();
    let (from, to) = layout::kind_range(layout::PROJECT);
    for pair in map.range(&from, &to) {
        let (key, value) = pair?;
        let number = kinds::number(&value).and_then(|n| u32::try_from(n).ok());
        if let (Some(number), Some(name)) = (number, layout::name_at(&key, 1)) {
            projects.entry(number).or_default().name = Some(name.to_owned());
        }
    }
    let (from, to) = layout::kind_range(layout::REGISTRATION);
    for pair in map.range(&from, &to) {
        let (key, value) = pair?;
        if let (Some(device), Some(record)) =
            (layout::number_at(&key, 1), RegistrationRecord::read(&value))
        {
            projects
                .entry(record.project)
                .or_default()
                .devices
                .insert(device);
        }
    }
    Ok(projects)
}
