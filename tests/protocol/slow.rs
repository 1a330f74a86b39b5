//! Devices that are slow or never read: PROTO-35, and that nobody else notices.

use std::time::Duration;

use petrel_protocol::ErrorCode;
use petrel_protocol::limits::PAYLOAD_BYTES_MAX;
use petrel_protocol::wire::{self, to_broker};
use quinn::VarInt;
use serde_json::json;

use crate::common::{Api, Broker, Closed, RawDevice, Wire};
use crate::{DEFAULTS, IMPATIENT, message};

/// More than `unresponsive_after` of the impatient broker.
const LONG: Duration = Duration::from_millis(1_300);

/// PROTO-35: a device that leaves its oldest message unacked for too long is sent nothing new until it speaks.
#[tokio::test]
async fn an_unresponsive_device_is_sent_nothing_until_it_speaks() {
    let broker = IMPATIENT.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let mut lively = RawDevice::register(&broker).await;
    for device in [&mut device, &mut lively] {
        assert_eq!(device.subscribe("slow").await, Ok(()));
    }
    api.publish_token(&device.token, message("1")).await.id();
    assert_eq!(device.labels(1).await, ["1"]);
    tokio::time::sleep(LONG).await;
    api.publish_token(&device.token, message("2")).await.id();
    api.publish_topic("slow", message("3")).await.id();
    let now = json!({ "data": { "n": "never" }, "petrel": { "ttl": "0s" } });
    api.publish_token(&device.token, now).await.id();
    // Another one got the broadcast, so it was this one's turn, too.
    assert_eq!(lively.take(1).await, ["3"]);
    lively.nothing_comes().await;
    let early = tokio::time::timeout(Duration::ZERO, device.next()).await;
    assert!(early.is_err(), "{early:?}");
    let report = wire::Event {
        kind: wire::event::Kind::Displayed as i32,
        ..wire::Event::default()
    };
    device.say(to_broker::Frame::Event(report)).await;
    assert_eq!(device.labels(2).await, ["2", "3"]);
    device.nothing_comes().await;
}

/// PROTO-35: a device that acks is never unresponsive, however long nothing is said.
#[tokio::test]
async fn a_quiet_device_that_acked_everything_is_responsive() {
    let broker = IMPATIENT.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    api.publish_token(&device.token, message("1")).await.id();
    assert_eq!(device.take(1).await, ["1"]);
    tokio::time::sleep(LONG).await;
    api.publish_token(&device.token, message("2")).await.id();
    assert_eq!(device.take(1).await, ["2"]);
}

/// PROTO-35, PROTO-28: a device that never reads keeps nobody waiting: publishers are answered, others are served, and
/// once it reads it gets everything.
#[tokio::test]
async fn a_device_that_never_reads_disturbs_nobody() {
    const MESSAGES: usize = 40;
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut reader = RawDevice::register(&broker).await;
    let registered = RawDevice::register(&broker).await;
    let hello = registered.hello();
    registered.goodbye().await;
    let wire = Wire::open_with(&broker, |transport| {
        transport.stream_receive_window(VarInt::from_u32(2_000));
    });
    let mut stuck = RawDevice::greet_over(wire.await, hello).await;
    for device in [&mut stuck, &mut reader] {
        assert_eq!(device.subscribe("stuck").await, Ok(()));
    }
    // Requests whose answers it does not read either: far more than may wait unsent.
    let requests = async {
        for _ in 0..30_000 {
            let asked = |request| {
                to_broker::Frame::Unsubscribe(wire::Unsubscribe {
                    request,
                    topic: "no topic!".into(),
                })
            };
            stuck.session.request(asked);
            if let Some(bytes) = stuck.session.poll_transmit() {
                stuck.wire.send.write_all(&bytes).await.unwrap();
            }
        }
    };
    // The broker stops reading at some point, and then nothing more can be written.
    let written = tokio::time::timeout(Duration::from_secs(1), requests).await;
    assert!(
        written.is_err(),
        "30,000 requests are read while their answers pile up"
    );

    let payload = "x".repeat(PAYLOAD_BYTES_MAX - 10);
    for n in 0..MESSAGES {
        let label = format!("{n:04}");
        let message = json!({ "data": { "n": label, "p": payload[..4_000] } });
        api.publish_token(&stuck.token, message.clone()).await.id();
        api.publish_topic("stuck", message).await.id();
        assert_eq!(reader.take(1).await, [label]);
    }
    reader.nothing_comes().await;
    let mut device = stuck.again(&broker).await;
    let mut expected: Vec<String> = Vec::new();
    for n in 0..MESSAGES {
        expected.extend([format!("{n:04}"), format!("{n:04}")]);
    }
    assert_eq!(device.take(2 * MESSAGES).await, expected);
    let closed = stuck.wire.closed().await;
    assert!(matches!(closed, Closed::Application(..)), "{closed:?}");
}

/// PROTO-10: what a device sends while it is being closed is not looked at, and not kept either.
#[tokio::test]
async fn a_device_that_floods_while_it_is_closed_costs_nothing() {
    const ROOM_BYTES: u64 = 8 << 20;
    let broker = Broker::start();
    RawDevice::register(&broker).await.goodbye().await;
    let before = broker.peak_memory_bytes();
    let mut wire = Wire::open(&broker).await;
    // A frame that is too long, and then as many bytes as a second takes.
    wire.send(&[0xff, 0xff, 0xff, 0x7f]).await;
    let flood = vec![0x55; 64 * 1024];
    let mut sent_bytes = 0;
    while wire.send.write_all(&flood).await.is_ok() {
        sent_bytes += flood.len() as u64;
    }
    let grown = broker.peak_memory_bytes() - before;
    assert!(
        grown < ROOM_BYTES,
        "{grown} bytes more after {sent_bytes} sent"
    );
    wire.end().await.expect(ErrorCode::FrameTooLong);
}
