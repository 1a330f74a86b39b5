//! The secrets that outlive the process (RFC 9000 §10.3.2, §8.1.4; RFC 8446 §4.6.1).
//!
//! They are made once, kept by the caller where nobody else can read, and shared by all shards: so a device whose
//! broker was killed learns at its next packet that it must reconnect, and resumes its TLS session.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use zeroize::Zeroizing;

/// Length of each of the three keys, in bytes.
const KEY_BYTES: usize = 64;

/// Length of [`TransportKeys::to_bytes`].
pub const TRANSPORT_KEYS_BYTES: usize = 3 * KEY_BYTES;

/// Reset key, address token key and ticket key. Zeroed when dropped; never printed.
///
/// Whoever knows them can end connections, forge address tokens and read resumed handshakes: keep them as a private
/// key is kept. Ciphers made from them live as long as their shard and are not zeroed.
#[derive(Clone)]
pub struct TransportKeys {
    /// Reset, token and ticket key, in this order.
    bytes: Zeroizing<[u8; TRANSPORT_KEYS_BYTES]>,
}

/// Why bytes are not [`TransportKeys`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("transport keys are {TRANSPORT_KEYS_BYTES} bytes long, not {len}")]
pub struct KeysError {
    /// The length that was found.
    pub len: usize,
}

impl TransportKeys {
    /// New keys from the operating system's random source.
    ///
    /// # Panics
    ///
    /// If that source fails: nothing in this process would be secure.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; TRANSPORT_KEYS_BYTES]);
        SystemRandom::new()
            .fill(&mut *bytes)
            .expect("the operating system gives random bytes");
        Self { bytes }
    }

    /// The form to store: reset, token and ticket key, in this order.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.bytes.to_vec())
    }

    /// Back from [`to_bytes`](Self::to_bytes).
    ///
    /// # Errors
    ///
    /// If the length is not [`TRANSPORT_KEYS_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeysError> {
        if bytes.len() != TRANSPORT_KEYS_BYTES {
            return Err(KeysError { len: bytes.len() });
        }
        let mut keys = Self {
            bytes: Zeroizing::new([0; TRANSPORT_KEYS_BYTES]),
        };
        keys.bytes.copy_from_slice(bytes);
        Ok(keys)
    }

    /// Makes the tokens of stateless resets.
    pub(crate) fn reset(&self) -> &[u8] {
        &self.bytes[..KEY_BYTES]
    }

    /// Seals the address tokens of Retry packets.
    pub(crate) fn token(&self) -> &[u8] {
        &self.bytes[KEY_BYTES..2 * KEY_BYTES]
    }

    /// The root of the keys of TLS session tickets.
    pub(crate) fn ticket(&self) -> &[u8] {
        &self.bytes[2 * KEY_BYTES..]
    }
}

impl fmt::Debug for TransportKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportKeys(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_read_back() {
        let keys = TransportKeys::generate();
        let bytes = keys.to_bytes();
        assert_eq!(bytes.len(), TRANSPORT_KEYS_BYTES);
        assert_eq!(TransportKeys::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        assert_ne!(TransportKeys::generate().to_bytes(), bytes);
        assert_eq!([keys.reset(), keys.token(), keys.ticket()].concat(), *bytes);
        assert_ne!(keys.reset(), keys.token());
    }

    #[test]
    fn another_length_is_refused() {
        for len in [0, TRANSPORT_KEYS_BYTES - 1, TRANSPORT_KEYS_BYTES + 1] {
            assert_eq!(
                TransportKeys::from_bytes(&vec![0; len]).unwrap_err(),
                KeysError { len }
            );
        }
    }

    #[test]
    fn debug_hides_them() {
        let keys = TransportKeys::from_bytes(&[0xab; TRANSPORT_KEYS_BYTES]).unwrap();
        assert_eq!(format!("{keys:?}"), "TransportKeys(…)");
    }
}
