//! Frames of 1-RTT packets (RFC 9000 §12.4, §19): all of them are parsed, the ones that the resident engine sends can
//! be written.

use super::{
    error::{Code, Violation},
    varint::{Reader, VARINT_MAX, put_varint, varint_len},
};

/// Longest connection ID (RFC 9000 §17.2).
pub(crate) const CID_BYTES_MAX: usize = 20;

/// Length of a stateless reset token (RFC 9000 §10.3).
pub(crate) const RESET_TOKEN_BYTES: usize = 16;

/// Type bytes that are written here, or asked for elsewhere.
pub(crate) mod kind {
    pub(crate) const PADDING: u8 = 0x00;
    pub(crate) const PING: u8 = 0x01;
    pub(crate) const ACK: u8 = 0x02;
    pub(crate) const ACK_ECN: u8 = 0x03;
    pub(crate) const RESET_STREAM: u8 = 0x04;
    pub(crate) const STOP_SENDING: u8 = 0x05;
    pub(crate) const CRYPTO: u8 = 0x06;
    pub(crate) const NEW_TOKEN: u8 = 0x07;
    pub(crate) const STREAM: u8 = 0x08;
    pub(crate) const STREAM_LAST: u8 = 0x0f;
    pub(crate) const STREAM_FIN: u8 = 0x01;
    pub(crate) const STREAM_LEN: u8 = 0x02;
    pub(crate) const STREAM_OFF: u8 = 0x04;
    pub(crate) const MAX_DATA: u8 = 0x10;
    pub(crate) const MAX_STREAM_DATA: u8 = 0x11;
    pub(crate) const MAX_STREAMS_BIDI: u8 = 0x12;
    pub(crate) const MAX_STREAMS_UNI: u8 = 0x13;
    pub(crate) const DATA_BLOCKED: u8 = 0x14;
    pub(crate) const STREAM_DATA_BLOCKED: u8 = 0x15;
    pub(crate) const STREAMS_BLOCKED_BIDI: u8 = 0x16;
    pub(crate) const STREAMS_BLOCKED_UNI: u8 = 0x17;
    pub(crate) const NEW_CONNECTION_ID: u8 = 0x18;
    pub(crate) const RETIRE_CONNECTION_ID: u8 = 0x19;
    pub(crate) const PATH_CHALLENGE: u8 = 0x1a;
    pub(crate) const PATH_RESPONSE: u8 = 0x1b;
    pub(crate) const CONNECTION_CLOSE: u8 = 0x1c;
    pub(crate) const APPLICATION_CLOSE: u8 = 0x1d;
    pub(crate) const HANDSHAKE_DONE: u8 = 0x1e;
}

/// One frame, as it stands in the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Padding,
    Ping,
    Ack(Ack<'a>),
    ResetStream {
        stream: u64,
        code: u64,
        final_size: u64,
    },
    StopSending {
        stream: u64,
        code: u64,
    },
    Crypto {
        offset: u64,
        data: &'a [u8],
    },
    NewToken,
    Stream(Stream<'a>),
    MaxData(u64),
    MaxStreamData {
        stream: u64,
        limit: u64,
    },
    MaxStreams,
    DataBlocked,
    StreamDataBlocked {
        stream: u64,
    },
    StreamsBlocked,
    NewConnectionId(NewConnectionId<'a>),
    RetireConnectionId(u64),
    PathChallenge([u8; 8]),
    PathResponse([u8; 8]),
    Close {
        /// Of the application (0x1d), else of the transport (0x1c).
        is_application: bool,
        code: u64,
        reason: &'a [u8],
    },
    HandshakeDone,
}

/// Bytes of a stream (RFC 9000 §19.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream<'a> {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
    pub(crate) is_last: bool,
}

/// A connection ID that the peer offers (RFC 9000 §19.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewConnectionId<'a> {
    pub(crate) sequence: u64,
    pub(crate) retire_prior_to: u64,
    /// 1 to 20 bytes.
    pub(crate) id: &'a [u8],
    pub(crate) reset_token: [u8; RESET_TOKEN_BYTES],
}

/// An acknowledgement (RFC 9000 §19.3), its ranges checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack<'a> {
    pub(crate) largest: u64,
    /// As on the wire: to be shifted by the peer's ack_delay_exponent.
    pub(crate) delay: u64,
    first_range: u64,
    range_count: u64,
    ranges: &'a [u8],
}

