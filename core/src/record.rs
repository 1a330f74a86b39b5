//! The stored form of a message: protobuf, so that fields can be added without touching what is stored.

use bytes::Bytes;
use petrel_protocol::{Category, CollapseKey, MessageId, Ordinal, ProjectId, TopicName, Urgency};
use prost::Message as _;

use crate::{Address, Badge, Content, Message, Notification, Options, PerPlatform, UnixMillis};

/// A stored message cannot be read back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unreadable message record: {0}")]
pub struct RecordError(String);

impl RecordError {
    fn new(problem: impl ToString) -> Self {
        Self(problem.to_string())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct OptionsRecord {
    #[prost(uint64, tag = "1")]
    deadline_ms: u64,
    #[prost(uint32, tag = "2")]
    urgency: u32,
    #[prost(string, tag = "3")]
    collapse_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NotificationRecord {
    #[prost(string, optional, tag = "1")]
    title: Option<String>,
    #[prost(string, optional, tag = "2")]
    body: Option<String>,
    #[prost(string, optional, tag = "3")]
    image: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MessageRecord {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint32, tag = "3")]
    project: u32,
    #[prost(uint32, optional, tag = "4")]
    ordinal: Option<u32>,
    #[prost(string, tag = "5")]
    topic: String,
    #[prost(uint64, tag = "6")]
    accepted_at_ms: u64,
    #[prost(message, optional, tag = "7")]
    common: Option<OptionsRecord>,
    #[prost(message, optional, tag = "8")]
    ios: Option<OptionsRecord>,
    #[prost(message, optional, tag = "9")]
    web: Option<OptionsRecord>,
    #[prost(message, optional, tag = "10")]
    notification: Option<NotificationRecord>,
    #[prost(btree_map = "string, string", tag = "11")]
    data: std::collections::BTreeMap<String, String>,
    #[prost(string, tag = "12")]
    category: String,
    #[prost(uint32, optional, tag = "13")]
    badge_set: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    badge_increment: Option<u32>,
}

/// Makes the record of a message.
#[must_use]
pub fn encode_message(message: &Message) -> Vec<u8> {
    let options = message.options.map(|o| OptionsRecord {
        deadline_ms: o.deadline.0,
        urgency: o.urgency as u32,
        collapse_key: o
            .collapse_key
            .as_ref()
            .map_or_else(String::new, |k| k.as_str().into()),
    });
    let (ordinal, topic) = match &message.address {
        Address::Device(ordinal) => (Some(ordinal.0), String::new()),
        Address::Topic(topic) => (None, topic.as_str().into()),
    };
    let content = &message.content;
    let (badge_set, badge_increment) = match content.badge {
        None => (None, None),
        Some(Badge::Set(n)) => (Some(n), None),
        Some(Badge::Increment(n)) => (None, Some(n)),
    };
    MessageRecord {
        epoch: message.id.epoch,
        sequence: message.id.sequence,
        project: message.project.0,
        ordinal,
        topic,
        accepted_at_ms: message.accepted_at.0,
        common: Some(options.common),
        ios: options.ios,
        web: options.web,
        notification: content.notification.as_ref().map(|n| NotificationRecord {
            title: n.title.clone(),
            body: n.body.clone(),
            image: n.image.clone(),
        }),
        data: content.data.clone(),
        category: content
            .category
            .as_ref()
            .map_or_else(String::new, |c| c.as_str().into()),
        badge_set,
        badge_increment,
    }
    .encode_to_vec()
}

/// Reads a record.
///
/// # Errors
/// [`RecordError`] for anything that [`encode_message`] did not make.
pub fn decode_message(record: &[u8]) -> Result<Message, RecordError> {
    let record = MessageRecord::decode(record).map_err(RecordError::new)?;
    let options = |o: OptionsRecord| -> Result<Options, RecordError> {
        Ok(Options {
            deadline: UnixMillis(o.deadline_ms),
            urgency: u8::try_from(o.urgency)
                .ok()
                .and_then(Urgency::from_number)
                .ok_or_else(|| RecordError::new("unknown urgency"))?,
            collapse_key: optional(&o.collapse_key, CollapseKey::parse)?,
        })
    };
    let common = record
        .common
        .ok_or_else(|| RecordError::new("no options"))?;
    Ok(Message {
        id: MessageId {
            epoch: record.epoch,
            sequence: record.sequence,
        },
        project: ProjectId(record.project),
        address: match record.ordinal {
            Some(ordinal) => Address::Device(Ordinal(ordinal)),
            None => Address::Topic(TopicName::parse(&record.topic).map_err(RecordError::new)?),
        },
        content: Content {
            notification: record.notification.map(|n| Notification {
                title: n.title,
                body: n.body,
                image: n.image,
            }),
            data: record.data,
            category: optional(&record.category, Category::parse)?,
            badge: (record.badge_set.map(Badge::Set))
                .or(record.badge_increment.map(Badge::Increment)),
        },
        options: PerPlatform {
            common: options(common)?,
            ios: record.ios.map(options).transpose()?,
            web: record.web.map(options).transpose()?,
        },
        accepted_at: UnixMillis(record.accepted_at_ms),
        frames: <[std::sync::OnceLock<Bytes>; 3]>::default(),
    })
}

fn optional<T, E: ToString>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, RecordError> {
    if text.is_empty() {
        return Ok(None);
    }
    parse(text).map(Some).map_err(RecordError::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_options() -> impl Strategy<Value = Options> {
        (any::<u64>(), 1_u8..=4, proptest::option::of("[a-z]{1,64}")).prop_map(
            |(deadline, urgency, key)| Options {
                deadline: UnixMillis(deadline),
                urgency: Urgency::from_number(urgency).unwrap(),
                collapse_key: key.map(|k| CollapseKey::parse(&k).unwrap()),
            },
        )
    }

    prop_compose! {
        fn any_message()(
            sequence in any::<u64>(),
            ordinal in proptest::option::of(any::<u32>()),
            topic in "[a-zA-Z0-9._~%-]{1,30}",
            common in any_options(),
            ios in proptest::option::of(any_options()),
            web in proptest::option::of(any_options()),
            title in proptest::option::of(".{0,20}"),
            data in proptest::collection::btree_map(".{0,10}", ".{0,10}", 0..4),
            badge in proptest::option::of(any::<(bool, u32)>()),
        ) -> Message {
            Message {
                id: MessageId { epoch: 7, sequence },
                project: ProjectId(2),
                address: match ordinal {
                    Some(o) => Address::Device(Ordinal(o)),
                    None => Address::Topic(TopicName::parse(&topic).unwrap()),
                },
                content: Content {
                    notification: title.map(|t| Notification { title: Some(t), ..Notification::default() }),
                    data,
                    category: None,
                    badge: badge.map(|(set, n)| if set { Badge::Set(n) } else { Badge::Increment(n) }),
                },
                options: PerPlatform { common, ios, web },
                accepted_at: UnixMillis(99),
                frames: Default::default(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(message in any_message()) {
            let back = decode_message(&encode_message(&message)).unwrap();
            prop_assert_eq!(back.id, message.id);
            prop_assert_eq!(back.address, message.address);
            prop_assert_eq!(back.content, message.content);
            prop_assert_eq!(back.options, message.options);
            prop_assert_eq!(back.accepted_at, message.accepted_at);
        }

        #[test]
        fn rubbish_is_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_message(&bytes);
        }
    }
}
