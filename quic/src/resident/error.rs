//! What a peer can do wrong, as the transport error that answers it.

/// Transport error codes (RFC 9000 §20.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u64);

impl Code {
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(0x03);
    pub(crate) const STREAM_LIMIT_ERROR: Self = Self(0x04);
    pub(crate) const STREAM_STATE_ERROR: Self = Self(0x05);
    pub(crate) const FINAL_SIZE_ERROR: Self = Self(0x06);
    pub(crate) const FRAME_ENCODING_ERROR: Self = Self(0x07);
    pub(crate) const CONNECTION_ID_LIMIT_ERROR: Self = Self(0x09);
    pub(crate) const PROTOCOL_VIOLATION: Self = Self(0x0a);
    pub(crate) const KEY_UPDATE_ERROR: Self = Self(0x0e);
    pub(crate) const AEAD_LIMIT_REACHED: Self = Self(0x0f);
    /// TLS alert 10, unexpected_message (RFC 9001 §4.8, §6).
    pub(crate) const CRYPTO_UNEXPECTED_MESSAGE: Self = Self(0x010a);
}

/// A rule that the peer broke. It ends the connection (RFC 9000 §11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: Code,
    /// Type of the frame that broke it, 0 if unknown (RFC 9000 §19.19).
    pub(crate) frame: u64,
    pub(crate) reason: &'static str,
}

impl Violation {
    pub(crate) const fn new(code: Code, reason: &'static str) -> Self {
        Self::in_frame(code, 0, reason)
    }

    pub(crate) const fn in_frame(code: Code, frame: u64, reason: &'static str) -> Self {
        Self {
            code,
            frame,
            reason,
        }
    }
}
