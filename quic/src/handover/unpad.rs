//! PADDING frames are dropped before quinn-proto sees them.
//!
//! The datagrams of a handshake have at least 1,200 bytes (RFC 9000 §14.1), most of them padding, and quinn-proto reads that
//! frame by frame of one byte: a tenth of a server's work for a handshake. They say nothing (RFC 9000 §19.1).

use bytes::BytesMut;
use quinn_proto::crypto::{self, CryptoError};

use crate::resident::{frame::Frame, varint::Reader};

/// So little padding is cheaper to read than to drop.
const KEPT_MAX: usize = 16;

/// A packet key of Initial or Handshake packets that opens them without their padding.
pub(super) struct UnpaddingKey<K>(pub(super) K);

impl<K: crypto::PacketKey> crypto::PacketKey for UnpaddingKey<K> {
    fn encrypt(&self, number: u64, packet: &mut [u8], header_len: usize) {
        self.0.encrypt(number, packet, header_len);
    }

    fn decrypt(
        &self,
        number: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.0.decrypt(number, header, payload)?;
        unpad(payload);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

/// Drops the padding at the end of a packet's frames.
pub(super) fn unpad(payload: &mut BytesMut) {
    let length = unpadded_len(payload);
    if payload.len() - length > KEPT_MAX {
        // A copy, since quinn-proto takes the length for the memory that a piece of a stream holds, and bounds that.
        *payload = BytesMut::from(&payload[..length]);
    }
}

/// Length of a packet's frames without the PADDING behind the last other one; at least one frame stays, for a packet without
/// any is an error (RFC 9000 §12.4). What cannot be read is left to quinn-proto, which knows the answer.
fn unpadded_len(payload: &[u8]) -> usize {
    // The zeros at the end may belong to a frame.
    let Some(last) = payload.iter().rposition(|&byte| byte != 0) else {
        return payload.len().min(1);
    };
    let mut reader = Reader::new(payload);
    loop {
        let read = payload.len() - reader.rest().len();
        if read > last {
            return read;
        }
        if Frame::read(&mut reader).is_err() {
            return payload.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resident::frame::put_ack;

    fn crypto_frame(data: &[u8]) -> Vec<u8> {
        [&[0x06, 0, data.len() as u8][..], data].concat()
    }

    fn check(frames: &[u8], padding: usize, expect: usize) {
        let payload = [frames, &vec![0; padding]].concat();
        assert_eq!(unpadded_len(&payload), expect, "{payload:?}");
    }

    #[test]
    fn only_padding_is_dropped() {
        // Zeros of a frame look like padding.
        let zeros = crypto_frame(&[7, 0, 0, 0]);
        check(&zeros, 0, zeros.len());
        check(&zeros, 900, zeros.len());
        let mut ack = Vec::new();
        put_ack(&mut ack, 0, 1, 0);
        assert_eq!(ack.last(), Some(&0));
        check(&ack, 900, ack.len());
        // Between frames it stays.
        let both = [&zeros[..], &[0; 40], &ack].concat();
        check(&both, 900, both.len());
        // A stream frame without a length reaches to the end.
        check(&[0x08, 0, 1], 900, 903);
        // Nothing else, or nothing at all: the packet keeps its one frame, or its lack of any.
        check(&[], 900, 1);
        check(&[], 0, 0);
        // Unknown, cut off, or with more than there is: for quinn-proto to judge.
        check(&[0x40], 900, 901);
        check(&crypto_frame(&[1; 9])[..5], 0, 5);
        check(&[0x06, 0, 0x43, 0xff], 900, 904);
    }

    #[test]
    fn what_is_dropped_takes_no_memory() {
        let frame = crypto_frame(&[1; 9]);
        let mut payload = BytesMut::from(&[&frame[..], &[0; 1100]].concat()[..]);
        unpad(&mut payload);
        assert_eq!(payload, frame);
        assert!(payload.capacity() < 100);
        let little = [&frame[..], &[0; KEPT_MAX]].concat();
        let mut payload = BytesMut::from(&little[..]);
        unpad(&mut payload);
        assert_eq!(payload, little);
    }

    fn frames(payload: &[u8]) -> (Vec<String>, bool) {
        let mut reader = Reader::new(payload);
        let mut seen = Vec::new();
        while !reader.is_empty() {
            match Frame::read(&mut reader) {
                Ok(Frame::Padding) => {}
                Ok(frame) => seen.push(format!("{frame:?}")),
                Err(_) => return (seen, false),
            }
        }
        (seen, true)
    }

    proptest! {
        /// Whatever bytes: the same frames are read from what is left, and never none where there were some.
        #[test]
        fn no_other_frame_changes(
            head in prop::collection::vec(prop_oneof![3 => 0u8..0x20, 1 => any::<u8>(), 2 => Just(0u8)], 0..60),
            padding in 0usize..200,
        ) {
            let payload = [&head[..], &vec![0; padding]].concat();
            let length = unpadded_len(&payload);
            prop_assert_eq!(frames(&payload[..length]), frames(&payload));
            prop_assert_eq!(length == 0, payload.is_empty());
        }
    }
}
