//! What bodies mean, as data; what is wrong with them is in `refused`, and `fuzz` tries everything else.

mod fuzz;
mod refused;

use std::time::Duration;

use petrel_core::{Draft, DraftOptions, Notification, Ttl, UnixMillis};
use petrel_protocol::{CollapseKey, Platform, Urgency};
use serde_json::{Value, json};

use super::request::{Publish, parse};
use crate::api::fault::Fault;
use crate::delivery::Target;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn read(body: &Value) -> Result<Publish, Fault> {
    parse(body.to_string().as_bytes(), NOW)
}

/// The publish that a body means.
fn accepted(body: &Value) -> Publish {
    read(body).unwrap_or_else(|fault| panic!("{body}: {fault:?}"))
}

/// A message for topic `t` with further fields.
fn message(fields: Value) -> Value {
    let mut message = json!({"topic": "t"});
    let fields = fields.as_object().unwrap().clone();
    message.as_object_mut().unwrap().extend(fields);
    json!({ "message": message })
}

fn draft(fields: Value) -> Draft {
    accepted(&message(fields)).draft
}

fn options(ttl_ms: u64, urgency: Urgency, collapse_key: Option<&str>) -> DraftOptions {
    DraftOptions {
        ttl: Ttl::new(Duration::from_millis(ttl_ms)).unwrap(),
        urgency,
        collapse_key: collapse_key.map(|k| CollapseKey::parse(k).unwrap()),
    }
}

const WEEKS4_MS: u64 = 2_419_200_000;

#[test]
fn targets_and_whether_only_to_check() {
    let target = |publish: &Publish| match &publish.target {
        Target::Token(token) => format!("token {token}"),
        Target::Topic(topic) => format!("topic {topic}"),
    };
    for (body, expected, field, is_validate_only) in [
        (
            json!({"message": {"token": "T"}}),
            "token T",
            "message.token",
            false,
        ),
        (
            json!({"message": {"fid": "T"}, "validate_only": false}),
            "token T",
            "message.fid",
            false,
        ),
        (
            json!({"message": {"topic": "a%2F~"}, "validate_only": true}),
            "topic a%2F~",
            "message.topic",
            true,
        ),
        (
            json!({"message": {"topic": "/topics/news"}, "validateOnly": true}),
            "topic news",
            "message.topic",
            true,
        ),
        (
            json!({"message": {"token": null, "condition": null, "topic": "t", "data": null, "x": null}}),
            "topic t",
            "message.topic",
            false,
        ),
    ] {
        let publish = accepted(&body);
        assert_eq!(target(&publish), expected, "{body}");
        assert_eq!(publish.target_field, field, "{body}");
        assert_eq!(publish.is_validate_only, is_validate_only, "{body}");
    }
}

#[test]
fn content_is_kept_as_given() {
    let content = draft(json!({
        "notification": {"title": "T", "body": "", "image": "https://x/y.png"},
        "data": {"k": "v", "": "\u{0}ä", "fromage": "x"},
        "fcm_options": {"analytics_label": "a-_.~%9"},
        "petrel": {"category": "offers"},
    }))
    .content;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        content.notification,
        Some(Notification {
            title: text("T"),
            body: text(""),
            image: text("https://x/y.png"),
        })
    );
    let data: Vec<_> = content.data.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(data, [("", "\u{0}ä"), ("fromage", "x"), ("k", "v")]);
    assert_eq!(content.category.unwrap().as_str(), "offers");
    assert_eq!(
        draft(json!({"notification": {}})).content.notification,
        None
    );
}

#[test]
fn options_where_nothing_is_said() {
    let unsaid = draft(json!({"data": {"k": "v"}})).options;
    assert_eq!(unsaid.common, options(WEEKS4_MS, Urgency::Normal, None));
    assert_eq!((unsaid.ios, unsaid.web), (None, None));
    for (notification, urgency) in [
        (json!({"title": "T"}), Urgency::High),
        (json!({}), Urgency::Normal),
    ] {
        let said = draft(json!({"notification": notification})).options;
        assert_eq!(said.common.urgency, urgency);
    }
}

#[test]
fn blocks_say_what_holds_on_which_platform() {
    let check = |fields: Value, expected: [DraftOptions; 3]| {
        let options = draft(fields.clone()).options;
        let found = [Platform::Android, Platform::Ios, Platform::Web].map(|p| options.on(p));
        assert_eq!(found, expected.each_ref(), "{fields}");
        assert_eq!(options.on(Platform::Other), &expected[0], "{fields}");
        // What does not differ shares one frame.
        assert_eq!(options.ios.is_some(), expected[1] != expected[0]);
        assert_eq!(options.web.is_some(), expected[2] != expected[0]);
    };
    let same = |o: DraftOptions| [o.clone(), o.clone(), o];

    check(
        json!({"android": {"ttl": "3.5s", "priority": "HIGH", "collapse_key": "k"}}),
        same(options(3500, Urgency::High, Some("k"))),
    );
    check(
        json!({"android": {"ttl": "0s", "priority": "normal", "collapseKey": "k"}, "notification": {"title": "T"}}),
        same(options(0, Urgency::Normal, Some("k"))),
    );
    check(
        json!({
            "android": {"ttl": "60s", "collapse_key": "k"},
            "apns": {"headers": {"apns-priority": "1", "APNS-Expiration": "1700000010", "apns-collapse-id": "i"}},
            "webpush": {"headers": {"ttl": "0", "URGENCY": "very-low", "Topic": "w"}},
        }),
        [
            options(60_000, Urgency::Normal, Some("k")),
            options(10_000, Urgency::Low, Some("i")),
            options(0, Urgency::VeryLow, Some("w")),
        ],
    );
    check(
        json!({
            "android": {"ttl": "60s", "priority": "high", "collapse_key": "k"},
            "apns": {"headers": {"apns-priority": "5"}},
            "webpush": {"headers": {"TTL": "7"}},
        }),
        [
            options(60_000, Urgency::High, Some("k")),
            options(60_000, Urgency::Normal, Some("k")),
            options(7000, Urgency::High, Some("k")),
        ],
    );
    check(
        json!({
            "android": {"ttl": "60s", "priority": "high"},
            "apns": {"headers": {"apns-priority": "10", "apns-expiration": "0"}},
            "webpush": {"headers": {"Urgency": "low"}},
            "petrel": {"ttl": "5s", "urgency": "low"},
        }),
        same(options(5000, Urgency::Low, None)),
    );
    check(
        json!({
            "apns": {"headers": {"apns-collapse-id": "i", "apns-expiration": "0"}},
            "petrel": {"collapse_key": "p"},
        }),
        [
            options(WEEKS4_MS, Urgency::Normal, Some("p")),
            options(0, Urgency::Normal, Some("p")),
            options(WEEKS4_MS, Urgency::Normal, Some("p")),
        ],
    );
    check(
        json!({"android": {}, "apns": {"headers": {}}, "webpush": {}, "petrel": {}}),
        same(options(WEEKS4_MS, Urgency::Normal, None)),
    );
}
