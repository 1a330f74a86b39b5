//! A message as the app sees it and as the inbox keeps it: parsed from the wire once, written as JSON.

use std::collections::BTreeMap;

use petrel_protocol::wire::{self, badge};
use petrel_protocol::{MessageId, Urgency};
use serde::{Deserialize, Serialize};

use crate::event::Gap;

/// What a publisher sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Its name, the same on every device and after every restart.
    #[serde(with = "id_text")]
    pub id: MessageId,
    /// The topic that it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The condition over topics that it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// What to show, where the publisher said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification: Option<Notification>,
    /// The publisher's own keys and values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// How urgent it is.
    #[serde(with = "urgency_text")]
    pub urgency: Urgency,
    /// A newer message of the same key replaces this one; the app may replace what it shows of it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// What the user may mute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// What becomes of the app's badge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub badge: Option<Badge>,
    /// When the broker accepted it, in milliseconds since 1970 by the broker's clock.
    pub sent_at_ms: u64,
    /// When it becomes worthless, in milliseconds since 1970 by the broker's clock. 0: at once, if not received then.
    /// A message that was received in time is handed over even if the app takes it later.
    pub expires_at_ms: u64,
    /// When the SDK received it, in milliseconds since 1970 by the device's clock.
    pub received_at_ms: u64,
}

/// What to show to the user.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Notification {
    /// First line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Address of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What becomes of the app's badge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Badge {
    /// The badge becomes this number; 0 clears it.
    Set(u32),
    /// The badge grows by this number.
    Increment(u32),
}

/// What an inbox record holds: something that is handed over once and acked by its id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    Message(Message),
    Gap(Gap),
}

impl Kept {
    /// The id that acks it.
    pub(crate) fn id(&self) -> MessageId {
        match self {
            Self::Message(message) => message.id,
            Self::Gap(gap) => gap.id,
        }
    }
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl Message {
    /// Parses a frame; `None` if it has no id and so could never be acked.
    pub(crate) fn from_wire(frame: wire::Deliver, received_at_ms: u64) -> Option<Self> {
        let id = frame.id?.into();
        Some(Self {
            id,
            topic: text(frame.topic),
            condition: text(frame.condition),
            notification: frame.notification.map(|n| Notification {
                title: n.title,
                body: n.body,
                image: n.image,
            }),
            data: frame.data,
            // A sender that does not say its urgency means normal; so does one that says what is not known here.
            urgency: u8::try_from(frame.urgency)
                .ok()
                .and_then(Urgency::from_number)
                .unwrap_or_default(),
            collapse_key: text(frame.collapse_key),
            category: text(frame.category),
            badge: frame
                .badge
                .and_then(|b| b.change)
                .map(|change| match change {
                    badge::Change::Set(number) => Badge::Set(number),
                    badge::Change::Increment(number) => Badge::Increment(number),
                }),
            sent_at_ms: frame.accepted_at_ms,
            expires_at_ms: frame.expires_at_ms,
            received_at_ms,
        })
    }
}

/// Message ids as text, `EPOCH-SEQUENCE`.
pub(crate) mod id_text {
    use petrel_protocol::MessageId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(id: &MessageId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MessageId, D::Error> {
        String::deserialize(from)?.parse().map_err(Error::custom)
    }
}

mod urgency_text {
    use petrel_protocol::Urgency;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(urgency: &Urgency, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(urgency.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Urgency, D::Error> {
        String::deserialize(from)?.parse().map_err(Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> wire::Deliver {
        wire::Deliver {
            id: Some(wire::MessageId {
                epoch: 7,
                sequence: 9,
            }),
            topic: "news".into(),
            notification: Some(wire::Notification {
                title: Some("T".into()),
                body: None,
                image: None,
            }),
            data: [("k".to_owned(), "line\nbreak \u{1f426}".to_owned())].into(),
            urgency: 4,
            badge: Some(wire::Badge {
                change: Some(badge::Change::Increment(2)),
            }),
            accepted_at_ms: 1,
            expires_at_ms: 2,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_kept_reads_back_as_it_was() {
        let message = Message::from_wire(full(), 3).unwrap();
        assert_eq!(message.urgency, Urgency::High);
        assert_eq!(
            (message.condition.clone(), message.badge),
            (None, Some(Badge::Increment(2)))
        );
        let kept = Kept::Message(message);
        let json = serde_json::to_string(&kept).unwrap();
        assert!(!json.contains('\n'));
        assert_eq!(serde_json::from_str::<Kept>(&json).unwrap(), kept);
    }

    #[test]
    fn a_frame_without_id_is_none_and_unknown_urgency_is_normal() {
        let nameless = wire::Deliver { id: None, ..full() };
        assert!(Message::from_wire(nameless, 0).is_none());
        let odd = wire::Deliver {
            urgency: 77,
            ..full()
        };
        assert_eq!(Message::from_wire(odd, 0).unwrap().urgency, Urgency::Normal);
    }
}
