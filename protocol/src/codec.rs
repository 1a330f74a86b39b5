//! Cuts a byte stream into frames and makes frames of messages.
//!
//! On the wire a frame is a varint length and that many bytes of a protobuf message `ToBroker` or `ToDevice` (PROTO-5).
//! The decoder holds at most one unfinished frame, bounded by its limit, and nothing at all between frames.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::limits;
use crate::wire::{ToBroker, ToDevice, to_broker, to_device};
use crate::{ErrorCode, wire};

/// What a peer sent that is no frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the limit (PROTO-6).
    #[error("a frame of {bytes} bytes: at most {max} are allowed")]
    TooLong {
        /// Length that the prefix announced, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        max: usize,
    },
    /// Not a length prefix or not a protobuf message of the expected shape (PROTO-7).
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// A kind of frame that must be understood and is not (PROTO-9).
    #[error("frame kind {0} is not supported here: update the older of SDK and broker")]
    Unsupported(u32),
}

impl DecodeError {
    /// The code that the session ends with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong { .. } => ErrorCode::FrameTooLong,
            Self::Malformed(_) => ErrorCode::Malformed,
            Self::Unsupported(_) => ErrorCode::Unsupported,
        }
    }
}

/// Collects bytes of one direction and yields whole frames, undecoded.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes of an unfinished frame; empty and without capacity between frames, so that an idle session costs nothing.
    partial: BytesMut,
    /// What arrived and was not looked at yet.
    fresh: Bytes,
}

impl Decoder {
    /// Takes the next bytes of the stream. Call [`Decoder::poll_frame`] until it yields `None` before the next call:
    /// what is held is then less than one frame.
    pub fn handle_bytes(&mut self, bytes: Bytes) {
        if self.partial.is_empty() && self.fresh.is_empty() {
            self.fresh = bytes;
        } else {
            self.partial.extend_from_slice(&self.fresh);
            self.partial.extend_from_slice(&bytes);
            self.fresh = Bytes::new();
        }
    }

    /// The body of the next whole frame.
    ///
    /// # Errors
    /// [`DecodeError`] as soon as the length prefix is wrong or above `max`, without waiting for the body.
    pub fn poll_frame(&mut self, max: usize) -> Result<Option<Bytes>, DecodeError> {
        if self.partial.is_empty() {
            let Some((prefix, body)) = parse_prefix(&self.fresh, max)? else {
                self.keep();
                return Ok(None);
            };
            if self.fresh.len() < prefix + body {
                self.keep();
                return Ok(None);
            }
            let mut frame = self.fresh.split_to(prefix + body);
            frame.advance(prefix);
            return Ok(Some(frame));
        }
        let Some((prefix, body)) = parse_prefix(&self.partial, max)? else {
            return Ok(None);
        };
        if self.partial.len() < prefix + body {
            return Ok(None);
        }
        self.fresh = std::mem::take(&mut self.partial).freeze();
        let mut frame = self.fresh.split_to(prefix + body);
        frame.advance(prefix);
        Ok(Some(frame))
    }

    /// Bytes held of an unfinished frame.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.len() + self.fresh.len()
    }

    /// Copies an unfinished frame out of the receive buffer, so that it does not pin it.
    fn keep(&mut self) {
        if !self.fresh.is_empty() {
            self.partial.extend_from_slice(&self.fresh);
            self.fresh = Bytes::new();
        }
    }
}

/// Length of the prefix and of the body, once the prefix is there.
fn parse_prefix(bytes: &[u8], max: usize) -> Result<Option<(usize, usize)>, DecodeError> {
    // A length below 2^28 has at most four bytes; a fifth is needed only by lengths that are too long anyway.
    let whole = bytes.iter().take(10).position(|b| b & 0x80 == 0);
    let Some(last) = whole else {
        return if bytes.len() >= 10 {
            Err(DecodeError::Malformed("length prefix without end".into()))
        } else {
            Ok(None)
        };
    };
    let mut cursor = &bytes[..=last];
    let length = decode_varint(&mut cursor)
        .map_err(|_| DecodeError::Malformed("length prefix is no varint".into()))?;
    match usize::try_from(length) {
        Ok(body) if body <= max => Ok(Some((last + 1, body))),
        _ => Err(DecodeError::TooLong { bytes: length, max }),
    }
}

/// A frame body, decoded.
#[derive(Debug)]
pub enum Decoded<F> {
    /// A frame of a known kind.
    Frame(F),
    /// A kind that this version does not know and may ignore (PROTO-9).
    Ignored,
}

/// Reads a frame from a device.
///
/// # Errors
/// [`DecodeError`] if it is malformed or of an unknown kind that must be understood.
pub fn decode_to_broker(body: Bytes) -> Result<Decoded<to_broker::Frame>, DecodeError> {
    let kind = first_kind(&body)?;
    let message = ToBroker::decode(body).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    known_or_ignored(message.frame, kind)
}

/// Reads a frame from a broker.
///
/// # Errors
/// [`DecodeError`] if it is malformed or of an unknown kind that must be understood.
pub fn decode_to_device(body: Bytes) -> Result<Decoded<to_device::Frame>, DecodeError> {
    let kind = first_kind(&body)?;
    let message = ToDevice::decode(body).map_err(|e| DecodeError::Malformed(e.to_string()))?;
    known_or_ignored(message.frame, kind)
}

fn known_or_ignored<F>(frame: Option<F>, kind: u32) -> Result<Decoded<F>, DecodeError> {
    match frame {
        Some(frame) => Ok(Decoded::Frame(frame)),
        None if kind < limits::IGNORABLE_FRAME_KIND_END => Ok(Decoded::Ignored),
        None => Err(DecodeError::Unsupported(kind)),
    }
}

/// The field number of the envelope's one field.
fn first_kind(body: &[u8]) -> Result<u32, DecodeError> {
    let malformed = |e: prost::DecodeError| DecodeError::Malformed(e.to_string());
    let mut rest = body;
    if rest.is_empty() {
        return Err(DecodeError::Malformed("empty frame".into()));
    }
    let (kind, wire_type) = decode_key(&mut rest).map_err(malformed)?;
    if wire_type != WireType::LengthDelimited {
        return Err(DecodeError::Malformed(format!(
            "frame kind {kind} is not a message"
        )));
    }
    skip_field(wire_type, kind, &mut rest, DecodeContext::default()).map_err(malformed)?;
    if rest.is_empty() {
        Ok(kind)
    } else {
        // One frame, one kind: two would let an old reader and a new one see different frames.
        Err(DecodeError::Malformed(
            "more than one kind in a frame".into(),
        ))
    }
}

/// Makes the bytes of a frame to a broker, length prefix included.
#[must_use]
pub fn encode_to_broker(frame: to_broker::Frame) -> Bytes {
    ToBroker { frame: Some(frame) }
        .encode_length_delimited_to_vec()
        .into()
}

/// Makes the bytes of a frame to a device, length prefix included. Shared by all recipients without a copy.
#[must_use]
pub fn encode_to_device(frame: to_device::Frame) -> Bytes {
    ToDevice { frame: Some(frame) }
        .encode_length_delimited_to_vec()
        .into()
}

/// Shorthand for the frame that ends a session (PROTO-10).
#[must_use]
pub fn encode_error(code: ErrorCode, message: &str, retry_after_ms: u64) -> Bytes {
    encode_to_device(to_device::Frame::Error(wire::Error {
        code: code as u32,
        message: message.into(),
        retry_after_ms,
    }))
}

#[cfg(test)]
mod tests;
