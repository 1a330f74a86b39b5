//! What is wrong with bodies, as data.

use petrel_protocol::limits::PAYLOAD_BYTES_MAX;
use serde_json::{Value, json};

use super::{NOW, accepted, message, parse, read};
use crate::api::cause::Cause;
use crate::api::fault::Fault;

fn violations(fault: Fault) -> Vec<(String, String)> {
    assert_eq!(fault.cause, Cause::InvalidRequest);
    let list = fault.violations.into_iter();
    list.map(|v| (v.field, v.description)).collect()
}

/// Checks that a body is refused for exactly these fields; each description contains the text beside it.
fn check_refused(body: &str, expected: &[(&str, &str)]) {
    let Err(fault) = parse(body.as_bytes(), NOW) else {
        panic!("accepted: {body}");
    };
    let found = violations(fault);
    let fits = found.len() == expected.len()
        && expected.iter().all(|(field, part)| {
            found
                .iter()
                .any(|(f, description)| f == field && description.contains(part))
        });
    assert!(fits, "{body}\nexpected {expected:#?}\nfound {found:#?}");
}

#[test]
fn what_is_no_object_is_refused_as_a_whole() {
    for (body, part) in [
        ("", "is not JSON"),
        ("{\"message\": {", "is not JSON"),
        ("{} x", "is not JSON"),
        ("[]", "not an array"),
        ("null", "not null"),
        ("\"text\"", "not a string"),
        ("{\"a\": \"\\ud800\"}", "is not JSON"),
    ] {
        let Err(fault) = parse(body.as_bytes(), NOW) else {
            panic!("accepted: {body}");
        };
        assert_eq!(fault.cause, Cause::InvalidRequest);
        assert!(fault.message.contains(part), "{body}: {}", fault.message);
    }
    assert!(parse(b"{\"a\": \"\xff\"}", NOW).is_err());
}

#[test]
fn every_field_that_is_wrong_is_named() {
    let cases: &[(Value, &[(&str, &str)])] = &[
        (json!({}), &[("message", "is missing")]),
        (json!({"message": null}), &[("message", "is missing")]),
        (
            json!({"message": [], "validate_only": "yes", "extra": 1}),
            &[
                ("message", "must be an object, not an array"),
                ("validate_only", "must be true or false"),
                ("extra", "supported here: validate_only, message"),
            ],
        ),
        (json!({"message": {}}), &[("message", "no target")]),
        (
            json!({"message": {"token": "a", "fid": "b", "topic": "c"}}),
            &[("message", "token, fid, topic")],
        ),
        (
            json!({"message": {"condition": "'a' in topics"}}),
            &[("message.condition", "not supported yet")],
        ),
        (
            json!({"message": {"condition": "'a' in topics", "token": "T"}}),
            &[
                ("message.condition", "not supported yet"),
                ("message", "more than one target"),
            ],
        ),
        (
            json!({"message": {"token": ""}}),
            &[("message.token", "is empty")],
        ),
        (
            json!({"message": {"fid": 7}}),
            &[("message.fid", "must be a string, not a number")],
        ),
        (
            json!({"message": {"topic": "a b"}}),
            &[("message.topic", "has no ' '")],
        ),
        (
            json!({"message": {"topic": "/topics/"}}),
            &[("message.topic", "1 to")],
        ),
        (
            json!({"message": {"topic": "/topics//topics/a"}}),
            &[("message.topic", "has no '/'")],
        ),
        (
            message(json!({"name": "n", "notification": {"title": 1, "icon": "i"}})),
            &[
                ("message.name", "is not supported"),
                ("message.notification.title", "must be a string"),
                (
                    "message.notification.icon",
                    "supported here: title, body, image",
                ),
            ],
        ),
        (
            message(json!({"data": {
                "n": 1, "z": null, "from": "x", "message_type": "x", "google.a": "x", "gcm.b": "x",
            }})),
            &[
                ("message.data.n", "must be a string, not a number"),
                ("message.data.z", "must be a string, not null"),
                ("message.data.from", "reserved"),
                ("message.data.message_type", "reserved"),
                ("message.data[\"google.a\"]", "reserved"),
                ("message.data[\"gcm.b\"]", "reserved"),
            ],
        ),
        (
            message(json!({"data": "x"})),
            &[("message.data", "an object")],
        ),
        (
            message(json!({"fcm_options": {"analytics_label": "a b", "image": "x"}})),
            &[
                ("message.fcm_options.analytics_label", "1 to 50"),
                ("message.fcm_options.image", "is not supported"),
            ],
        ),
        (
            message(json!({"android": {
                "ttl": "2419201s", "priority": "urgent", "collapse_key": "", "notification": {}, "direct_boot_ok": true,
            }})),
            &[
                ("message.android.ttl", "2419200"),
                ("message.android.priority", "HIGH or NORMAL"),
                ("message.android.collapse_key", "1 to 64"),
                (
                    "message.android.notification",
                    "ttl, priority, collapse_key",
                ),
                ("message.android.direct_boot_ok", "is not supported"),
            ],
        ),
        (
            message(json!({"android": {"ttl": 60}})),
            &[("message.android.ttl", "must be a string, not a number")],
        ),
        (
            message(json!({"apns": {"payload": {"aps": {}}, "headers": {
                "apns-priority": "9", "apns-expiration": "soon", "apns-collapse-id": "a\nb", "apns-topic": "x",
            }}})),
            &[
                ("message.apns.payload", "supported here: headers"),
                ("message.apns.headers.apns-priority", "\"10\""),
                ("message.apns.headers.apns-expiration", "since 1970"),
                ("message.apns.headers.apns-collapse-id", "'\\n'"),
                ("message.apns.headers.apns-topic", "apns-collapse-id"),
            ],
        ),
        (
            message(json!({"webpush": {"notification": {}, "headers": {
                "TTL": "-1", "Urgency": "urgent", "Topic": "a b", "Image": "x", "X Y": "z", "None": null,
            }}})),
            &[
                ("message.webpush.notification", "supported here: headers"),
                ("message.webpush.headers.TTL", "whole seconds"),
                ("message.webpush.headers.Urgency", "very-low"),
                ("message.webpush.headers.Topic", "1 to 32"),
                ("message.webpush.headers.Image", "TTL, Urgency, Topic"),
                ("message.webpush.headers[\"X Y\"]", "is not supported"),
                ("message.webpush.headers.None", "must be a string"),
            ],
        ),
        (
            message(json!({"webpush": {"headers": {"Urgency": "low", "urgency": "low"}}})),
            &[("message.webpush.headers.Urgency", "more than once")],
        ),
        (
            message(
                json!({"petrel": {"ttl": "60", "urgency": "HIGH", "category": "", "badge": 1}}),
            ),
            &[
                ("message.petrel.ttl", "seconds"),
                ("message.petrel.urgency", "very-low"),
                ("message.petrel.category", "1 to 64"),
                (
                    "message.petrel.badge",
                    "ttl, urgency, collapse_key, category",
                ),
            ],
        ),
    ];
    for (body, expected) in cases {
        check_refused(&body.to_string(), expected);
    }
}

