//! Transport parameters as bytes (RFC 9000 §18): what each side may not see is taken out on the way, and what the
//! resident engine needs is read.
//!
//! quinn-proto keeps its parameters to itself; it writes and reads them here, between itself and TLS. Bytes that are
//! malformed pass unchanged, so that quinn-proto finds the error and answers it.

use std::{borrow::Cow, time::Duration};

use quinn_proto::{ConnectionId, Side};

use crate::resident::{
    frame::{CID_BYTES_MAX, RESET_TOKEN_BYTES},
    varint::{Reader, put_varint, varint_len},
};

/// Parameters by number (RFC 9000 §18.2).
mod id {
    pub(super) const MAX_IDLE_TIMEOUT: u64 = 0x01;
    pub(super) const STATELESS_RESET_TOKEN: u64 = 0x02;
    pub(super) const MAX_UDP_PAYLOAD_SIZE: u64 = 0x03;
    pub(super) const INITIAL_MAX_DATA: u64 = 0x04;
    pub(super) const INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
    pub(super) const INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: u64 = 0x06;
    pub(super) const ACK_DELAY_EXPONENT: u64 = 0x0a;
    pub(super) const MAX_ACK_DELAY: u64 = 0x0b;
    pub(super) const PREFERRED_ADDRESS: u64 = 0x0d;
    pub(super) const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
    pub(super) const INITIAL_SOURCE_CONNECTION_ID: u64 = 0x0f;
    /// Of draft-ietf-quic-ack-frequency-07, the one that quinn-proto speaks.
    pub(super) const MIN_ACK_DELAY: u64 = 0xff04_de1b;
}

/// How many connection IDs each side keeps for the other: the one in use and a spare. It is the default, so the
/// parameter is left out (RFC 9000 §18.2).
const ACTIVE_CONNECTION_ID_LIMIT: u64 = 2;

/// What one side declared, with the defaults of RFC 9000 §18.2 for what it left out.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) max_idle_timeout: Option<Duration>,
    pub(super) max_udp_payload_size: u64,
    pub(super) initial_max_data: u64,
    pub(super) initial_max_stream_data_bidi_local: u64,
    pub(super) initial_max_stream_data_bidi_remote: u64,
    pub(super) ack_delay_exponent: u64,
    pub(super) max_ack_delay: Duration,
    pub(super) active_connection_id_limit: u64,
    pub(super) stateless_reset_token: Option<[u8; RESET_TOKEN_BYTES]>,
    /// The sender's connection ID of sequence number 0.
    pub(super) initial_source_connection_id: ConnectionId,
}

/// One parameter as it stands on the wire.
struct Entry<'a> {
    id: u64,
    value: &'a [u8],
    /// Number, length and value.
    raw: &'a [u8],
}

/// All parameters in order, `None` if the bytes are malformed.
fn entries(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while !reader.is_empty() {
        let from = reader.rest();
        let id = reader.varint()?;
        let value = reader.prefixed()?;
        let raw = &from[..from.len() - reader.rest().len()];
        entries.push(Entry { id, value, raw });
    }
    Some(entries)
}

/// A parameter that is one integer and nothing else.
fn integer(value: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(value);
    let integer = reader.varint()?;
    reader.is_empty().then_some(integer)
}

/// What goes to the peer in place of what quinn-proto would declare.
///
/// - Two connection IDs are kept, because a resident record has room for two.
/// - No ACK_FREQUENCY: the resident engine does not speak that draft.
/// - `max_ack_delay`, if given, is what the resident engine takes its time for.
pub(super) fn outgoing(bytes: &[u8], max_ack_delay: Option<Duration>) -> Cow<'_, [u8]> {
    let Some(entries) = entries(bytes) else {
        return Cow::Borrowed(bytes);
    };
    let mut out = Vec::with_capacity(bytes.len() + 4);
    for entry in entries {
        let is_kept = match entry.id {
            id::ACTIVE_CONNECTION_ID_LIMIT | id::MIN_ACK_DELAY => false,
            id::MAX_ACK_DELAY => max_ack_delay.is_none(),
            _ => true,
        };
        if is_kept {
            out.extend_from_slice(entry.raw);
        }
    }
    if let Some(delay) = max_ack_delay {
        let millis = delay.as_millis() as u64;
        put_varint(&mut out, id::MAX_ACK_DELAY);
        put_varint(&mut out, varint_len(millis) as u64);
        put_varint(&mut out, millis);
    }
    Cow::Owned(out)
}

