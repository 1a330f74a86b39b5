//! Frames: PROTO-5 to PROTO-11.

use std::time::{Duration, Instant};

use petrel_protocol::limits::{IGNORABLE_FRAME_KIND_END, TO_BROKER_FRAME_BYTES_MAX};
use petrel_protocol::wire::{self, to_broker, to_device};
use petrel_protocol::{ErrorCode, MINOR_VERSION, codec};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, json};
use tokio::task::JoinSet;

use crate::common::{Api, Broker, Closed, End, RawDevice, Wire, eventually};
use crate::{DEFAULTS, IMPATIENT};

/// A frame with this body.
pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_varint(body.len() as u64, &mut frame);
    frame.extend_from_slice(body);
    frame
}

/// A frame of this kind with a body of so many bytes in all.
pub(super) fn frame_of_kind(kind: u32, body_bytes: usize) -> Vec<u8> {
    // The key and the inner length take at most six bytes; what is left is padding, found by trying.
    for padding in (0..=body_bytes).rev().take(8) {
        let mut body = Vec::new();
        encode_key(kind, WireType::LengthDelimited, &mut body);
        encode_varint(padding as u64, &mut body);
        body.resize(body.len() + padding, 0);
        if body.len() == body_bytes {
            return framed(&body);
        }
    }
    panic!("no body has {body_bytes} bytes");
}

/// Says something as the first thing of a connection.
async fn say_first(broker: &Broker, bytes: &[u8]) -> End {
    let mut wire = Wire::open(broker).await;
    wire.send(bytes).await;
    wire.end().await
}

/// Says something in an open session.
async fn say_attached(broker: &Broker, bytes: &[u8]) -> End {
    let mut wire = RawDevice::register(broker).await.wire;
    wire.send(bytes).await;
    wire.end().await
}

/// Each text of bytes ends a session with this code, be it first or later. All at once, because each takes a second.
async fn all_end_with(code: ErrorCode, cases: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    let broker = std::sync::Arc::new(DEFAULTS.broker());
    let mut bystander = RawDevice::register(&broker).await;
    let mut ends = JoinSet::new();
    for (what, bytes) in cases {
        let broker = broker.clone();
        ends.spawn(async move {
            let first = say_first(&broker, &bytes).await;
            (what, first, say_attached(&broker, &bytes).await)
        });
    }
    while let Some(ended) = ends.join_next().await {
        let (what, first, attached) = ended.unwrap();
        for end in [first, attached] {
            assert!(!end.expect(code).is_empty(), "{what}");
            assert!(end.frames.is_empty(), "{what}: {:?}", end.frames);
        }
    }
    bystander.nothing_comes().await;
}