#[test]
fn a_repeated_key_is_refused_wherever_it_stands() {
    for (body, path) in [
        (
            r#"{"message": {"topic": "t"}, "message": {"topic": "t"}}"#,
            "message",
        ),
        (
            r#"{"message": {"topic": "t", "topic": null}}"#,
            "message.topic",
        ),
        (
            r#"{"message": {"topic": "t", "data": {"a": "1", "\u0061": "2"}}}"#,
            "message.data.a",
        ),
        (
            r#"{"message": {"topic": "t", "android": {"collapse_key": "a", "collapseKey": "b"}}}"#,
            "message.android.collapseKey",
        ),
        (
            r#"{"message": {"topic": "t", "apns": {"headers": {"apns-priority": "5", "apns-priority": "5"}}}}"#,
            "message.apns.headers.apns-priority",
        ),
    ] {
        check_refused(body, &[(path, "more than once")]);
    }
}

#[test]
fn the_payload_is_bounded_in_bytes() {
    let sized = |bytes: usize| {
        message(json!({"notification": {"title": "é"}, "data": {"kk": "x".repeat(bytes - 4)}}))
    };
    let at_limit = accepted(&sized(PAYLOAD_BYTES_MAX));
    assert_eq!(at_limit.draft.content.payload_bytes(), PAYLOAD_BYTES_MAX);
    check_refused(
        &sized(PAYLOAD_BYTES_MAX + 1).to_string(),
        &[("message", "Message too big")],
    );
}

#[test]
fn nothing_of_a_token_stands_in_an_error() {
    let token = "SECRETTOKEN";
    for body in [
        json!({"message": {"token": token, "topic": token, "x": token}}),
        json!({"message": {"token": token, "android": {"ttl": token, "priority": token}}}),
        json!({"message": {"topic": format!("{token} "), "petrel": {"urgency": token}}}),
        json!({"message": token}),
    ] {
        let fault = read(&body).err().unwrap();
        assert!(!format!("{fault:?}").contains(token), "{fault:?}");
    }
}
