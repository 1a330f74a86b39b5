//! The secret that a device proves itself with.

use std::fmt;

use zeroize::Zeroizing;

use crate::limits::SECRET_BYTES;

/// 32 bytes made by the device. Never printed; wiped when dropped.
///
/// The broker keeps a hash of it only. Holding a device token alone never allows connecting as the device.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceSecret(Zeroizing<[u8; SECRET_BYTES]>);

/// A secret does not have 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a secret has 32 bytes, this has {0}")]
pub struct SecretLengthError(pub usize);

impl DeviceSecret {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Checks the length of what a peer sent.
    ///
    /// # Errors
    /// [`SecretLengthError`] unless there are exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SecretLengthError> {
        bytes
            .try_into()
            .map(Self::new)
            .map_err(|_| SecretLengthError(bytes.len()))
    }

    /// The bytes, to be sent to the broker or hashed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceSecret(..)")
    }
}
