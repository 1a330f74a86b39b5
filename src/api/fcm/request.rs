//! From a body to what is published, or to everything that is wrong with it.
//!
//! One pass over the whole request: what cannot be read is reported with its path and the rest is read on. Only texts
//! that are no JSON object end at once. Nothing here looks anything up; whether a token lives is decided later.

use std::collections::BTreeMap;

use petrel_core::{Content, Draft, Notification, UnixMillis};
use petrel_protocol::TopicName;
use petrel_protocol::limits::PAYLOAD_BYTES_MAX;

use super::fields::{Fields, join, must_be};
use super::options::Blocks;
use super::value;
use crate::api::cause::Cause;
use crate::api::fault::{Fault, Violations};
use crate::api::json::Json;
use crate::delivery::Target;

/// What a body asks for.
pub(super) struct Publish {
    pub(super) target: Target,
    /// Where the target stood, for what is found out about it later.
    pub(super) target_field: &'static str,
    pub(super) draft: Draft,
    /// Only check, do not publish.
    pub(super) is_validate_only: bool,
}

/// Reads a body. `now` turns expiry instants into times to live.
///
/// # Errors
/// A [`Fault`] of [`Cause::InvalidRequest`] that names every field that is wrong.
pub(super) fn parse(body: &[u8], now: UnixMillis) -> Result<Publish, Fault> {
    let object = match serde_json::from_slice(body) {
        Ok(Json::Object(object)) => object,
        Ok(other) => {
            let kind = other.kind();
            return Err(invalid(&format!(
                "the body must be a JSON object {{\"message\": …}}, not {kind}"
            )));
        }
        // The error says where and what was expected, never what stands there.
        Err(error) => return Err(invalid(&format!("the body is not JSON: {error}"))),
    };
    let mut violations = Violations::default();
    let mut fields = Fields::root(object);
    let is_validate_only = fields.bool("validate_only", &mut violations) == Some(true);
    let message = match fields.take("message", &mut violations) {
        Some(Json::Object(object)) => {
            let message = Fields::at("message".to_owned(), object);
            read_message(message, now, &mut violations)
        }
        Some(other) => {
            violations.add("message", must_be("an object", &other));
            None
        }
        None => {
            violations.add("message", "is missing");
            None
        }
    };
    fields.finish(&mut violations);
    match message {
        Some((target, target_field, draft)) if violations.is_empty() => Ok(Publish {
            target,
            target_field,
            draft,
            is_validate_only,
        }),
        _ => Err(Fault::violations(
            Cause::InvalidRequest,
            violations.into_list(),
        )),
    }
}

fn invalid(message: &str) -> Fault {
    Fault::with_message(Cause::InvalidRequest, message)
}

/// `None` where the target is wrong, which is then reported.
fn read_message(
    mut fields: Fields,
    now: UnixMillis,
    violations: &mut Violations,
) -> Option<(Target, &'static str, Draft)> {
    let target = target(&mut fields, violations);
    let notification = fields
        .object("notification", violations)
        .and_then(|block| notification(block, violations));
    let data = fields
        .object("data", violations)
        .map_or_else(BTreeMap::new, |block| data(block, violations));
    if let Some(mut options) = fields.object("fcm_options", violations) {
        // Accepted because SDKs set it; there are no reports yet that it could label.
        options.parsed("analytics_label", violations, value::analytics_label);
        options.finish(violations);
    }
    let blocks = Blocks::take(&mut fields, now, violations);
    let path = fields.path().to_owned();
    fields.finish(violations);

    let options = blocks.resolve(notification.is_some());
    let content = Content {
        notification,
        data,
        category: blocks.category,
        badge: None,
    };
    let payload_bytes = content.payload_bytes();
    if payload_bytes > PAYLOAD_BYTES_MAX {
        violations.add(
            path,
            format!(
                "Message too big: data keys and values and notification texts have {payload_bytes} bytes, at most \
                 {PAYLOAD_BYTES_MAX} are allowed"
            ),
        );
    }
    let (target, target_field) = target?;
    Some((target, target_field, Draft { content, options }))
}

/// Exactly one of `token`, `fid` (the same by its newer name) and `topic`.
fn target(fields: &mut Fields, violations: &mut Violations) -> Option<(Target, &'static str)> {
    let mut given = Vec::new();
    let mut target = None;
    for (name, path) in [("token", "message.token"), ("fid", "message.fid")] {
        if let Some(value) = fields.take(name, violations) {
            given.push(name);
            match value {
                Json::String(token) if !token.is_empty() => {
                    target = Some((Target::Token(token), path));
                }
                Json::String(_) => violations.add(path, "is empty"),
                other => violations.add(path, must_be("a string", &other)),
            }
        }
    }
    if let Some(value) = fields.take("topic", violations) {
        given.push("topic");
        match value {
            Json::String(text) => {
                let name = text.strip_prefix("/topics/").unwrap_or(&text);
                match TopicName::parse(name) {
                    Ok(topic) => target = Some((Target::Topic(topic), "message.topic")),
                    Err(error) => violations.add("message.topic", error.to_string()),
                }
            }
            other => violations.add("message.topic", must_be("a string", &other)),
        }
    }
    if fields.refuse(
        "condition",
        "is not supported yet; send to a topic",
        violations,
    ) {
        given.push("condition");
    }
    match given.len() {
        0 => violations.add("message", "has no target: set one of token, fid, topic"),
        1 => {}
        _ => violations.add(
            "message",
            format!(
                "has more than one target: {}; set only one",
                given.join(", ")
            ),
        ),
    }
    target
}

/// `None` for a block without any text: nothing could be shown.
fn notification(mut fields: Fields, violations: &mut Violations) -> Option<Notification> {
    let notification = Notification {
        title: fields.string("title", violations),
        body: fields.string("body", violations),
        image: fields.string("image", violations),
    };
    fields.finish(violations);
    (notification != Notification::default()).then_some(notification)
}

fn data(fields: Fields, violations: &mut Violations) -> BTreeMap<String, String> {
    let path = fields.path().to_owned();
    let data = fields.into_strings(violations);
    for (key, _) in &data {
        let is_reserved = ["from", "message_type"].contains(&key.as_str())
            || ["google.", "gcm."].iter().any(|p| key.starts_with(p));
        if is_reserved {
            violations.add(
                join(&path, key),
                "is a reserved key: from, message_type, google.*, gcm.*; choose another",
            );
        }
    }
    data.into_iter().collect()
}
