//! The values of the embedded store, as protobuf so that fields can be added.

use std::collections::BTreeMap;

use petrel_core::queue::{Entry, Span, Summary};
use petrel_core::{Day, DropReason, Message, UnixMillis, encode_message};
use petrel_protocol::session::Attributes;
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform, ProjectId, Urgency};
use prost::Message as _;

use super::embedded::waiting::Waiting;
use super::{BroadcastHistory, GapRecord, NewRegistration, Registration, layout};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RegistrationRecord {
    #[prost(uint32, tag = "1")]
    pub(super) project: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) secret_hash: Vec<u8>,
    #[prost(uint32, tag = "3")]
    platform: u32,
    #[prost(string, tag = "4")]
    locale: String,
    #[prost(string, tag = "5")]
    time_zone: String,
    #[prost(string, tag = "6")]
    app_version: String,
    #[prost(string, tag = "7")]
    user: String,
    #[prost(btree_map = "string, string", tag = "8")]
    attributes: BTreeMap<String, String>,
    #[prost(uint64, tag = "9")]
    registered_at_ms: u64,
    /// A [`Day`].
    #[prost(uint32, tag = "10")]
    pub(super) seen: u32,
}

impl RegistrationRecord {
    pub(super) fn new(new: &NewRegistration) -> Self {
        let mut record = Self {
            project: new.project.0,
            secret_hash: new.secret_hash.to_vec(),
            platform: new.platform as u32,
            registered_at_ms: new.at.0,
            seen: Day::of(new.at).0.into(),
            ..Self::default()
        };
        record.set_attributes(&new.attributes);
        record
    }

    pub(super) fn set_attributes(&mut self, attributes: &Attributes) {
        self.locale.clone_from(&attributes.locale);
        self.time_zone.clone_from(&attributes.time_zone);
        self.app_version.clone_from(&attributes.app_version);
        self.user.clone_from(&attributes.user);
        self.attributes.clone_from(&attributes.free);
    }

    /// Those of version 1 do not say: then nobody was seen before the registration.
    fn seen(&self) -> Day {
        let registered = Day::of(UnixMillis(self.registered_at_ms));
        Day(u16::try_from(self.seen).unwrap_or(u16::MAX)).max(registered)
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        Self::decode(layout::open(value)?).ok()
    }

    pub(super) fn write(&self) -> Vec<u8> {
        layout::seal(&self.encode_to_vec())
    }

