use super::*;
use crate::limits::TO_BROKER_FRAME_BYTES_MAX as MAX;

fn goodbye() -> Bytes {
    encode_to_broker(to_broker::Frame::Goodbye(wire::Goodbye {}))
}

fn frames(decoder: &mut Decoder) -> Vec<Bytes> {
    std::iter::from_fn(|| decoder.poll_frame(MAX).unwrap()).collect()
}

/// PROTO-5: a stream cut anywhere yields the same frames.
#[test]
fn frames_survive_every_cut() {
    let ack = encode_to_broker(to_broker::Frame::Ack(wire::Ack {
        epoch: 7,
        sequences: (0..200).collect(),
    }));
    let stream = [goodbye(), ack.clone(), goodbye()].concat();
    for cut in 0..=stream.len() {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for part in [&stream[..cut], &stream[cut..]] {
            decoder.handle_bytes(Bytes::copy_from_slice(part));
            seen.extend(frames(&mut decoder));
        }
        assert_eq!(seen.len(), 3, "cut at {cut}");
        assert!(ack.ends_with(&seen[1]));
        assert_eq!(decoder.held_bytes(), 0);
    }
}

/// PROTO-5: byte by byte, and nothing is held between frames.
#[test]
fn frames_survive_single_bytes() {
    let stream = [goodbye(), goodbye()].concat();
    let mut decoder = Decoder::default();
    let mut count = 0;
    for byte in stream {
        decoder.handle_bytes(Bytes::copy_from_slice(&[byte]));
        count += frames(&mut decoder).len();
    }
    assert_eq!(count, 2);
    assert_eq!(decoder.held_bytes(), 0);
}

/// PROTO-6: the limit itself passes, one byte more is refused at the prefix.
#[test]
fn the_length_limit_is_exact() {
    let prefix = |length: usize| {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(length as u64, &mut bytes);
        bytes
    };
    let mut decoder = Decoder::default();
    decoder.handle_bytes([prefix(MAX), vec![0; MAX]].concat().into());
    assert_eq!(decoder.poll_frame(MAX).unwrap().unwrap().len(), MAX);

    let mut decoder = Decoder::default();
    decoder.handle_bytes(prefix(MAX + 1).into());
    let error = decoder.poll_frame(MAX).unwrap_err();
    assert_eq!(error.code(), ErrorCode::FrameTooLong);
}

/// PROTO-7: what is no frame is refused.
#[test]
fn garbage_is_refused() {
    let mut decoder = Decoder::default();
    decoder.handle_bytes(vec![0xff; 11].into());
    let error = decoder.poll_frame(MAX).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Malformed);

    for body in [
        &b""[..],                  // no kind
        &[0x08, 0x01],             // kind 1 as a varint
        &[0x0a, 0x05, 1],          // kind 1, cut short
        &[0x5a, 0, 0x5a, 0],       // two kinds
        &[0x0a, 0x02, 0x0a, 0x09], // Hello whose token is cut short
        &[0x00, 0x00],             // field number 0
    ] {
        let error = decode_to_broker(Bytes::copy_from_slice(body)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Malformed, "{body:?}");
    }
}

/// PROTO-9: unknown kinds below 64 are ignored, from 64 on refused; unknown fields are ignored.
#[test]
fn unknown_kinds_and_fields_follow_the_rule_of_evolution() {
    let body = |kind: u32| {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(kind, WireType::LengthDelimited, &mut bytes);
        bytes.push(0);
        Bytes::from(bytes)
    };
    assert!(matches!(decode_to_broker(body(63)), Ok(Decoded::Ignored)));
    assert!(matches!(decode_to_device(body(63)), Ok(Decoded::Ignored)));
    assert_eq!(
        decode_to_broker(body(64)).unwrap_err(),
        DecodeError::Unsupported(64)
    );
    // Goodbye (kind 11) with an unknown field 100 inside.
    let known = Bytes::from_static(&[0x5a, 0x03, 0xa0, 0x06, 0x01]);
    assert!(matches!(
        decode_to_broker(known),
        Ok(Decoded::Frame(to_broker::Frame::Goodbye(_)))
    ));
}
