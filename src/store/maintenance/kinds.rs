//! What kinds of pairs there are, and how each must look. A new kind of key in `layout.rs` gets a line here.

use std::ops::RangeInclusive;

use petrel_core::{decode_events, decode_message};
use petrel_protocol::{MessageId, TopicName};
use roaring::RoaringBitmap;

use super::super::records::{self, BroadcastRecord, QueueValue, RegistrationRecord};
use crate::store::{GAP_BIT, layout};

/// One kind of pair.
pub(super) struct Kind {
    /// First byte of its keys.
    pub(super) byte: u8,
    /// What exports and reports call it. Never changed: exports hold it.
    pub(super) name: &'static str,
    /// Lengths that its keys may have.
    lengths: RangeInclusive<usize>,
    /// Whether an ordinal follows the kind.
    has_device: bool,
    /// Whether a message id ends the key.
    pub(super) has_message: bool,
    /// Whether the key and the value, whose checksum is right, have their shape.
    is_shaped: fn(&[u8], &[u8]) -> bool,
    /// What can be done about a value that is unreadable.
    pub(super) remedy: Remedy,
}

/// What can be done about a value that is unreadable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// Taking it out loses this value alone.
    Remove,
    /// The broker takes it out when its device attaches, and tells the device by a gap.
    Broker,
    /// Without it the rest means nothing, or it is unknown what it means.
    None,
}

const PIECE_LENGTHS: RangeInclusive<usize> = 15..=15;
const NAME_LENGTHS: RangeInclusive<usize> = 1..=1024;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        byte: layout::META,
        name: "meta",
        lengths: NAME_LENGTHS,
        has_device: false,
        has_message: false,
        is_shaped: |key, value| layout::name_at(key, 1).is_some() && is_number(value),
        remedy: Remedy::None,
    },
    Kind {
        byte: layout::PROJECT,
        name: "project",
        lengths: NAME_LENGTHS,
        has_device: false,
        has_message: false,
        is_shaped: |key, value| layout::name_at(key, 1).is_some() && is_number(value),
        remedy: Remedy::None,
    },
    Kind {
        byte: layout::TOPIC,
        name: "topic",
        lengths: NAME_LENGTHS,
        has_device: false,
        has_message: false,
        is_shaped: |key, value| {
            let name = layout::name_at(key, 5);
            name.is_some_and(|name| TopicName::parse(name).is_ok()) && is_number(value)
        },
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::REGISTRATION,
        name: "registration",
        lengths: 5..=5,
        has_device: true,
        has_message: false,
        is_shaped: |_, value| {
            RegistrationRecord::read(value)
                .is_some_and(|record| record.registration(petrel_protocol::Ordinal(0)).is_some())
        },
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::SECRET,
        name: "secret",
        lengths: 37..=37,
        has_device: false,
        has_message: false,
        is_shaped: |_, value| is_number(value),
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::SUBSCRIPTION,
        name: "subscription",
        lengths: 9..=9,
        has_device: true,
        has_message: false,
        is_shaped: |_, _| true,
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::QUEUE,
        name: "queue",
        lengths: 17..=17,
        has_device: true,
        has_message: true,
        is_shaped: |key, value| match layout::id_of(key).map(|id| records::read_queued(id, value)) {
            Some(Some(QueueValue::Message(_, body))) => decode_message(body).is_ok(),
            Some(Some(QueueValue::Gap(_))) => {
                layout::id_of(key).is_some_and(|id| id.sequence & GAP_BIT != 0)
            }
            _ => false,
        },
        remedy: Remedy::Broker,
    },
    Kind {
        byte: layout::SUMMARIES,
        name: "summaries",
        lengths: 5..=5,
        has_device: false,
        has_message: false,
        is_shaped: |_, value| records::read_summaries(value).is_some(),
        remedy: Remedy::Broker,
    },
    Kind {
        byte: layout::JOURNAL,
        name: "journal",
        lengths: 9..=9,
        has_device: false,
        has_message: false,
        is_shaped: |_, value| records::read_summaries(value).is_some(),
        remedy: Remedy::Broker,
    },
    Kind {
        byte: layout::BROADCAST,
        name: "broadcast",
        lengths: 13..=13,
        has_device: false,
        has_message: true,
        is_shaped: |_, value| {
            BroadcastRecord::read(value).is_some_and(|record| {
                (record.targeted.is_empty() || is_set(&record.targeted))
                    && decode_message(&record.message).is_ok()
            })
        },
        remedy: Remedy::Broker,
    },
    Kind {
        byte: layout::TARGETED,
        name: "targeted",
        lengths: PIECE_LENGTHS,
        has_device: false,
        has_message: true,
        is_shaped: |key, _| layout::piece_of(key).is_some(),
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::SETTLED,
        name: "settled",
        // Whole, and without the number of a piece, in version 1.
        lengths: 13..=15,
        has_device: false,
        has_message: true,
        is_shaped: |key, value| match key.len() {
            13 => layout::open(value).is_some_and(is_set),
            _ => layout::piece_of(key).is_some(),
        },
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::TOLD,
        name: "told",
        lengths: NAME_LENGTHS,
        has_device: true,
        has_message: false,
        is_shaped: |key, value| {
            let topic = layout::name_at(key, 9);
            topic.is_some_and(|topic| TopicName::parse(topic).is_ok())
                && records::read_id(value).is_some()
        },
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::HISTORY,
        name: "history",
        lengths: 12..=12,
        has_device: false,
        has_message: false,
        is_shaped: |key, value| {
            let leaf = layout::written_at(key).zip(layout::open(value));
            leaf.is_some_and(|(written, leaf)| decode_events(leaf, written).is_ok())
        },
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::BROADCAST_HISTORY,
        name: "broadcast_history",
        lengths: 13..=13,
        has_device: false,
        has_message: true,
        is_shaped: |key, value| {
            let id = layout::id_of(key);
            id.is_some_and(|id| records::read_broadcast_history(id, value).is_some())
        },
        remedy: Remedy::Remove,
    },
    Kind {
        byte: layout::ERASING,
        name: "erasing",
        lengths: 5..=5,
        // Its registration has ended.
        has_device: false,
        has_message: false,
        is_shaped: |_, value| layout::open(value).is_some_and(<[u8]>::is_empty),
        // The mark counts, not what stands under it.
        remedy: Remedy::Broker,
    },
];

