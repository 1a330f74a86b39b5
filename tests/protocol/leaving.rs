//! Leaving: PROTO-32 and PROTO-34.

use petrel_protocol::ErrorCode;
use petrel_protocol::session::DeviceEvent;
use petrel_protocol::wire::{self, to_broker};

use crate::common::{Api, Broker, Closed, RawDevice, Wire, id};
use crate::{DEFAULTS, message};

/// Reads up to `Reconnect`; the labels and ids of what came before are dropped.
async fn reconnect(device: &mut RawDevice) -> (u64, String) {
    loop {
        match device.event().await {
            DeviceEvent::Reconnect { after_ms, to } => return (after_ms, to),
            DeviceEvent::Deliver(_) | DeviceEvent::Settled(_) => {}
            other => panic!("instead of Reconnect: {other:?}"),
        }
    }
}

/// PROTO-32, PROTO-24: a broker that is told to end sends its devices away, takes the acks that still come, ends well, and
/// owes after its return exactly what was not acked.
#[tokio::test]
async fn a_broker_that_ends_sends_its_devices_away() {
    let mut broker = Broker::start();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let mut idle = RawDevice::register(&broker).await;
    for label in ["1", "2"] {
        api.publish_token(&device.token, message(label)).await.id();
    }
    let acked_late = id(&device.message().await);
    broker.ask_to_end();
    for device in [&mut device, &mut idle] {
        let (after_ms, to) = reconnect(device).await;
        // Two devices at the default rate of 2,000 a second.
        assert!(after_ms <= 1_000 && to.is_empty(), "{after_ms} {to:?}");
    }
    let ack = wire::Ack {
        epoch: acked_late.epoch,
        sequences: vec![acked_late.sequence],
    };
    device.wire.send_frame(to_broker::Frame::Ack(ack)).await;
    device
        .wire
        .send_frame(to_broker::Frame::Goodbye(wire::Goodbye {}))
        .await;
    let hello = device.hello();
    idle.wire.hang_up().await;
    // What it says after `Reconnect` is not looked at, acks excepted; so it closes by itself.
    tokio::join!(device.wire.hang_up(), async {
        assert!(broker.ended().await.success())
    });
    broker.restart();
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.take(1).await, ["2"]);
    device.nothing_comes().await;
}

/// PROTO-32: the return is spread over the devices of all shards, at the rate that is configured.
#[tokio::test]
async fn the_return_is_spread() {
    let mut broker = Broker::with_config(
        "[quic]\nshards = 3\n[drain]\nreconnect_rate = 1\nack_wait = \"100ms\"\n",
    );
    let mut devices = Vec::new();
    for _ in 0..4 {
        devices.push(RawDevice::register(&broker).await);
    }
    broker.ask_to_end();
    let mut delays = Vec::new();
    for device in &mut devices {
        delays.push(reconnect(device).await.0);
    }
    delays.sort_unstable();
    assert_eq!(delays, [0, 1_000, 2_000, 3_000]);
    // Those that do not go are closed, and do not keep the broker.
    assert!(broker.ended().await.success());
    for device in &devices {
        let code = ErrorCode::Draining;
        assert_eq!(
            device.wire.closed().await,
            Closed::Application(code as u64, code.name().into())
        );
    }
}

/// PROTO-34: `Goodbye` ends the session with code 0; the registration and what it is owed stay.
#[tokio::test]
async fn goodbye_keeps_the_registration() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    api.publish_token(&device.token, message("1")).await.id();
    assert_eq!(device.labels(1).await, ["1"]);
    let hello = device.hello();
    // Acks that leave with it count (PROTO-24).
    api.publish_token(&device.token, message("2")).await.id();
    let second = id(&device.message().await);
    device.session.ack(second);
    device.goodbye().await;
    api.publish_token(&hello.token, message("3")).await.id();
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.take(2).await, ["1", "3"]);
    device.nothing_comes().await;
}

/// A publisher's server erases a device: the session is told, what waited is gone, and neither publisher nor device finds
/// the registration again, also after a restart.
#[tokio::test]
async fn an_erased_device_is_gone_for_good() {
    let mut broker = Broker::start();
    let api = Api::new(&broker);
    let mut online = RawDevice::register(&broker).await;
    let offline = RawDevice::register(&broker).await;
    let hello = offline.hello();
    offline.wire.hang_up().await;
    api.publish_token(&offline.token, message("1")).await.id();

    assert_eq!(api.erase(&online.token).await.status, 200);
    let (_, closed) = online.end().await;
    let code = ErrorCode::Unregistered;
    assert_eq!(
        closed,
        Closed::Application(code as u64, code.name().to_owned())
    );
    let erased = api.erase(&offline.token).await;
    assert_eq!((erased.status, erased.text.as_str()), (200, "{}"));
    for again in [
        api.erase(&offline.token).await,
        api.publish_token(&offline.token, message("2")).await,
    ] {
        assert_eq!(
            (again.status, again.reason().as_str()),
            (404, "UNREGISTERED")
        );
    }
    assert_eq!(api.erase("nobody").await.reason(), "INVALID_TOKEN");
    broker.kill();
    broker.restart();
    let api = Api::new(&broker);
    assert_eq!(api.erase(&offline.token).await.status, 404);
    let mut wire = Wire::open(&broker).await;
    wire.send_frame(to_broker::Frame::Hello(hello)).await;
    wire.end().await.expect(code);
    assert_eq!(api.metric("petrel_delivery_owed", "").await as u64, 0);
}
