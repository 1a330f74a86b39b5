//! Device tokens: opaque addresses that seal (key, project, ordinal).
//!
//! A token is base64url, without padding, of a key id and 24 bytes: AES-256-GCM-SIV (RFC 8452) over project and
//! ordinal. The mode is made for a fixed nonce, so equal input gives an equal token: registering twice returns the
//! same one. The seal proves that this broker made the token; whether the registration still lives, only the set of
//! registered devices tells.

use std::fmt;

use aes_gcm_siv::aead::{AeadInPlace, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::{Ordinal, ProjectId};

const CONTEXT: &[u8] = b"petrel device token v1";
const PLAIN_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = 1 + PLAIN_BYTES + TAG_BYTES;

/// Opaque address of one app on one device: what an app hands to its server. 34 characters.
///
/// Printing it whole is right on the wire and in answers to its owner only; logs use [`DeviceToken::short`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DeviceToken(Box<str>);

impl DeviceToken {
    /// Wraps a text that claims to be a token; [`TokenSealer::unseal`] finds out.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough to tell tokens apart in a log, too little to send to: the last six characters.
    #[must_use]
    pub fn short(&self) -> &str {
        let start = self.0.len().saturating_sub(6);
        self.0.get(start..).unwrap_or("")
    }
}

impl fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceToken(..{})", self.short())
    }
}

impl fmt::Display for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that seals tokens. Wiped when dropped.
#[derive(Clone)]
pub struct SealKey {
    /// Stands in clear at the front of each token.
    pub id: u8,
    /// 32 random bytes.
    pub key: Zeroizing<[u8; 32]>,
}

/// Why a text is no token of this broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// Not base64url of the right length: never a token of any Petrel.
    #[error("this is not a device token: one has 34 characters of a-z A-Z 0-9 - _")]
    Malformed,
    /// Made by another broker, or altered.
    #[error("this device token was not made by this broker")]
    Foreign,
}

/// What a token says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsealed {
    /// The project that the device registered with.
    pub project: ProjectId,
    /// The device.
    pub ordinal: Ordinal,
}

/// Seals with its newest key and reads all of them.
pub struct TokenSealer {
    newest: u8,
    ciphers: Vec<(u8, Aes256GcmSiv)>,
}

impl TokenSealer {
    /// Takes the keys, the newest last. `None` without a key.
    #[must_use]
    pub fn new(keys: &[SealKey]) -> Option<Self> {
        let newest = keys.last()?.id;
        let ciphers = keys
            .iter()
            .map(|k| (k.id, Aes256GcmSiv::new(k.key.as_slice().into())))
            .collect();
        Some(Self { newest, ciphers })
    }

    fn cipher(&self, id: u8) -> Option<&Aes256GcmSiv> {
        self.ciphers.iter().find(|(k, _)| *k == id).map(|(_, c)| c)
    }

    /// The token of a device. Equal input gives an equal token as long as the newest key stays.
    ///
    /// # Panics
    /// Never: the newest key is one of the keys, and 8 bytes are far below the mode's limit.
    #[must_use]
    pub fn seal(&self, unsealed: Unsealed) -> DeviceToken {
        let mut sealed = [0; SEALED_BYTES];
        sealed[0] = self.newest;
        sealed[1..5].copy_from_slice(&unsealed.project.0.to_be_bytes());
        sealed[5..9].copy_from_slice(&unsealed.ordinal.0.to_be_bytes());
        let tag = self
            .cipher(self.newest)
            .expect("the newest key is one of the keys")
            .encrypt_in_place_detached(
                &Nonce::default(),
                &aad(self.newest),
                &mut sealed[1..1 + PLAIN_BYTES],
            )
            .expect("8 bytes are below the limit of 2^36 (RFC 8452 section 6)");
        sealed[1 + PLAIN_BYTES..].copy_from_slice(&tag);
        DeviceToken(URL_SAFE_NO_PAD.encode(sealed).into())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] for a text that no Petrel made, [`TokenError::Foreign`] for one that this broker
    /// did not make.
    pub fn unseal(&self, text: &str) -> Result<Unsealed, TokenError> {
        let mut sealed = [0; SEALED_BYTES];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut sealed) {
            Ok(SEALED_BYTES) => {}
            _ => return Err(TokenError::Malformed),
        }
        let id = sealed[0];
        let cipher = self.cipher(id).ok_or(TokenError::Foreign)?;
        let (plain, tag) = sealed[1..].split_at_mut(PLAIN_BYTES);
        cipher
            .decrypt_in_place_detached(&Nonce::default(), &aad(id), plain, Tag::from_slice(tag))
            .map_err(|_| TokenError::Foreign)?;
        let number = |at: usize| {
            u32::from_be_bytes([plain[at], plain[at + 1], plain[at + 2], plain[at + 3]])
        };
        Ok(Unsealed {
            project: ProjectId(number(0)),
            ordinal: Ordinal(number(4)),
        })
    }
}

impl fmt::Debug for TokenSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSealer")
            .field("newest", &self.newest)
            .finish_non_exhaustive()
    }
}

fn aad(id: u8) -> [u8; CONTEXT.len() + 1] {
    let mut aad = [0; CONTEXT.len() + 1];
    aad[..CONTEXT.len()].copy_from_slice(CONTEXT);
    aad[CONTEXT.len()] = id;
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8) -> SealKey {
        SealKey {
            id,
            key: Zeroizing::new([id; 32]),
        }
    }

    const DEVICE: Unsealed = Unsealed {
        project: ProjectId(3),
        ordinal: Ordinal(70_000),
    };

    #[test]
    fn the_same_device_gets_the_same_token_and_it_reads_back() {
        let sealer = TokenSealer::new(&[key(1)]).unwrap();
        let token = sealer.seal(DEVICE);
        assert_eq!(token, sealer.seal(DEVICE));
        assert_eq!(token.as_str().len(), 34);
        assert_eq!(sealer.unseal(token.as_str()), Ok(DEVICE));
    }

    #[test]
    fn an_old_key_is_still_read_after_a_new_one_came() {
        let old = TokenSealer::new(&[key(1)]).unwrap().seal(DEVICE);
        let sealer = TokenSealer::new(&[key(1), key(2)]).unwrap();
        assert_ne!(sealer.seal(DEVICE), old);
        assert_eq!(sealer.unseal(old.as_str()), Ok(DEVICE));
    }

    #[test]
    fn every_altered_character_is_noticed() {
        let sealer = TokenSealer::new(&[key(1)]).unwrap();
        let token = sealer.seal(DEVICE);
        for at in 0..token.as_str().len() {
            let mut altered: Vec<u8> = token.as_str().bytes().collect();
            altered[at] = if altered[at] == b'A' { b'Q' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert!(sealer.unseal(&altered).is_err(), "{altered}");
        }
    }

    #[test]
    fn texts_that_are_no_tokens_say_so() {
        let sealer = TokenSealer::new(&[key(1)]).unwrap();
        let long = "A".repeat(5000);
        for bad in ["", "x", "a token", "äöü", long.as_str()] {
            assert_eq!(sealer.unseal(bad), Err(TokenError::Malformed), "{bad}");
        }
        let foreign = TokenSealer::new(&[key(9)]).unwrap().seal(DEVICE);
        assert_eq!(sealer.unseal(foreign.as_str()), Err(TokenError::Foreign));
    }

    #[test]
    fn debug_shows_too_little_to_send_to() {
        let token = TokenSealer::new(&[key(1)]).unwrap().seal(DEVICE);
        assert!(!format!("{token:?}").contains(token.as_str()));
    }
}
