use super::*;

fn frames(bytes: &[u8]) -> Result<Vec<Frame<'_>>, Violation> {
    let mut reader = Reader::new(bytes);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        frames.push(Frame::read(&mut reader)?);
    }
    Ok(frames)
}

#[test]
fn every_type_byte_is_known_or_an_encoding_error() {
    for kind in 0..=u8::MAX {
        // Enough for the longest fixed part, and lengths that fit. An ACK of packet 1 alone.
        let mut bytes = vec![kind, 1, 1, 0];
        bytes.extend([if matches!(kind, 2 | 3) { 0 } else { 1 }; 40]);
        if kind == 0x18 {
            // Sequence, retire prior to, length.
            bytes[3] = 1;
        }
        let known = kind <= 0x1e;
        match Frame::read(&mut Reader::new(&bytes)) {
            Ok(_) => assert!(known, "{kind:#x}"),
            Err(violation) => {
                assert!(!known, "{kind:#x}");
                assert_eq!(violation.code, Code::FRAME_ENCODING_ERROR);
                assert_eq!(violation.frame, u64::from(kind));
            }
        }
    }
}

#[test]
fn a_frame_that_is_cut_is_an_encoding_error() {
    let mut whole = Vec::new();
    put_ack(&mut whole, 1000, 0b1011_0001, 77);
    let ack = whole.len();
    put_new_connection_id(&mut whole, 3, 1, &[7; 8], &[9; 16]);
    let id = whole.len();
    put_stream_head(&mut whole, 0, 5, 3);
    whole.extend(b"abc");
    assert_eq!(frames(&whole).map(|f| f.len()), Ok(3));
    for end in 1..whole.len() {
        let is_whole = [ack, id].contains(&end);
        assert_eq!(frames(&whole[..end]).is_ok(), is_whole, "cut at {end}");
    }
}

#[test]
fn acks_come_back_as_they_were_written() {
    for mask in [
        1u64,
        0b11,
        0b101,
        0b1011_0001,
        u64::MAX,
        0x5555_5555_5555_5555,
        1 | 1 << 63,
    ] {
        let mut out = Vec::new();
        put_ack(&mut out, 5_000, mask, 12);
        assert!(out.len() <= ACK_BYTES_MAX);
        let Ok(Frame::Ack(ack)) = Frame::read(&mut Reader::new(&out)) else {
            panic!("not an ACK");
        };
        assert_eq!((ack.largest, ack.delay), (5_000, 12));
        let got: Vec<u64> = ack.ranges().flat_map(|(low, high)| low..=high).collect();
        for number in 5_000 - 63..=5_000 {
            let is_set = mask >> (5_000 - number) & 1 == 1;
            assert_eq!(got.contains(&number), is_set, "{number} of {mask:b}");
        }
    }
}

#[test]
fn acks_below_zero_are_refused() {
    // Largest 5, first range 6.
    assert!(frames(&[2, 5, 0, 0, 6]).is_err());
    // Largest 5, first range 0, gap 4: below zero.
    assert!(frames(&[2, 5, 0, 1, 0, 4, 0]).is_err());
    assert!(frames(&[2, 5, 0, 1, 0, 3, 0]).is_ok());
    // A count of ranges that no packet could hold.
    assert!(frames(&[2, 5, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]).is_err());
}

#[test]
fn padding_is_one_frame() {
    assert_eq!(
        frames(&[0, 0, 0, 1, 0]),
        Ok(vec![Frame::Padding, Frame::Ping, Frame::Padding])
    );
}

#[test]
fn a_close_is_cut_to_its_room() {
    let mut out = Vec::new();
    put_close(&mut out, true, 0x7100, 0, &[b'x'; 5000], 1100);
    assert!(out.len() <= 1100);
    let Ok(Frame::Close { code, reason, .. }) = Frame::read(&mut Reader::new(&out)) else {
        panic!("not a close");
    };
    assert_eq!(code, 0x7100);
    assert!(reason.len() > 1000);
}

#[test]
fn ids_of_impossible_lengths_are_refused() {
    for (length, fits) in [(0, false), (1, true), (20, true), (21, false)] {
        let mut out = Vec::new();
        put_new_connection_id(&mut out, 1, 0, &vec![1; length], &[2; 16]);
        assert_eq!(frames(&out).is_ok(), fits, "{length}");
    }
    let mut out = Vec::new();
    put_new_connection_id(&mut out, 1, 2, &[1; 8], &[2; 16]);
    assert!(frames(&out).is_err(), "retires itself");
}