/// What quinn-proto shall see of the peer's parameters on our `side`.
///
/// - It issues no more than one spare connection ID. A limit below 2 stays, for it is an error (RFC 9000 §18.2).
/// - It never sends ACK_FREQUENCY frames, which the tap could not read.
/// - A client does not learn of a preferred address, and so stays where it is: to move is its choice (RFC 9000 §9.6).
///   A server does, for a client must not have one.
pub(super) fn incoming(side: Side, bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some(entries) = entries(bytes) else {
        return Cow::Borrowed(bytes);
    };
    let mut out = Vec::with_capacity(bytes.len());
    for entry in entries {
        let is_kept = match entry.id {
            id::ACTIVE_CONNECTION_ID_LIMIT => {
                integer(entry.value).is_none_or(|limit| limit <= ACTIVE_CONNECTION_ID_LIMIT)
            }
            id::MIN_ACK_DELAY => false,
            id::PREFERRED_ADDRESS => side == Side::Server,
            _ => true,
        };
        if is_kept {
            out.extend_from_slice(entry.raw);
        }
    }
    Cow::Owned(out)
}

impl Declared {
    /// `None` if the bytes are malformed or the initial connection ID is missing, either of which quinn-proto answers
    /// with a TRANSPORT_PARAMETER_ERROR.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut max_idle_timeout = None;
        let mut max_udp_payload_size = 65_527;
        let mut initial_max_data = 0;
        let mut initial_max_stream_data_bidi_local = 0;
        let mut initial_max_stream_data_bidi_remote = 0;
        let mut ack_delay_exponent = 3;
        let mut max_ack_delay = 25;
        let mut active_connection_id_limit = ACTIVE_CONNECTION_ID_LIMIT;
        let mut stateless_reset_token = None;
        let mut initial_source_connection_id = None;
        for Entry { id, value, .. } in entries(bytes)? {
            let field = match id {
                id::MAX_IDLE_TIMEOUT => {
                    // 0 means none (RFC 9000 §18.2).
                    let millis = Some(integer(value)?).filter(|&millis| millis > 0);
                    max_idle_timeout = millis.map(Duration::from_millis);
                    continue;
                }
                id::STATELESS_RESET_TOKEN => {
                    stateless_reset_token = Some(value.try_into().ok()?);
                    continue;
                }
                id::INITIAL_SOURCE_CONNECTION_ID if value.len() <= CID_BYTES_MAX => {
                    initial_source_connection_id = Some(ConnectionId::new(value));
                    continue;
                }
                id::MAX_UDP_PAYLOAD_SIZE => &mut max_udp_payload_size,
                id::INITIAL_MAX_DATA => &mut initial_max_data,
                id::INITIAL_MAX_STREAM_DATA_BIDI_LOCAL => &mut initial_max_stream_data_bidi_local,
                id::INITIAL_MAX_STREAM_DATA_BIDI_REMOTE => &mut initial_max_stream_data_bidi_remote,
                id::ACK_DELAY_EXPONENT => &mut ack_delay_exponent,
                id::MAX_ACK_DELAY => &mut max_ack_delay,
                id::ACTIVE_CONNECTION_ID_LIMIT => &mut active_connection_id_limit,
                _ => continue,
            };
            *field = integer(value)?;
        }
        Some(Self {
            max_idle_timeout,
            max_udp_payload_size,
            initial_max_data,
            initial_max_stream_data_bidi_local,
            initial_max_stream_data_bidi_remote,
            ack_delay_exponent,
            max_ack_delay: Duration::from_millis(max_ack_delay),
            active_connection_id_limit,
            stateless_reset_token,
            initial_source_connection_id: initial_source_connection_id?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(out: &mut Vec<u8>, id: u64, value: &[u8]) {
        put_varint(out, id);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }

    fn put_integer(out: &mut Vec<u8>, id: u64, value: u64) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        put(out, id, &bytes);
    }

    fn ids(bytes: &[u8]) -> Vec<u64> {
        let entries = entries(bytes).unwrap();
        entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn what_is_declared_is_read() {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, 0x01, 30_000);
        put(&mut bytes, 0x02, &[9; 16]);
        put_integer(&mut bytes, 0x03, 1_472);
        for (id, value) in [(0x04, 100), (0x05, 200), (0x06, 300), (0x0a, 5), (0x0b, 7)] {
            put_integer(&mut bytes, id, value);
        }
        put_integer(&mut bytes, 0x0e, 8);
        put(&mut bytes, 0x0f, b"abc");
        put(&mut bytes, 27, b"grease");
        let declared = Declared::read(&bytes).unwrap();
        assert_eq!(declared.max_idle_timeout, Some(Duration::from_secs(30)));
        assert_eq!(declared.stateless_reset_token, Some([9; 16]));
        assert_eq!(declared.max_udp_payload_size, 1_472);
        assert_eq!(declared.initial_max_data, 100);
        assert_eq!(declared.initial_max_stream_data_bidi_local, 200);
        assert_eq!(declared.initial_max_stream_data_bidi_remote, 300);
        assert_eq!(declared.ack_delay_exponent, 5);
        assert_eq!(declared.max_ack_delay, Duration::from_millis(7));
        assert_eq!(declared.active_connection_id_limit, 8);
        assert_eq!(&*declared.initial_source_connection_id, b"abc");
        for cut in 1..bytes.len() {
            if let Some(cut) = Declared::read(&bytes[..cut]) {
                assert_eq!(&*cut.initial_source_connection_id, b"abc");
            }
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let mut bytes = Vec::new();
        assert!(Declared::read(&bytes).is_none(), "no connection ID");
        put(&mut bytes, 0x0f, b"");
        put_integer(&mut bytes, 0x01, 0);
        let declared = Declared::read(&bytes).unwrap();
        assert_eq!(declared.max_idle_timeout, None);
        assert_eq!(declared.max_udp_payload_size, 65_527);
        assert_eq!(declared.ack_delay_exponent, 3);
        assert_eq!(declared.max_ack_delay, Duration::from_millis(25));
        assert_eq!(declared.active_connection_id_limit, 2);
        assert_eq!(declared.stateless_reset_token, None);
    }

    #[test]
    fn values_that_are_no_values() {
        for (id, value) in [
            (0x01, &b""[..]),
            (0x02, b"short"),
            (0x04, b"\x40"),
            (0x04, b"\x05\x05"),
        ] {
            let mut bytes = Vec::new();
            put(&mut bytes, 0x0f, b"12345678");
            put(&mut bytes, id, value);
            assert!(Declared::read(&bytes).is_none(), "{id:#x} {value:?}");
        }
    }

    #[test]
    fn outgoing_loses_what_the_resident_cannot_do() {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, id::MIN_ACK_DELAY, 1_000);
        put_integer(&mut bytes, 0x04, 77);
        put_integer(&mut bytes, 0x0e, 5);
        put_integer(&mut bytes, 0x0b, 25);
        put(&mut bytes, 58, b"grease");
        let out = outgoing(&bytes, Some(Duration::from_millis(250)));
        assert_eq!(ids(&out), [0x04, 58, 0x0b]);
        assert!(out.ends_with(&[0x0b, 2, 0x40, 250]));
        let out = outgoing(&bytes, None);
        assert_eq!(ids(&out), [0x04, 0x0b, 58]);
    }

    #[test]
    fn incoming_hides_what_quinn_shall_not_use() {
        let mut bytes = Vec::new();
        put_integer(&mut bytes, 0x0e, 5);
        put_integer(&mut bytes, id::MIN_ACK_DELAY, 1_000);
        put(&mut bytes, 0x0d, &[1; 41]);
        put(&mut bytes, 58, b"grease");
        assert_eq!(ids(&incoming(Side::Client, &bytes)), [58]);
        assert_eq!(ids(&incoming(Side::Server, &bytes)), [0x0d, 58]);
        for (limit, is_kept) in [
            (0, true),
            (1, true),
            (2, true),
            (3, false),
            (1 << 40, false),
        ] {
            let mut bytes = Vec::new();
            put_integer(&mut bytes, 0x0e, limit);
            assert_eq!(!incoming(Side::Client, &bytes).is_empty(), is_kept);
        }
        // An error to be found by quinn-proto.
        let mut bytes = Vec::new();
        put(&mut bytes, 0x0e, b"\x05\x05");
        assert_eq!(*incoming(Side::Server, &bytes), bytes);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_malformed_ones_pass(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Declared::read(&bytes);
            for side in [Side::Client, Side::Server] {
                let (a, b) = (incoming(side, &bytes), outgoing(&bytes, Some(Duration::from_millis(250))));
                if entries(&bytes).is_none() {
                    prop_assert_eq!(&*a, &bytes[..]);
                    prop_assert_eq!(&*b, &bytes[..]);
                }
            }
        }

        #[test]
        fn what_is_unknown_is_kept_in_order_and_to_the_byte(
            unknown in prop::collection::vec((0x20u64..1 << 32, prop::collection::vec(any::<u8>(), 0..20)), 0..20),
        ) {
            let mut bytes = Vec::new();
            for (id, value) in unknown.iter().filter(|(id, _)| *id != id::MIN_ACK_DELAY) {
                put(&mut bytes, *id, value);
            }
            prop_assert_eq!(&*incoming(Side::Client, &bytes), &bytes[..]);
            prop_assert_eq!(&*outgoing(&bytes, None), &bytes[..]);
            let longer = outgoing(&bytes, Some(Duration::from_millis(250)));
            prop_assert!(longer.starts_with(&bytes));
            prop_assert_eq!(longer.len(), bytes.len() + 4);
        }
    }
}
