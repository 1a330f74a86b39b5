//! Bodies that nobody would write: whatever comes, an answer and no panic.

use petrel_protocol::limits::PAYLOAD_BYTES_MAX;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{NOW, message, parse, read};
use crate::api::cause::Cause;

/// Any JSON whose keys and texts are often those that mean something.
fn any_json() -> impl Strategy<Value = Value> {
    let word = || {
        prop_oneof![
            proptest::sample::select(vec![
                "message",
                "token",
                "fid",
                "topic",
                "condition",
                "data",
                "notification",
                "title",
                "android",
                "ttl",
                "priority",
                "collapse_key",
                "collapseKey",
                "apns",
                "webpush",
                "headers",
                "apns-expiration",
                "apns-priority",
                "TTL",
                "Urgency",
                "petrel",
                "urgency",
                "category",
                "fcm_options",
                "validate_only",
                "1.5s",
                "0",
                "high",
                "HIGH",
                "from",
                "gcm.",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ]
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(word(), inner, 0..8)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_accepted_within_bounds_or_refused(inner in any_json(), is_message in any::<bool>()) {
        let body = if is_message { json!({"message": inner}) } else { inner };
        match read(&body) {
            Ok(publish) => {
                prop_assert!(publish.draft.content.payload_bytes() <= PAYLOAD_BYTES_MAX);
            }
            Err(fault) => {
                prop_assert_eq!(fault.cause, Cause::InvalidRequest);
                prop_assert!(!fault.message.is_empty());
                prop_assert!(!fault.message.chars().any(char::is_control));
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_mean_something(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, NOW);
    }

    #[test]
    fn any_cut_or_changed_request_does_no_harm(at in 0_usize..200, byte in any::<u8>(), is_cut in any::<bool>()) {
        let mut body = message(json!({
            "data": {"k": "v"}, "android": {"ttl": "60s"}, "webpush": {"headers": {"TTL": "5"}},
        })).to_string().into_bytes();
        let at = at % body.len();
        if is_cut { body.truncate(at) } else { body[at] = byte }
        let _ = parse(&body, NOW);
    }
}
