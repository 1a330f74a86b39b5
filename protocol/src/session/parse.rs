//! Frames from a device, parsed into types whose values are all valid (PROTO-12 to PROTO-18).

use std::collections::BTreeMap;

use crate::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, LOCALE_BYTES_MAX,
    MUTED_CATEGORIES_MAX, SHORT_TEXT_BYTES_MAX,
};
use crate::{
    Category, DeviceSecret, DeviceToken, ErrorCode, MessageId, Platform, TopicName, Urgency, wire,
};

/// A field of a frame is outside its bounds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    /// Frame and field, as in `Register.secret`.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub problem: String,
    /// The code that answers it.
    pub code: ErrorCode,
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidField {
    InvalidField {
        field,
        problem: problem.into(),
        code: ErrorCode::InvalidArgument,
    }
}

fn bounded(field: &'static str, text: String, max: usize) -> Result<String, InvalidField> {
    if text.len() <= max {
        Ok(text)
    } else {
        Err(invalid(
            field,
            format!("has {} bytes, at most {max} are allowed", text.len()),
        ))
    }
}

fn secret(field: &'static str, bytes: &[u8]) -> Result<DeviceSecret, InvalidField> {
    DeviceSecret::from_slice(bytes).map_err(|e| invalid(field, e.to_string()))
}

/// The first frame of a session (PROTO-12).
#[derive(Debug)]
pub enum Opening {
    /// Resume a registration.
    Hello(Hello),
    /// Make a registration.
    Register(Box<Register>),
}

/// `Hello`, checked.
#[derive(Debug)]
pub struct Hello {
    /// Which registration.
    pub token: DeviceToken,
    /// Its proof.
    pub secret: DeviceSecret,
    /// What the device believes to be settled; a hint.
    pub cursor: Option<MessageId>,
    /// Messages below are held back.
    pub minimum_urgency: Urgency,
    /// Name and version of the SDK.
    pub sdk: String,
}

/// `Register`, checked.
#[derive(Debug)]
pub struct Register {
    /// Name of the project.
    pub project: String,
    /// A key of the project for its apps.
    pub app_key: String,
    /// The device's secret.
    pub secret: DeviceSecret,
    /// Kind of device.
    pub platform: Platform,
    /// What else it says of itself.
    pub attributes: Attributes,
    /// Messages below are held back.
    pub minimum_urgency: Urgency,
    /// Name and version of the SDK.
    pub sdk: String,
}

/// What a device says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// BCP 47 tag.
    pub locale: String,
    /// IANA time zone.
    pub time_zone: String,
    /// Version of the app.
    pub app_version: String,
    /// The publisher's name for the user.
    pub user: String,
    /// Free attributes.
    pub free: BTreeMap<String, String>,
}

impl Attributes {
    fn check(self) -> Result<Self, InvalidField> {
        let (name_max, value_max) = (ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX);
        if self.free.len() > ATTRIBUTES_MAX {
            return Err(invalid(
                "attributes",
                format!(
                    "{} of them, at most {ATTRIBUTES_MAX} are allowed",
                    self.free.len()
                ),
            ));
        }
        for (name, value) in &self.free {
            if name.is_empty() || name.len() > name_max || value.len() > value_max {
                return Err(invalid(
                    "attributes",
                    format!("names have 1 to {name_max} bytes, values at most {value_max}"),
                ));
            }
        }
        Ok(Self {
            locale: bounded("locale", self.locale, LOCALE_BYTES_MAX)?,
            time_zone: bounded("time_zone", self.time_zone, SHORT_TEXT_BYTES_MAX)?,
            app_version: bounded("app_version", self.app_version, SHORT_TEXT_BYTES_MAX)?,
            user: bounded("user", self.user, value_max)?,
            free: self.free,
        })
    }
}

impl Opening {
    pub(super) fn hello(frame: wire::Hello) -> Result<Self, InvalidField> {
        Ok(Self::Hello(Hello {
            token: DeviceToken::from_text(&frame.token),
            secret: secret("Hello.secret", &frame.secret)?,
            cursor: frame.cursor.map(Into::into),
            minimum_urgency: Urgency::minimum_from_wire(frame.minimum_urgency),
            sdk: bounded("Hello.sdk", frame.sdk, SHORT_TEXT_BYTES_MAX)?,
        }))
    }

