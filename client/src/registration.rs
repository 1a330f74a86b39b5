//! What a client remembers of its registration, as the storage keeps it: one JSON text.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use petrel_protocol::{DeviceSecret, DeviceToken, MessageId};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::device::Attributes;
use crate::error::StartError;
use crate::keep_alive::Networks;
use crate::message::id_text;

/// Where a subscription stands between the app's wish and the broker's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Membership {
    /// Asked for; asked again at each session until the broker answers.
    Joining,
    /// The broker said yes.
    Joined,
    /// To be ended; asked again at each session until the broker answers.
    Leaving,
}

/// Everything but messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Registration {
    pub(crate) project: String,
    /// Stored before its first use: when the answer to `Register` is lost, the repeat gives the same token (PROTO-15).
    pub(crate) secret: Secret,
    /// The secret that a rotation is about to put in place. While it is here, either may be the valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_secret: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The token that died and that the app was not told of yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<String>,
    #[serde(with = "id_text")]
    pub(crate) cursor: MessageId,
    #[serde(default)]
    pub(crate) keep_alive_seconds: u32,
    #[serde(default)]
    pub(crate) topics: BTreeMap<String, Membership>,
    /// What the broker was told last.
    #[serde(default)]
    pub(crate) attributes: Option<Attributes>,
    /// How long each network may be left silent. Of the device, not of the registration, but it lives as long.
    #[serde(default, skip_serializing_if = "Networks::is_empty")]
    pub(crate) networks: Networks,
}

impl Registration {
    /// A registration that the broker does not know of yet.
    pub(crate) fn new(project: &str) -> Result<Self, StartError> {
        Ok(Self {
            project: project.to_owned(),
            secret: Secret::random()?,
            next_secret: None,
            token: None,
            previous: None,
            cursor: MessageId::ZERO,
            keep_alive_seconds: 0,
            topics: BTreeMap::new(),
            attributes: None,
            networks: Networks::default(),
        })
    }

    /// The registration that takes the place of one that the broker refused: new secret, same wishes (PROTO-18).
    pub(crate) fn renewed(&self) -> Result<Self, StartError> {
        let mut anew = Self::new(&self.project)?;
        anew.previous = self.token.clone().or_else(|| self.previous.clone());
        anew.networks = self.networks.clone();
        anew.topics = self
            .topics
            .iter()
            .filter(|(_, membership)| **membership != Membership::Leaving)
            .map(|(topic, _)| (topic.clone(), Membership::Joining))
            .collect();
        Ok(anew)
    }

    pub(crate) fn token(&self) -> Option<DeviceToken> {
        self.token.as_deref().map(DeviceToken::from_text)
    }

    pub(crate) fn to_json(&self) -> Result<Zeroizing<String>, serde_json::Error> {
        serde_json::to_string(self).map(Zeroizing::new)
    }
}

/// A secret that can be stored. Never printed.
#[derive(Clone, PartialEq)]
pub(crate) struct Secret(pub(crate) DeviceSecret);

impl Secret {
    /// 32 bytes of the operating system's randomness (PROTO-14).
    pub(crate) fn random() -> Result<Self, StartError> {
        let mut bytes = Zeroizing::new([0; petrel_protocol::limits::SECRET_BYTES]);
        OsRng
            .try_fill_bytes(bytes.as_mut())
            .map_err(|e| StartError::Random(e.to_string()))?;
        Ok(Self(DeviceSecret::new(*bytes)))
    }

    pub(crate) fn to_wire(&self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Zeroizing::new(STANDARD_NO_PAD.encode(self.0.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = Zeroizing::new(String::deserialize(from)?);
        let bytes = STANDARD_NO_PAD
            .decode(text.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| D::Error::custom("a secret is base64"))?;
        DeviceSecret::from_slice(&bytes)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_reads_back_and_does_not_show_its_secret() {
        let mut registration = Registration::new("demo").unwrap();
        registration.token = Some("t".into());
        registration.topics.insert("a".into(), Membership::Joined);
        let json = registration.to_json().unwrap();
        let back: Registration = serde_json::from_str(&json).unwrap();
        assert_eq!(back, registration);
        assert!(format!("{registration:?}").contains("Secret(..)"));
    }

    #[test]
    fn damaged_networks_do_not_cost_the_registration() {
        let registration = Registration::new("demo").unwrap();
        let json = registration.to_json().unwrap();
        for networks in ["3", "[{\"id\":7}]", "null", "{\"a\":[]}"] {
            let damaged = json.replacen('{', &format!("{{\"networks\":{networks},"), 1);
            let read: Registration = serde_json::from_str(&damaged).unwrap();
            assert_eq!(read, registration, "{networks}");
        }
    }

    #[test]
    fn a_renewed_one_has_another_secret_and_asks_for_its_topics_again() {
        let mut old = Registration::new("demo").unwrap();
        old.token = Some("old".into());
        old.topics.insert("stay".into(), Membership::Joined);
        old.topics.insert("go".into(), Membership::Leaving);
        let new = old.renewed().unwrap();
        assert!(new.secret != old.secret && new.token.is_none());
        assert_eq!(new.previous.as_deref(), Some("old"));
        assert_eq!(
            new.topics,
            [("stay".to_owned(), Membership::Joining)].into()
        );
        // Refused once more before it ever got a token: the token that died stays the one to tell of.
        assert_eq!(new.renewed().unwrap().previous.as_deref(), Some("old"));
    }
}
