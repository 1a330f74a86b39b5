//! How a message wants to be delivered, out of up to four blocks that may say it.
//!
//! `message.android` gives the defaults for every platform; the headers in `message.apns` and `message.webpush`
//! override them for theirs, field by field; `message.petrel` overrides all of them everywhere. Where nobody says
//! how urgent a message is, one with a notification is high and one with data only is normal, as in FCM.

use petrel_core::{DraftOptions, PerPlatform, Ttl, UnixMillis};
use petrel_protocol::{Category, CollapseKey, Urgency};

use super::fields::Fields;
use super::header::Headers;
use super::value;
use crate::api::fault::Violations;

/// What one block says; what it leaves open stays as it was.
#[derive(Clone, Default)]
struct Block {
    ttl: Option<Ttl>,
    urgency: Option<Urgency>,
    collapse_key: Option<CollapseKey>,
}

impl Block {
    fn over(&self, base: &DraftOptions) -> DraftOptions {
        DraftOptions {
            ttl: self.ttl.unwrap_or(base.ttl),
            urgency: self.urgency.unwrap_or(base.urgency),
            collapse_key: self
                .collapse_key
                .clone()
                .or_else(|| base.collapse_key.clone()),
        }
    }
}

/// All blocks of one message.
pub(super) struct Blocks {
    android: Block,
    apns: Block,
    webpush: Block,
    petrel: Block,
    /// The category, which only Petrel's own block can say.
    pub(super) category: Option<Category>,
}

impl Blocks {
    /// Takes the blocks out of a message.
    pub(super) fn take(message: &mut Fields, now: UnixMillis, violations: &mut Violations) -> Self {
        let mut category = None;
        Self {
            android: message
                .object("android", violations)
                .map_or_else(Block::default, |block| android(block, violations)),
            apns: message
                .object("apns", violations)
                .map_or_else(Block::default, |block| apns(block, now, violations)),
            webpush: message
                .object("webpush", violations)
                .map_or_else(Block::default, |block| webpush(block, violations)),
            petrel: message
                .object("petrel", violations)
                .map_or_else(Block::default, |block| {
                    petrel(block, &mut category, violations)
                }),
            category,
        }
    }

    /// The outcome for each platform. A platform for which nothing differs gets no entry of its own, so that it
    /// shares the encoded frame.
    pub(super) fn resolve(&self, has_notification: bool) -> PerPlatform<DraftOptions> {
        let unsaid = DraftOptions {
            urgency: if has_notification {
                Urgency::High
            } else {
                Urgency::Normal
            },
            ..DraftOptions::default()
        };
        let base = self.android.over(&unsaid);
        let common = self.petrel.over(&base);
        let differing = |block: &Block| {
            let options = self.petrel.over(&block.over(&base));
            (options != common).then_some(options)
        };
        PerPlatform {
            ios: differing(&self.apns),
            web: differing(&self.webpush),
            common,
        }
    }
}

fn android(mut fields: Fields, violations: &mut Violations) -> Block {
    let block = Block {
        ttl: fields.parsed("ttl", violations, value::duration),
        urgency: fields.parsed("priority", violations, value::android_priority),
        collapse_key: fields.parsed("collapse_key", violations, value::collapse_key),
    };
    fields.finish(violations);
    block
}

fn apns(mut fields: Fields, now: UnixMillis, violations: &mut Violations) -> Block {
    let mut block = Block::default();
    if let Some(mut headers) = Headers::take(&mut fields, violations) {
        block = Block {
            ttl: headers.parsed("apns-expiration", violations, |text| {
                value::apns_expiration(text, now)
            }),
            urgency: headers.parsed("apns-priority", violations, value::apns_priority),
            collapse_key: headers.parsed("apns-collapse-id", violations, value::collapse_key),
        };
        headers.finish(violations);
    }
    fields.finish(violations);
    block
}

fn webpush(mut fields: Fields, violations: &mut Violations) -> Block {
    let mut block = Block::default();
    if let Some(mut headers) = Headers::take(&mut fields, violations) {
        block = Block {
            ttl: headers.parsed("TTL", violations, value::webpush_ttl),
            urgency: headers.parsed("Urgency", violations, value::urgency),
            collapse_key: headers.parsed("Topic", violations, value::webpush_topic),
        };
        headers.finish(violations);
    }
    fields.finish(violations);
    block
}

fn petrel(
    mut fields: Fields,
    category: &mut Option<Category>,
    violations: &mut Violations,
) -> Block {
    let block = Block {
        ttl: fields.parsed("ttl", violations, value::duration),
        urgency: fields.parsed("urgency", violations, value::urgency),
        collapse_key: fields.parsed("collapse_key", violations, value::collapse_key),
    };
    *category = fields.parsed("category", violations, |text| {
        Category::parse(text).map_err(|error| error.to_string())
    });
    fields.finish(violations);
    block
}