/// PROTO-5: the stream cuts frames anywhere, or brings many at once.
#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let broker = DEFAULTS.broker();
    let mut bytes = Vec::new();
    let register = to_broker::Frame::Register(RawDevice::registration(&broker));
    bytes.extend_from_slice(&codec::encode_to_broker(register));
    for request in 1..=3 {
        let topic = "x".repeat(100);
        let subscribe = to_broker::Frame::Subscribe(wire::Subscribe { request, topic });
        bytes.extend_from_slice(&codec::encode_to_broker(subscribe));
    }
    for piece_bytes in [1, 2, 3, 7, 50, bytes.len()] {
        let mut wire = Wire::open(&broker).await;
        for piece in bytes.chunks(piece_bytes) {
            wire.send(piece).await;
            // Lets the endpoint send what there is.
            tokio::task::yield_now().await;
        }
        wire.welcomed().await;
        for number in 1..=3 {
            match wire.frame().await {
                Some(to_device::Frame::Result(r)) => assert_eq!((r.request, r.code), (number, 0)),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// PROTO-6: a frame of 16,384 bytes is taken, a longer one refused as soon as its length is known.
#[tokio::test]
async fn a_frame_has_at_most_16384_bytes() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    device
        .wire
        .send(&frame_of_kind(20, TO_BROKER_FRAME_BYTES_MAX))
        .await;
    device.nothing_comes().await;

    let prefix = |length: u64| {
        let mut bytes = Vec::new();
        encode_varint(length, &mut bytes);
        bytes
    };
    let limit = TO_BROKER_FRAME_BYTES_MAX as u64;
    let cases = [limit + 1, 1 << 32, u64::MAX].map(|length| ("only the prefix", prefix(length)));
    all_end_with(ErrorCode::FrameTooLong, cases).await;
}

/// PROTO-6: the message with the most overhead that a publisher can make fits into a frame to a device.
#[tokio::test]
async fn the_widest_message_fits_into_a_frame() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    let mut data = Map::new();
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
    for first in letters {
        for second in letters {
            let key = String::from_utf8(vec![b'k', *first, *second]).unwrap();
            data.insert(key, "".into());
        }
    }
    let message = json!({ "data": data });
    Api::new(&broker)
        .publish_token(&device.token, message)
        .await
        .id();
    let came = device.message().await;
    assert_eq!(came.data.len(), letters.len() * letters.len());
}

/// PROTO-7: what does not parse, is empty or holds two kinds is malformed.
#[tokio::test]
async fn a_frame_that_does_not_parse_is_malformed() {
    let subscribe = |topic: &[u8]| {
        let mut inner = vec![8, 1, 18, topic.len() as u8];
        inner.extend_from_slice(topic);
        let mut body = vec![(4 << 3) | 2, inner.len() as u8];
        body.extend_from_slice(&inner);
        body
    };
    let two = [subscribe(b"a"), subscribe(b"b")].concat();
    let known_and_unknown = [subscribe(b"a"), vec![(30 << 3 & 0x7f) | 0x80 | 2, 1, 0]].concat();
    all_end_with(
        ErrorCode::Malformed,
        [
            ("empty", framed(b"")),
            ("a prefix without end", vec![0xff; 11]),
            ("no protobuf", framed(&[0xff; 20])),
            ("text", framed(b"GET / HTTP/1.1\r\n\r\n")),
            ("kind 0", framed(&[2, 0])),
            ("a kind that is no message", framed(&[8, 1])),
            ("two of one kind", framed(&two)),
            ("two kinds, one unknown", framed(&known_and_unknown)),
            (
                "an inner length past the end",
                framed(&[(4 << 3) | 2, 100, 8, 1]),
            ),
            ("a text that is no UTF-8", framed(&subscribe(&[0xc3, 0x28]))),
            ("a kind cut short", framed(&[(4 << 3) | 2])),
        ],
    )
    .await;
}

/// PROTO-8: a device of a newer minor version is told the broker's, and served.
#[tokio::test]
async fn both_ends_say_their_minor_version() {
    let broker = DEFAULTS.broker();
    for minor_version in [0, 7, u32::MAX] {
        let mut wire = Wire::open(&broker).await;
        let register = wire::Register {
            minor_version,
            features: u64::MAX,
            ..RawDevice::registration(&broker)
        };
        wire.send_frame(to_broker::Frame::Register(register)).await;
        assert!(matches!(
            wire.frame().await,
            Some(to_device::Frame::Registered(_))
        ));
        match wire.frame().await {
            Some(to_device::Frame::Welcome(w)) => {
                assert_eq!((w.minor_version, w.features), (MINOR_VERSION, 0));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// PROTO-9: fields that the broker does not know are ignored.
#[tokio::test]
async fn unknown_fields_are_ignored() {
    let broker = DEFAULTS.broker();
    let mut inner = RawDevice::registration(&broker).encode_to_vec();
    for (field, wire_type, value) in [
        (200, WireType::Varint, &[5_u8][..]),
        (201, WireType::LengthDelimited, &[3, 1, 2, 3]),
        (202, WireType::SixtyFourBit, &[0; 8]),
    ] {
        encode_key(field, wire_type, &mut inner);
        inner.extend_from_slice(value);
    }
    let mut body = Vec::new();
    encode_key(2, WireType::LengthDelimited, &mut body);
    encode_varint(inner.len() as u64, &mut body);
    body.extend_from_slice(&inner);
    let mut wire = Wire::open(&broker).await;
    wire.send(&framed(&body)).await;
    assert!(wire.welcomed().await.is_some());
}

/// PROTO-9: an unknown kind below 64 is ignored and counted, from 64 on it ends the session.
#[tokio::test]
async fn an_unknown_kind_is_ignored_below_64_and_refused_from_it() {
    // A broker of its own, because it counts for all.
    let broker = Broker::start();
    let api = Api::new(&broker);
    let ignored = "petrel_shard_frames_ignored_total";
    assert_eq!(api.metric(ignored, "").await, 0.0);
    let mut wire = Wire::open(&broker).await;
    wire.send(&frame_of_kind(12, 2)).await;
    wire.send(&frame_of_kind(IGNORABLE_FRAME_KIND_END - 1, 400))
        .await;
    wire.send_frame(to_broker::Frame::Register(RawDevice::registration(&broker)))
        .await;
    assert!(wire.welcomed().await.is_some());
    wire.send(&frame_of_kind(IGNORABLE_FRAME_KIND_END - 1, 3))
        .await;
    wire.send_frame(to_broker::Frame::Subscribe(Default::default()))
        .await;
    assert!(matches!(
        wire.frame().await,
        Some(to_device::Frame::Result(_))
    ));
    assert_eq!(api.metric(ignored, "").await, 3.0);

    let cases = [IGNORABLE_FRAME_KIND_END, 1000, (1 << 29) - 1]
        .map(|kind| ("unknown", frame_of_kind(kind, 20)));
    all_end_with(ErrorCode::Unsupported, cases).await;
}

/// PROTO-10: the `Error` frame comes first, and the device has a second to read it and to close by itself. The broker still
/// knows the connection when the device answers its close, so that no reset hides the reason.
#[tokio::test]
async fn an_error_is_told_before_the_close() {
    // A broker of its own, because it counts for all.
    let broker = Broker::start();
    let api = Api::new(&broker);
    let mut wire = Wire::open(&broker).await;
    wire.send(&framed(b"")).await;
    match wire.frame().await {
        Some(to_device::Frame::Error(error)) => {
            assert_eq!(error.code, ErrorCode::Malformed as u32);
            assert!(!error.message.is_empty(), "a text for humans");
        }
        other => panic!("{other:?}"),
    }
    let told = Instant::now();
    let code = ErrorCode::Malformed;
    let closed = Closed::Application(code as u64, code.name().into());
    assert_eq!(wire.closed().await, closed);
    assert!(
        told.elapsed() > Duration::from_millis(200),
        "{:?}",
        told.elapsed()
    );
    wire.forgotten().await;

    // One that closes at once is gone at once, and may come back.
    let mut wire = Wire::open(&broker).await;
    wire.send(&framed(b"")).await;
    assert!(matches!(
        wire.frame().await,
        Some(to_device::Frame::Error(_))
    ));
    wire.hang_up().await;
    RawDevice::register(&broker).await.goodbye().await;
    let handshakes = async || {
        api.metric("petrel_quic_handshakes_total", "completed")
            .await
    };
    eventually("the third connection to be counted", async || {
        handshakes().await == 3.0
    })
    .await;
    eventually("no session", async || {
        api.metric("petrel_shard_sessions", "").await == 0.0
    })
    .await;
    assert_eq!(api.metric("petrel_quic_resets_sent_total", "").await, 0.0);
}

/// PROTO-11, PROTO-12: whatever comes before an opening is a violation, `Goodbye` excepted.
#[tokio::test]
async fn the_first_frame_is_an_opening() {
    use to_broker::Frame;
    let broker = std::sync::Arc::new(IMPATIENT.broker());
    let mut ends = JoinSet::new();
    for frame in [
        Frame::Rotate(Default::default()),
        Frame::Subscribe(Default::default()),
        Frame::Unsubscribe(Default::default()),
        Frame::Ack(wire::Ack {
            epoch: 1,
            sequences: vec![1],
        }),
        Frame::Event(Default::default()),
        Frame::SetAttributes(Default::default()),
        Frame::SetState(Default::default()),
        Frame::Unregister(Default::default()),
    ] {
        let broker = broker.clone();
        ends.spawn(async move { say_first(&broker, &codec::encode_to_broker(frame)).await });
    }
    while let Some(end) = ends.join_next().await {
        let text = end.unwrap().expect(ErrorCode::ProtocolViolation).to_owned();
        assert!(text.contains("Hello or Register"), "{text}");
    }
    let goodbye = codec::encode_to_broker(Frame::Goodbye(wire::Goodbye {}));
    let end = say_first(&broker, &goodbye).await;
    assert_eq!(end.closed, Closed::Application(0, "goodbye".into()));
    assert!(end.error.is_none());
}

/// PROTO-11, PROTO-12: a second opening in a session is a violation, whichever of the two it is.
#[tokio::test]
async fn a_second_opening_is_a_violation() {
    let broker = DEFAULTS.broker();
    let mut registered = RawDevice::register(&broker).await;
    let hello = to_broker::Frame::Hello(registered.hello());
    let mut other = RawDevice::register(&broker).await;
    let register = to_broker::Frame::Register(RawDevice::registration(&broker));
    registered.wire.send_frame(hello.clone()).await;
    other.wire.send_frame(register).await;
    let pipelined = async {
        let mut wire = Wire::open(&broker).await;
        let once = codec::encode_to_broker(hello.clone());
        wire.send(&[&once[..], &once[..]].concat()).await;
        wire.end().await
    };
    let (a, b, c) = tokio::join!(registered.wire.end(), other.wire.end(), pipelined);
    for end in [a, b, c] {
        assert!(
            end.expect(ErrorCode::ProtocolViolation).contains("twice"),
            "{end:?}"
        );
    }
}