impl Ack<'_> {
    /// The acknowledged packet numbers, as inclusive ranges from the largest downwards.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut reader = Reader::new(self.ranges);
        let mut left = self.range_count;
        let mut smallest = self.largest - self.first_range;
        let first = std::iter::once((smallest, self.largest));
        first.chain(std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (gap, length) = (reader.varint()?, reader.varint()?);
            let largest = smallest.checked_sub(gap + 2)?;
            smallest = largest.checked_sub(length)?;
            Some((smallest, largest))
        }))
    }

    fn read<'a>(reader: &mut Reader<'a>, has_ecn: bool) -> Option<Ack<'a>> {
        let (largest, delay) = (reader.varint()?, reader.varint()?);
        let (range_count, first_range) = (reader.varint()?, reader.varint()?);
        let mut smallest = largest.checked_sub(first_range)?;
        let ranges = reader.rest();
        for _ in 0..range_count {
            let (gap, length) = (reader.varint()?, reader.varint()?);
            // Packet numbers below 0 are a FRAME_ENCODING_ERROR (RFC 9000 §19.3.1).
            smallest = smallest
                .checked_sub(gap.checked_add(2)?)?
                .checked_sub(length)?;
        }
        let ranges = &ranges[..ranges.len() - reader.rest().len()];
        if has_ecn {
            // Counts of ECT(0), ECT(1) and CE (RFC 9000 §19.3.2), of which no use is made.
            let _ = (reader.varint()?, reader.varint()?, reader.varint()?);
        }
        Some(Ack {
            largest,
            delay,
            first_range,
            range_count,
            ranges,
        })
    }
}

impl<'a> Frame<'a> {
    /// The next frame. Adjacent padding comes as one frame.
    ///
    /// # Errors
    ///
    /// FRAME_ENCODING_ERROR for frames that are cut, of an unknown type, or hold impossible values.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        let kind = reader.rest().first().copied().unwrap_or_default();
        Self::read_known(reader).ok_or(Violation::in_frame(
            Code::FRAME_ENCODING_ERROR,
            u64::from(kind),
            "malformed or unknown frame",
        ))
    }

    fn read_known(reader: &mut Reader<'a>) -> Option<Self> {
        // Types are varints, but a longer form than the shortest is an error (RFC 9000 §12.4), and all known types
        // take one byte.
        let kind = reader.byte()?;
        Some(match kind {
            kind::PADDING => {
                let padding = reader.rest().iter().take_while(|&&b| b == 0).count();
                reader.take(padding)?;
                Self::Padding
            }
            kind::PING => Self::Ping,
            kind::ACK | kind::ACK_ECN => Self::Ack(Ack::read(reader, kind == kind::ACK_ECN)?),
            kind::RESET_STREAM => Self::ResetStream {
                stream: reader.varint()?,
                code: reader.varint()?,
                final_size: reader.varint()?,
            },
            kind::STOP_SENDING => Self::StopSending {
                stream: reader.varint()?,
                code: reader.varint()?,
            },
            kind::CRYPTO => {
                let (offset, data) = (reader.varint()?, reader.prefixed()?);
                // The end may not lie beyond 2^62 - 1 (RFC 9000 §19.6).
                let end = offset.checked_add(data.len() as u64)?;
                (end <= VARINT_MAX).then_some(Self::Crypto { offset, data })?
            }
            // An empty token is a FRAME_ENCODING_ERROR (RFC 9000 §19.7).
            kind::NEW_TOKEN => (!reader.prefixed()?.is_empty()).then_some(Self::NewToken)?,
            kind::STREAM..=kind::STREAM_LAST => Self::Stream(Stream::read(kind, reader)?),
            kind::MAX_DATA => Self::MaxData(reader.varint()?),
            kind::MAX_STREAM_DATA => Self::MaxStreamData {
                stream: reader.varint()?,
                limit: reader.varint()?,
            },
            kind::MAX_STREAMS_BIDI | kind::MAX_STREAMS_UNI => {
                stream_count(reader)?;
                Self::MaxStreams
            }
            kind::DATA_BLOCKED => {
                reader.varint()?;
                Self::DataBlocked
            }
            kind::STREAM_DATA_BLOCKED => {
                let stream = reader.varint()?;
                reader.varint()?;
                Self::StreamDataBlocked { stream }
            }
            kind::STREAMS_BLOCKED_BIDI | kind::STREAMS_BLOCKED_UNI => {
                stream_count(reader)?;
                Self::StreamsBlocked
            }
            kind::NEW_CONNECTION_ID => Self::NewConnectionId(NewConnectionId::read(reader)?),
            kind::RETIRE_CONNECTION_ID => Self::RetireConnectionId(reader.varint()?),
            kind::PATH_CHALLENGE => Self::PathChallenge(reader.array()?),
            kind::PATH_RESPONSE => Self::PathResponse(reader.array()?),
            kind::CONNECTION_CLOSE => {
                let code = reader.varint()?;
                let _frame_type = reader.varint()?;
                Self::Close {
                    is_application: false,
                    code,
                    reason: reader.prefixed()?,
                }
            }
            kind::APPLICATION_CLOSE => Self::Close {
                is_application: true,
                code: reader.varint()?,
                reason: reader.prefixed()?,
            },
            kind::HANDSHAKE_DONE => Self::HandshakeDone,
            _ => return None,
        })
    }

    /// Whether the peer expects an acknowledgement of it (RFC 9000 §13.2, RFC 9002 §2).
    pub(crate) fn elicits_ack(&self) -> bool {
        !matches!(self, Self::Padding | Self::Ack(_) | Self::Close { .. })
    }

    /// Whether a packet of nothing but such frames only probes a path (RFC 9000 §9.1).
    pub(crate) fn is_probing(&self) -> bool {
        matches!(
            self,
            Self::PathChallenge(_)
                | Self::PathResponse(_)
                | Self::NewConnectionId(_)
                | Self::Padding
        )
    }
}

