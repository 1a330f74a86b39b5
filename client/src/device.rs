//! What an app says of its device: attributes, state, and reports on messages. Checked here, before anything is sent.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use petrel_protocol::wire::{self, event::Kind, to_broker};
use petrel_protocol::{Category, MessageId, Urgency, limits};
use serde::{Deserialize, Serialize};

/// What the broker may know of the device and its user. Replaces what was said before, as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// BCP 47 tag, such as `de-CH`; at most 35 bytes.
    pub locale: String,
    /// IANA name, such as `Europe/Zurich`; at most 64 bytes.
    pub time_zone: String,
    /// The app's version; at most 64 bytes.
    pub app_version: String,
    /// The publisher's name for the user; at most 256 bytes.
    pub user: String,
    /// Free attributes: at most 32, names of 1 to 64 bytes, values of at most 256.
    pub free: BTreeMap<String, String>,
}

impl Attributes {
    /// PROTO-17: names the field that is out of bounds, and what is allowed.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        use limits::{ATTRIBUTE_NAME_BYTES_MAX as NAME, ATTRIBUTE_VALUE_BYTES_MAX as VALUE};
        bounded("locale", &self.locale, limits::LOCALE_BYTES_MAX)?;
        bounded("time_zone", &self.time_zone, limits::SHORT_TEXT_BYTES_MAX)?;
        bounded(
            "app_version",
            &self.app_version,
            limits::SHORT_TEXT_BYTES_MAX,
        )?;
        bounded("user", &self.user, VALUE)?;
        if self.free.len() > limits::ATTRIBUTES_MAX {
            let problem = format!(
                "{} of them, at most {} are allowed",
                self.free.len(),
                limits::ATTRIBUTES_MAX
            );
            return Err(("attributes", problem));
        }
        for (name, value) in &self.free {
            if name.is_empty() || name.len() > NAME || value.len() > VALUE {
                let problem =
                    format!("{name:?}: names have 1 to {NAME} bytes, values at most {VALUE}");
                return Err(("attributes", problem));
            }
        }
        Ok(())
    }

    pub(crate) fn to_frame(&self, request: u32) -> to_broker::Frame {
        to_broker::Frame::SetAttributes(wire::SetAttributes {
            request,
            locale: self.locale.clone(),
            time_zone: self.time_zone.clone(),
            app_version: self.app_version.clone(),
            user: self.user.clone(),
            attributes: self.free.clone(),
        })
    }
}

pub(crate) fn bounded(
    field: &'static str,
    text: &str,
    max: usize,
) -> Result<(), (&'static str, String)> {
    if text.len() <= max {
        Ok(())
    } else {
        Err((
            field,
            format!("has {} bytes, at most {max} are allowed", text.len()),
        ))
    }
}

/// How the device stands now. `None` leaves what was said before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceState {
    /// Whether the app is in the foreground.
    pub foreground: Option<bool>,
    /// Whether the user allows notifications.
    pub notifications_allowed: Option<bool>,
    /// All categories that the user muted: at most 64, of 1 to 64 bytes. Replaces the former list.
    pub muted_categories: Option<Vec<String>>,
    /// Battery charge in per cent, 0 to 100.
    pub battery_percent: Option<u8>,
    /// Whether traffic costs the user money.
    pub metered: Option<bool>,
    /// Messages below this urgency are held back from now on, at the next sessions of this client too.
    pub minimum_urgency: Option<Urgency>,
}

