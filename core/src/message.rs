//! What was accepted from a publisher.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use petrel_protocol::wire::{self, badge, to_device};
use petrel_protocol::{Category, MessageId, Ordinal, Platform, ProjectId, TopicName, codec};

use crate::{DraftOptions, Options, PerPlatform, UnixMillis};

/// Whom a message is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// One device.
    Device(Ordinal),
    /// The subscribers of a topic at acceptance.
    Topic(TopicName),
}

/// What a user is shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notification {
    /// First line.
    pub title: Option<String>,
    /// Text.
    pub body: Option<String>,
    /// Address of a picture.
    pub image: Option<String>,
}

/// What becomes of the app's badge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Badge {
    /// It becomes this number.
    Set(u32),
    /// It grows by this number.
    Increment(u32),
}

/// What a message carries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// What to show.
    pub notification: Option<Notification>,
    /// The publisher's keys and values.
    pub data: BTreeMap<String, String>,
    /// What the user may mute.
    pub category: Option<Category>,
    /// What becomes of the badge.
    pub badge: Option<Badge>,
}

impl Content {
    /// UTF-8 bytes of data keys and values and notification strings: what the payload limit counts.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let data: usize = self.data.iter().map(|(k, v)| k.len() + v.len()).sum();
        let shown: usize = self.notification.as_ref().map_or(0, |n| {
            [&n.title, &n.body, &n.image]
                .into_iter()
                .flatten()
                .map(String::len)
                .sum()
        });
        data + shown
    }
}

/// A message before it has an id: the one form that every dialect of the publish API ends in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What it carries.
    pub content: Content,
    /// How it wants to be delivered.
    pub options: PerPlatform<DraftOptions>,
}

impl Draft {
    /// Gives it its id and fixes its deadlines.
    #[must_use]
    pub fn accept(
        self,
        id: MessageId,
        project: ProjectId,
        address: Address,
        now: UnixMillis,
    ) -> Message {
        Message {
            id,
            project,
            address,
            content: self.content,
            options: self.options.map(|o| o.accept(now)),
            accepted_at: now,
            frames: Default::default(),
        }
    }
}

/// An accepted message, neutral of platform. Frames are encoded on demand, once for each distinct platform block.
#[derive(Debug)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// Whose it is.
    pub project: ProjectId,
    /// Whom it is for.
    pub address: Address,
    /// What it carries.
    pub content: Content,
    /// How it wants to be delivered.
    pub options: PerPlatform<Options>,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
    pub(crate) frames: [OnceLock<Bytes>; 3],
}

impl Message {
    /// How it wants to be delivered to a platform.
    #[must_use]
    pub fn options(&self, platform: Platform) -> &Options {
        self.options.on(platform)
    }

    /// Whether it is worthless on a platform by now. One with time to live 0 expires the moment it was accepted.
    #[must_use]
    pub fn is_expired(&self, platform: Platform, now: UnixMillis) -> bool {
        self.options(platform).deadline <= now
    }

    /// Whether it goes out at once or never on a platform.
    #[must_use]
    pub fn is_now_or_never(&self, platform: Platform) -> bool {
        self.options(platform).deadline <= self.accepted_at
    }

    /// The same message with nothing to say: what is kept of one that a log has let go of.
    #[must_use]
    pub fn without_content(&self) -> Self {
        Self {
            id: self.id,
            project: self.project,
            address: self.address.clone(),
            content: Content::default(),
            options: self.options.clone(),
            accepted_at: self.accepted_at,
            frames: Default::default(),
        }
    }

    /// When no platform has any use for it any more.
    #[must_use]
    pub fn last_deadline(&self) -> UnixMillis {
        self.options
            .variants()
            .into_iter()
            .flatten()
            .map(|o| o.deadline)
            .max()
            .unwrap_or(self.accepted_at)
    }

    /// The `Deliver` frame for a platform, length prefix included, shared by all its recipients.
    #[must_use]
    pub fn frame(&self, platform: Platform) -> Bytes {
        let variant = PerPlatform::<Options>::variant(platform);
        let (variant, options) = match self.options.variants()[variant] {
            Some(options) => (variant, options),
            None => (0, &self.options.common),
        };
        self.frames[variant]
            .get_or_init(|| self.encode(options))
            .clone()
    }

    fn encode(&self, options: &Options) -> Bytes {
        let now_or_never = options.deadline <= self.accepted_at;
        codec::encode_to_device(to_device::Frame::Deliver(wire::Deliver {
            id: Some(self.id.into()),
            topic: match &self.address {
                Address::Topic(topic) => topic.as_str().into(),
                Address::Device(_) => String::new(),
            },
            condition: String::new(),
            notification: self
                .content
                .notification
                .as_ref()
                .map(|n| wire::Notification {
                    title: n.title.clone(),
                    body: n.body.clone(),
                    image: n.image.clone(),
                }),
            data: self.content.data.clone(),
            urgency: options.urgency.to_wire() as i32,
            collapse_key: options
                .collapse_key
                .as_ref()
                .map_or_else(String::new, |k| k.as_str().into()),
            category: self
                .content
                .category
                .as_ref()
                .map_or_else(String::new, |c| c.as_str().into()),
            badge: self.content.badge.map(|b| wire::Badge {
                change: Some(match b {
                    Badge::Set(n) => badge::Change::Set(n),
                    Badge::Increment(n) => badge::Change::Increment(n),
                }),
            }),
            accepted_at_ms: self.accepted_at.0,
            expires_at_ms: if now_or_never { 0 } else { options.deadline.0 },
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use petrel_protocol::Urgency;

    use super::*;
    use crate::Ttl;

    fn draft(ios_urgency: Option<Urgency>) -> Draft {
        let common = DraftOptions {
            ttl: Ttl::new(Duration::from_secs(60)).unwrap(),
            ..DraftOptions::default()
        };
        let ios = ios_urgency.map(|urgency| DraftOptions {
            urgency,
            ..common.clone()
        });
        Draft {
            content: Content {
                data: BTreeMap::from([("k".into(), "värt".into())]),
                notification: Some(Notification {
                    title: Some("hi".into()),
                    ..Notification::default()
                }),
                ..Content::default()
            },
            options: PerPlatform {
                common,
                ios,
                web: None,
            },
        }
    }

    fn accept(draft: Draft) -> Message {
        let id = MessageId {
            epoch: 1,
            sequence: 2,
        };
        let address = Address::Device(Ordinal(3));
        draft.accept(id, ProjectId(1), address, UnixMillis(1000))
    }

    #[test]
    fn the_payload_counts_utf8_bytes() {
        assert_eq!(draft(None).content.payload_bytes(), 1 + 5 + 2);
    }

    #[test]
    fn platforms_without_a_block_share_one_frame() {
        let message = accept(draft(Some(Urgency::High)));
        let android = message.frame(Platform::Android);
        assert_eq!(android.as_ptr(), message.frame(Platform::Web).as_ptr());
        assert_eq!(android.as_ptr(), message.frame(Platform::Other).as_ptr());
        assert_ne!(android, message.frame(Platform::Ios));
    }

    #[test]
    fn the_deadline_is_fixed_at_acceptance() {
        let message = accept(draft(None));
        assert!(!message.is_expired(Platform::Ios, UnixMillis(60_999)));
        assert!(message.is_expired(Platform::Ios, UnixMillis(61_000)));
        assert!(!message.is_now_or_never(Platform::Ios));
        assert_eq!(message.last_deadline(), UnixMillis(61_000));
    }
}