    pub(super) fn register(frame: wire::Register) -> Result<Self, InvalidField> {
        Ok(Self::Register(Box::new(Register {
            project: bounded("Register.project", frame.project, SHORT_TEXT_BYTES_MAX)?,
            app_key: bounded("Register.app_key", frame.app_key, ATTRIBUTE_VALUE_BYTES_MAX)?,
            secret: secret("Register.secret", &frame.secret)?,
            platform: Platform::from_wire(frame.platform),
            attributes: Attributes {
                locale: frame.locale,
                time_zone: frame.time_zone,
                app_version: frame.app_version,
                user: frame.user,
                free: frame.attributes,
            }
            .check()?,
            minimum_urgency: Urgency::minimum_from_wire(frame.minimum_urgency),
            sdk: bounded("Register.sdk", frame.sdk, SHORT_TEXT_BYTES_MAX)?,
        })))
    }
}

/// A frame that is answered with a `Result` of the same number (PROTO-20).
#[derive(Debug)]
pub struct Request {
    /// The device's number for it.
    pub number: u32,
    /// What is asked for, or why it cannot be.
    pub body: Result<RequestBody, InvalidField>,
}

/// What a device asks for.
#[derive(Debug)]
pub enum RequestBody {
    /// Replace the secret.
    Rotate(DeviceSecret),
    /// Join a topic.
    Subscribe(TopicName),
    /// Leave a topic.
    Unsubscribe(TopicName),
    /// Replace the attributes.
    SetAttributes(Attributes),
    /// End the registration.
    Unregister,
}

fn topic(field: &'static str, text: &str) -> Result<TopicName, InvalidField> {
    TopicName::parse(text).map_err(|e| InvalidField {
        field,
        problem: e.to_string(),
        code: ErrorCode::InvalidTopic,
    })
}

impl Request {
    pub(super) fn rotate(frame: &wire::Rotate) -> Self {
        Self {
            number: frame.request,
            body: secret("Rotate.secret", &frame.secret).map(RequestBody::Rotate),
        }
    }

    pub(super) fn subscribe(frame: &wire::Subscribe) -> Self {
        Self {
            number: frame.request,
            body: topic("Subscribe.topic", &frame.topic).map(RequestBody::Subscribe),
        }
    }

    pub(super) fn unsubscribe(frame: &wire::Unsubscribe) -> Self {
        Self {
            number: frame.request,
            body: topic("Unsubscribe.topic", &frame.topic).map(RequestBody::Unsubscribe),
        }
    }

    pub(super) fn set_attributes(frame: wire::SetAttributes) -> Self {
        let attributes = Attributes {
            locale: frame.locale,
            time_zone: frame.time_zone,
            app_version: frame.app_version,
            user: frame.user,
            free: frame.attributes,
        };
        Self {
            number: frame.request,
            body: attributes.check().map(RequestBody::SetAttributes),
        }
    }

    pub(super) fn unregister(frame: &wire::Unregister) -> Self {
        Self {
            number: frame.request,
            body: Ok(RequestBody::Unregister),
        }
    }
}

/// `SetState`, checked: what is `None` stays as it was (PROTO-22).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateChange {
    /// Whether the app is in the foreground.
    pub foreground: Option<bool>,
    /// Whether the user allows notifications.
    pub notifications_allowed: Option<bool>,
    /// All categories that the user muted.
    pub muted: Option<Vec<Category>>,
    /// Battery charge in per cent, 0 to 100.
    pub battery_percent: Option<u8>,
    /// Whether traffic costs the user money.
    pub metered: Option<bool>,
    /// Messages below are held back.
    pub minimum_urgency: Option<Urgency>,
}

impl StateChange {
    pub(super) fn parse(frame: &wire::SetState) -> Result<Self, InvalidField> {
        let muted = if frame.muted_known {
            if frame.muted_categories.len() > MUTED_CATEGORIES_MAX {
                return Err(invalid(
                    "SetState.muted_categories",
                    format!("at most {MUTED_CATEGORIES_MAX} are allowed"),
                ));
            }
            let categories: Result<Vec<_>, _> = frame
                .muted_categories
                .iter()
                .map(|c| Category::parse(c))
                .collect();
            Some(categories.map_err(|e| invalid("SetState.muted_categories", e.to_string()))?)
        } else {
            None
        };
        let battery_percent = match frame.battery_percent.map(u8::try_from) {
            None => None,
            Some(Ok(percent)) if percent <= 100 => Some(percent),
            Some(_) => return Err(invalid("SetState.battery_percent", "0 to 100 are allowed")),
        };
        Ok(Self {
            foreground: frame.foreground,
            notifications_allowed: frame.notifications_allowed,
            muted,
            battery_percent,
            metered: frame.metered,
            minimum_urgency: frame.minimum_urgency.map(Urgency::minimum_from_wire),
        })
    }
}