impl DeviceState {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.battery_percent.is_some_and(|percent| percent > 100) {
            return Err("battery_percent: 0 to 100 are allowed".into());
        }
        let muted = self.muted_categories.as_deref().unwrap_or_default();
        if muted.len() > limits::MUTED_CATEGORIES_MAX {
            return Err(format!(
                "muted_categories: at most {} are allowed",
                limits::MUTED_CATEGORIES_MAX
            ));
        }
        for category in muted {
            Category::parse(category).map_err(|e| format!("muted_categories: {e}"))?;
        }
        Ok(())
    }

    /// Adds what `newer` says to what was said before.
    pub(crate) fn merge(&mut self, newer: Self) {
        fn take<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        take(&mut self.foreground, newer.foreground);
        take(&mut self.notifications_allowed, newer.notifications_allowed);
        take(&mut self.muted_categories, newer.muted_categories);
        take(&mut self.battery_percent, newer.battery_percent);
        take(&mut self.metered, newer.metered);
        take(&mut self.minimum_urgency, newer.minimum_urgency);
    }

    pub(crate) fn to_frame(&self) -> to_broker::Frame {
        to_broker::Frame::SetState(wire::SetState {
            foreground: self.foreground,
            notifications_allowed: self.notifications_allowed,
            muted_categories: self.muted_categories.clone().unwrap_or_default(),
            muted_known: self.muted_categories.is_some(),
            battery_percent: self.battery_percent.map(u32::from),
            metered: self.metered,
            minimum_urgency: self.minimum_urgency.map(|u| u.to_wire() as i32),
        })
    }
}

/// What became of a message on the device, for the publisher's receipts.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Report {
    /// The user could see it.
    Displayed(MessageId),
    /// The user opened it.
    Opened(MessageId),
    /// The user dismissed it.
    Dismissed(MessageId),
    /// The user chose one of its actions.
    Action {
        /// Of which message.
        id: MessageId,
        /// Which action; at most 64 bytes.
        action: String,
    },
    /// The user muted a category, of at most 64 bytes.
    Muted(String),
    /// The user unmuted a category.
    Unmuted(String),
    /// The app's badge was cleared.
    BadgeCleared,
}

impl Report {
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Action { action, .. } => bounded("action", action, limits::SHORT_TEXT_BYTES_MAX)
                .map_err(|(f, p)| format!("{f}: {p}")),
            Self::Muted(category) | Self::Unmuted(category) => Category::parse(category)
                .map(drop)
                .map_err(|e| e.to_string()),
            _ => Ok(()),
        }
    }

    pub(crate) fn into_frame(self, at_ms: u64) -> to_broker::Frame {
        let (kind, message, action, category) = match self {
            Self::Displayed(id) => (Kind::Displayed, Some(id), None, None),
            Self::Opened(id) => (Kind::Opened, Some(id), None, None),
            Self::Dismissed(id) => (Kind::Dismissed, Some(id), None, None),
            Self::Action { id, action } => (Kind::Action, Some(id), Some(action), None),
            Self::Muted(category) => (Kind::Muted, None, None, Some(category)),
            Self::Unmuted(category) => (Kind::Unmuted, None, None, Some(category)),
            Self::BadgeCleared => (Kind::BadgeCleared, None, None, None),
        };
        to_broker::Frame::Event(wire::Event {
            kind: kind as i32,
            message: message.map(Into::into),
            action: action.unwrap_or_default(),
            category: category.unwrap_or_default(),
            at_ms,
        })
    }
}

/// The device's clock, in milliseconds since 1970; 0 before that.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_checked_at_the_limit_and_one_past_it() {
        let with = |user: usize| Attributes {
            user: "u".repeat(user),
            ..Attributes::default()
        };
        assert!(with(256).check().is_ok());
        assert_eq!(with(257).check().unwrap_err().0, "user");
        let free = |count: usize| Attributes {
            free: (0..count).map(|i| (i.to_string(), String::new())).collect(),
            ..Attributes::default()
        };
        assert!(free(32).check().is_ok());
        assert_eq!(free(33).check().unwrap_err().0, "attributes");
        let nameless = Attributes {
            free: [(String::new(), "v".into())].into(),
            ..Attributes::default()
        };
        assert!(nameless.check().is_err());
    }

    #[test]
    fn a_state_keeps_what_the_next_one_does_not_say() {
        let mut state = DeviceState {
            foreground: Some(true),
            battery_percent: Some(50),
            ..DeviceState::default()
        };
        state.merge(DeviceState {
            battery_percent: Some(49),
            ..DeviceState::default()
        });
        assert_eq!(
            (state.foreground, state.battery_percent),
            (Some(true), Some(49))
        );
        let full = DeviceState {
            battery_percent: Some(101),
            ..DeviceState::default()
        };
        assert!(full.check().is_err());
    }
}
