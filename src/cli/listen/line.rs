//! What `listen --json` prints: one object a line, `event` first, all keys always, null where nothing was given.

use std::collections::BTreeMap;
use std::io;

use petrel_client::{Cause, Event, Message};
use serde::Serialize;

/// One line. Field order is print order.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Registered {
        token: &'a str,
        resumed: bool,
        previous: Option<&'a str>,
    },
    Subscribed {
        topic: &'a str,
    },
    Message(MessageLine<'a>),
    Gap {
        topic: Option<&'a str>,
        count: u64,
        reasons: &'a BTreeMap<String, u64>,
    },
    Recall {
        id: String,
    },
    Closed {
        code: &'a str,
        reason: String,
        retry_after_ms: Option<u64>,
    },
}

#[derive(Serialize)]
pub(super) struct MessageLine<'a> {
    id: String,
    topic: Option<&'a str>,
    condition: Option<&'a str>,
    notification: Option<NotificationLine<'a>>,
    data: Option<&'a BTreeMap<String, String>>,
    urgency: &'a str,
    collapse_key: Option<&'a str>,
    redelivered: bool,
    sent_at_ms: u64,
    received_at_ms: u64,
}

#[derive(Serialize)]
struct NotificationLine<'a> {
    title: Option<&'a str>,
    body: Option<&'a str>,
    image: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// The line of an event; `None` for what has none, such as a connection that will be made again.
    pub(super) fn of(event: &'a Event) -> Option<Self> {
        Some(match event {
            Event::Registered {
                token,
                resumed,
                previous,
            } => Self::Registered {
                token: token.as_str(),
                resumed: *resumed,
                previous: previous.as_ref().map(|token| token.as_str()),
            },
            Event::Message(delivery) => {
                Self::Message(MessageLine::new(delivery.message(), delivery.redelivered()))
            }
            Event::Gap {
                topic,
                count,
                reasons,
            } => Self::Gap {
                topic: topic.as_deref(),
                count: *count,
                reasons,
            },
            Event::Recall { id } => Self::Recall { id: id.to_string() },
            Event::Closed(cause) => Self::closed(cause),
            _ => return None,
        })
    }

    fn closed(cause: &'a Cause) -> Self {
        Self::Closed {
            code: cause.code(),
            reason: cause.to_string(),
            retry_after_ms: cause
                .retry_after()
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// The JSON with its line break.
    pub(super) fn to_text(&self) -> io::Result<String> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        Ok(text)
    }
}

impl<'a> MessageLine<'a> {
    fn new(message: &'a Message, redelivered: bool) -> Self {
        Self {
            id: message.id.to_string(),
            topic: message.topic.as_deref(),
            condition: message.condition.as_deref(),
            notification: message.notification.as_ref().map(|n| NotificationLine {
                title: n.title.as_deref(),
                body: n.body.as_deref(),
                image: n.image.as_deref(),
            }),
            // A message without data and one with none are the same on the wire.
            data: (!message.data.is_empty()).then_some(&message.data),
            urgency: message.urgency.as_str(),
            collapse_key: message.collapse_key.as_deref(),
            redelivered,
            sent_at_ms: message.sent_at_ms,
            received_at_ms: message.received_at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use petrel_client::DeviceToken;

    use super::*;

    fn check(line: &Line<'_>, expected: &str) {
        assert_eq!(line.to_text().unwrap(), format!("{expected}\n"));
    }

    fn message(json: serde_json::Value) -> Message {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_bare_message_has_every_key() {
        let bare = message(serde_json::json!({
            "id": "1-2", "urgency": "normal", "sent_at_ms": 3, "expires_at_ms": 4, "received_at_ms": 5
        }));
        check(
            &Line::Message(MessageLine::new(&bare, false)),
            r#"{"event":"message","id":"1-2","topic":null,"condition":null,"notification":null,"data":null,"urgency":"normal","collapse_key":null,"redelivered":false,"sent_at_ms":3,"received_at_ms":5}"#,
        );
    }

    #[test]
    fn a_full_message_has_every_value() {
        let full = message(serde_json::json!({
            "id": "1-2", "topic": "news", "condition": "c", "notification": {"title": "T\n"},
            "data": {"k": "v"}, "urgency": "very-low", "collapse_key": "x",
            "sent_at_ms": 3, "expires_at_ms": 4, "received_at_ms": 5
        }));
        check(
            &Line::Message(MessageLine::new(&full, true)),
            r#"{"event":"message","id":"1-2","topic":"news","condition":"c","notification":{"title":"T\n","body":null,"image":null},"data":{"k":"v"},"urgency":"very-low","collapse_key":"x","redelivered":true,"sent_at_ms":3,"received_at_ms":5}"#,
        );
    }

    #[test]
    fn the_other_kinds() {
        let event = Event::Registered {
            token: DeviceToken::from_text("new"),
            resumed: false,
            previous: Some(DeviceToken::from_text("old")),
        };
        check(
            &Line::of(&event).unwrap(),
            r#"{"event":"registered","token":"new","resumed":false,"previous":"old"}"#,
        );
        check(
            &Line::Subscribed { topic: "news" },
            r#"{"event":"subscribed","topic":"news"}"#,
        );
        let event = Event::Gap {
            topic: None,
            count: 3,
            reasons: [("evicted".to_owned(), 3)].into(),
        };
        check(
            &Line::of(&event).unwrap(),
            r#"{"event":"gap","topic":null,"count":3,"reasons":{"evicted":3}}"#,
        );
        let event = Event::Recall {
            id: "1-2".parse().unwrap(),
        };
        check(
            &Line::of(&event).unwrap(),
            r#"{"event":"recall","id":"1-2"}"#,
        );
        check(
            &Line::Closed {
                code: "replaced",
                reason: "r".to_owned(),
                retry_after_ms: None,
            },
            r#"{"event":"closed","code":"replaced","reason":"r","retry_after_ms":null}"#,
        );
    }
}