impl Kind {
    /// The kind of a key; `None` for one that this program does not know.
    pub(super) fn of(key: &[u8]) -> Option<&'static Self> {
        let byte = *key.first()?;
        KINDS.iter().find(|kind| kind.byte == byte)
    }

    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// What is wrong with a pair of this kind.
    pub(super) fn problem(&self, key: &[u8], value: &[u8]) -> Option<&'static str> {
        if !self.lengths.contains(&key.len()) {
            Some("its key has a wrong length")
        } else if layout::open(value).is_none() {
            Some("its checksum is wrong")
        } else if !(self.is_shaped)(key, value) {
            Some("its content is not of this kind")
        } else {
            None
        }
    }

    /// The device that a key is about.
    pub(super) fn device(&self, key: &[u8]) -> Option<u32> {
        self.has_device.then(|| layout::number_at(key, 1)).flatten()
    }

    /// The message that a key is about, that of a gap included.
    pub(super) fn message(&self, key: &[u8]) -> Option<MessageId> {
        if !self.has_message || !self.lengths.contains(&key.len()) {
            return None;
        }
        match layout::piece_of(key) {
            Some((id, _)) if !self.has_device => Some(id),
            _ => layout::id_of(key),
        }
    }
}

/// What stands under a key of numbers: a sealed u64.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let bytes = layout::open(value)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

pub(super) fn is_set(bytes: &[u8]) -> bool {
    RoaringBitmap::deserialize_from(bytes).is_ok()
}

fn is_number(value: &[u8]) -> bool {
    number(value).is_some()
}