    pub(super) fn registration(&self, ordinal: Ordinal) -> Option<Registration> {
        Some(Registration {
            ordinal,
            project: ProjectId(self.project),
            secret_hash: self.secret_hash.as_slice().try_into().ok()?,
            platform: Platform::from_wire(i32::try_from(self.platform).ok()?),
            seen: self.seen(),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct QueueHead {
    #[prost(uint32, tag = "1")]
    urgency: u32,
    #[prost(uint64, tag = "2")]
    deadline_ms: u64,
    #[prost(string, tag = "3")]
    collapse_key: String,
    /// Present in a gap only.
    #[prost(btree_map = "string, uint64", tag = "4")]
    gap: BTreeMap<String, u64>,
    /// Of a gap in a topic.
    #[prost(string, tag = "5")]
    topic: String,
}

/// What stands in a device's queue under one key.
pub(super) enum QueueValue<'a> {
    /// A message: what the rules need, and its record.
    Message(Entry, &'a [u8]),
    /// A gap.
    Gap(GapRecord),
}

/// How many bytes a value takes in a queue.
pub(super) fn length(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}

/// A queued message as it wants to be delivered to the device's platform: the entry for the rules and the value.
pub(super) fn queued_message(message: &Message, platform: Platform) -> (Entry, Vec<u8>) {
    let options = message.options(platform);
    let head = QueueHead {
        urgency: options.urgency as u32,
        deadline_ms: options.deadline.0,
        collapse_key: options
            .collapse_key
            .as_ref()
            .map_or_else(String::new, |k| k.as_str().into()),
        gap: BTreeMap::new(),
        topic: String::new(),
    };
    let mut payload = head.encode_length_delimited_to_vec();
    payload.extend_from_slice(&encode_message(message));
    let value = layout::seal(&payload);
    let entry = Entry {
        id: message.id,
        bytes: length(&value),
        urgency: options.urgency,
        deadline: options.deadline,
        collapse_key: options.collapse_key.clone(),
    };
    (entry, value)
}

pub(super) fn queued_gap(gap: &GapRecord) -> Vec<u8> {
    let head = QueueHead {
        gap: gap.counts.clone(),
        topic: gap.topic.clone(),
        ..QueueHead::default()
    };
    layout::seal(&head.encode_length_delimited_to_vec())
}

pub(super) fn read_queued(id: MessageId, value: &[u8]) -> Option<QueueValue<'_>> {
    let mut payload = layout::open(value)?;
    let head = QueueHead::decode_length_delimited(&mut payload).ok()?;
    if !head.gap.is_empty() {
        return Some(QueueValue::Gap(GapRecord {
            topic: head.topic,
            counts: head.gap,
        }));
    }
    let entry = Entry {
        id,
        bytes: length(value),
        urgency: Urgency::from_number(u8::try_from(head.urgency).ok()?)?,
        deadline: UnixMillis(head.deadline_ms),
        collapse_key: if head.collapse_key.is_empty() {
            None
        } else {
            Some(CollapseKey::parse(&head.collapse_key).ok()?)
        },
    };
    Some(QueueValue::Message(entry, payload))
}

/// Summaries of several queues, column by column: some ten bytes each.
#[derive(Clone, PartialEq, prost::Message)]
struct SummariesRecord {
    /// Ordinals in order, each as the distance from the one before.
    #[prost(uint32, repeated, tag = "1")]
    devices: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    projects: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    messages: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    bytes: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    keyed: Vec<u32>,
    #[prost(uint32, repeated, tag = "6")]
    gaps: Vec<u32>,
    /// One more than the span; 0 where nothing expires.
    #[prost(uint32, repeated, tag = "7")]
    earliest: Vec<u32>,
}

/// Summaries in the order of their devices; `None` for a queue that is gone.
pub(super) fn write_summaries(summaries: &[(Ordinal, Option<Waiting>)]) -> Vec<u8> {
    let mut record = SummariesRecord::default();
    let mut before = 0;
    for (device, waiting) in summaries {
        let summary = waiting.map(|w| w.summary).unwrap_or_default();
        record.devices.push(device.0.wrapping_sub(before));
        before = device.0;
        record.projects.push(waiting.map_or(0, |w| w.project.0));
        record.messages.push(summary.messages);
        record.bytes.push(summary.bytes);
        record.keyed.push(summary.keyed.into());
        record.gaps.push(summary.gaps.into());
        record.earliest.push(summary.earliest.0.wrapping_add(1));
    }
    layout::seal(&record.encode_to_vec())
}

pub(super) fn read_summaries(value: &[u8]) -> Option<Vec<(Ordinal, Option<Waiting>)>> {
    let record = SummariesRecord::decode(layout::open(value)?).ok()?;
    let mut before = 0_u32;
    let device = |(at, distance): (usize, &u32)| {
        before = before.wrapping_add(*distance);
        let summary = Summary {
            messages: *record.messages.get(at)?,
            bytes: *record.bytes.get(at)?,
            keyed: u16::try_from(*record.keyed.get(at)?).ok()?,
            gaps: u16::try_from(*record.gaps.get(at)?).ok()?,
            earliest: Span(record.earliest.get(at)?.wrapping_sub(1)),
        };
        let project = ProjectId(*record.projects.get(at)?);
        let waiting = (!summary.is_empty()).then_some(Waiting { project, summary });
        Some((Ordinal(before), waiting))
    };
    record.devices.iter().enumerate().map(device).collect()
}

/// The id of a message as a value.
pub(super) fn write_id(id: MessageId) -> Vec<u8> {
    let mut payload = [0; 12];
    payload[..4].copy_from_slice(&id.epoch.to_be_bytes());
    payload[4..].copy_from_slice(&id.sequence.to_be_bytes());
    layout::seal(&payload)
}

pub(super) fn read_id(value: &[u8]) -> Option<MessageId> {
    let payload = layout::open(value)?;
    (payload.len() == 12)
        .then(|| layout::id_of(payload))
        .flatten()
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BroadcastRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) message: Vec<u8>,
    /// In version 1 only.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) targeted: Vec<u8>,
    #[prost(bool, tag = "3")]
    pub(super) is_trimmed: bool,
}

impl BroadcastRecord {
    pub(super) fn new(message: Vec<u8>) -> Self {
        Self {
            message,
            ..Self::default()
        }
    }

    pub(super) fn read(value: &[u8]) -> Option<Self> {
        Self::decode(layout::open(value)?).ok()
    }

    pub(super) fn write(&self) -> Vec<u8> {
        layout::seal(&self.encode_to_vec())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct BroadcastHistoryRecord {
    #[prost(uint32, tag = "1")]
    project: u32,
    #[prost(string, tag = "2")]
    topic: String,
    #[prost(uint64, tag = "3")]
    accepted_at_ms: u64,
    /// This and all other times in milliseconds after it was accepted.
    #[prost(uint64, tag = "4")]
    committed: u64,
    #[prost(uint64, tag = "5")]
    targeted: u64,
    #[prost(uint64, tag = "6")]
    acked: u64,
    /// In the order of the reasons; those at the end that are 0 are left out.
    #[prost(uint64, repeated, tag = "7")]
    dropped: Vec<u64>,
    #[prost(uint64, optional, tag = "8")]
    first_ack: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    last_ack: Option<u64>,
}

pub(super) fn write_broadcast_history(history: &BroadcastHistory) -> Vec<u8> {
    let accepted = history.accepted_at.0;
    let after = |at: UnixMillis| at.0.saturating_sub(accepted);
    let last = history.dropped.iter().rposition(|n| *n > 0);
    let reasons = last.map_or(0, |last| last + 1);
    let record = BroadcastHistoryRecord {
        project: history.project.0,
        topic: history.topic.clone(),
        accepted_at_ms: accepted,
        committed: after(history.committed_at),
        targeted: history.targeted,
        acked: history.acked,
        dropped: history.dropped[..reasons].to_vec(),
        first_ack: history.acks.map(|(first, _)| after(first)),
        last_ack: history.acks.map(|(_, last)| after(last)),
    };
    layout::seal(&record.encode_to_vec())
}

pub(super) fn read_broadcast_history(id: MessageId, value: &[u8]) -> Option<BroadcastHistory> {
    let record = BroadcastHistoryRecord::decode(layout::open(value)?).ok()?;
    let at = |after: u64| UnixMillis(record.accepted_at_ms.saturating_add(after));
    let mut dropped = [0; DropReason::ALL.len()];
    for (count, stored) in dropped.iter_mut().zip(&record.dropped) {
        *count = *stored;
    }
    Some(BroadcastHistory {
        id,
        project: ProjectId(record.project),
        accepted_at: at(0),
        committed_at: at(record.committed),
        targeted: record.targeted,
        acked: record.acked,
        dropped,
        acks: record.first_ack.map(at).zip(record.last_ack.map(at)),
        topic: record.topic,
    })
}