/// A count of streams beyond 2^60 could not be numbered (RFC 9000 §4.6).
fn stream_count(reader: &mut Reader<'_>) -> Option<u64> {
    reader.varint().filter(|&count| count <= 1 << 60)
}

impl<'a> Stream<'a> {
    fn read(kind: u8, reader: &mut Reader<'a>) -> Option<Self> {
        let id = reader.varint()?;
        let offset = if kind & kind::STREAM_OFF != 0 {
            reader.varint()?
        } else {
            0
        };
        let data = if kind & kind::STREAM_LEN != 0 {
            reader.prefixed()?
        } else {
            reader.take(reader.rest().len())?
        };
        // The end may not lie beyond 2^62 - 1 (RFC 9000 §19.8).
        let end = offset.checked_add(data.len() as u64)?;
        (end <= VARINT_MAX).then_some(Self {
            id,
            offset,
            data,
            is_last: kind & kind::STREAM_FIN != 0,
        })
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

impl<'a> NewConnectionId<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let (sequence, retire_prior_to) = (reader.varint()?, reader.varint()?);
        let length = usize::from(reader.byte()?);
        if retire_prior_to > sequence || !(1..=CID_BYTES_MAX).contains(&length) {
            return None;
        }
        Some(Self {
            sequence,
            retire_prior_to,
            id: reader.take(length)?,
            reset_token: reader.array()?,
        })
    }
}

/// Writes an acknowledgement of the packets in `mask`: bit i stands for `largest - i`, bit 0 is set.
pub(crate) fn put_ack(out: &mut Vec<u8>, largest: u64, mask: u64, delay: u64) {
    debug_assert!(mask & 1 == 1, "the largest was received");
    out.push(kind::ACK);
    put_varint(out, largest);
    put_varint(out, delay);
    let count_at = out.len();
    out.push(0);
    let mut rest = mask;
    let mut count = 0u8;
    let first = rest.trailing_ones();
    put_varint(out, u64::from(first.max(1) - 1));
    rest = rest.checked_shr(first).unwrap_or(0);
    // At most 32 ranges fit 64 bits, so the count takes one byte.
    while rest != 0 {
        let gap = rest.trailing_zeros();
        rest >>= gap;
        let run = rest.trailing_ones();
        rest = rest.checked_shr(run).unwrap_or(0);
        put_varint(out, u64::from(gap - 1));
        put_varint(out, u64::from(run - 1));
        count += 1;
    }
    out[count_at] = count;
}

/// Most bytes that [`put_ack`] writes: type, largest, delay, count, first range, 31 more of two single bytes.
pub(crate) const ACK_BYTES_MAX: usize = 1 + 8 + 8 + 1 + 1 + 31 * 2;

/// Writes the head of a stream frame whose data fills `length` bytes after it.
pub(crate) fn put_stream_head(out: &mut Vec<u8>, id: u64, offset: u64, length: usize) {
    let offset_bit = if offset > 0 { kind::STREAM_OFF } else { 0 };
    out.push(kind::STREAM | kind::STREAM_LEN | offset_bit);
    put_varint(out, id);
    if offset > 0 {
        put_varint(out, offset);
    }
    put_varint(out, length as u64);
}

/// Bytes of a stream frame's head at most, for data of up to 16,383 bytes.
pub(crate) fn stream_head_len(id: u64, offset: u64) -> usize {
    1 + varint_len(id) + if offset > 0 { varint_len(offset) } else { 0 } + 2
}

/// Writes a CONNECTION_CLOSE; the reason is cut to what `room` bytes leave for it.
pub(crate) fn put_close(
    out: &mut Vec<u8>,
    is_application: bool,
    code: u64,
    frame: u64,
    reason: &[u8],
    room: usize,
) {
    let head = 1 + varint_len(code) + if is_application { 0 } else { varint_len(frame) } + 2;
    let reason = &reason[..reason.len().min(room.saturating_sub(head))];
    if is_application {
        out.push(kind::APPLICATION_CLOSE);
        put_varint(out, code);
    } else {
        out.push(kind::CONNECTION_CLOSE);
        put_varint(out, code);
        put_varint(out, frame);
    }
    put_varint(out, reason.len() as u64);
    out.extend_from_slice(reason);
}

/// Writes a NEW_CONNECTION_ID.
pub(crate) fn put_new_connection_id(
    out: &mut Vec<u8>,
    sequence: u64,
    retire_prior_to: u64,
    id: &[u8],
    token: &[u8; RESET_TOKEN_BYTES],
) {
    out.push(kind::NEW_CONNECTION_ID);
    put_varint(out, sequence);
    put_varint(out, retire_prior_to);
    // Ours have 8 bytes.
    out.push(id.len() as u8);
    out.extend_from_slice(id);
    out.extend_from_slice(token);
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
