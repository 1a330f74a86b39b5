//! What never comes is said, and the cursor promises nothing: PROTO-31 and PROTO-33.

use petrel_protocol::session::DeviceEvent;
use petrel_protocol::{MessageId, wire};

use crate::common::{Api, RawDevice, id, label};
use crate::{DEFAULTS, SMALL_QUEUES, message};

/// What comes next, so many frames: labels of messages and gaps as `gap`.
async fn kinds(device: &mut RawDevice, count: usize) -> (Vec<String>, Vec<wire::Gap>) {
    let mut kinds = Vec::new();
    let mut gaps = Vec::new();
    while kinds.len() < count {
        match device.event().await {
            DeviceEvent::Deliver(message) => kinds.push(label(&message).to_owned()),
            DeviceEvent::Gap(gap) => {
                kinds.push("gap".to_owned());
                gaps.push(gap);
            }
            DeviceEvent::Settled(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (kinds, gaps)
}

/// PROTO-31: what a full queue evicts is counted in a gap, which comes until it is acked.
#[tokio::test]
async fn evicted_messages_are_told_until_acked() {
    let broker = SMALL_QUEUES.broker();
    let api = Api::new(&broker);
    let device = RawDevice::register(&broker).await;
    let hello = device.hello();
    device.goodbye().await;
    for n in 1..=3 {
        api.publish_token(&hello.token, message(&n.to_string()))
            .await
            .id();
    }
    // At the limit nothing is missing.
    let mut device = RawDevice::greet(&broker, hello.clone()).await;
    assert_eq!(device.labels(3).await, ["1", "2", "3"]);
    device.nothing_comes().await;
    device.goodbye().await;

    for n in 4..=5 {
        api.publish_token(&hello.token, message(&n.to_string()))
            .await
            .id();
    }
    let mut device = RawDevice::greet(&broker, hello.clone()).await;
    let (mut came, gaps) = kinds(&mut device, 4).await;
    came.retain(|kind| kind != "gap");
    assert_eq!(came, ["3", "4", "5"]);
    let [gap] = &gaps[..] else {
        panic!("one gap: {gaps:?}");
    };
    assert_eq!((gap.count, gap.topic.as_str()), (2, ""));
    assert_eq!(gap.reasons, [("evicted".to_owned(), 2)].into());
    device.nothing_comes().await;
    device.goodbye().await;

    let mut device = RawDevice::greet(&broker, hello.clone()).await;
    let (_, again) = kinds(&mut device, 4).await;
    assert_eq!(again, gaps, "not acked, so it comes again");
    device.ack([MessageId::from(gap.id.unwrap())]).await;
    device.round_trip().await;
    device.goodbye().await;
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.labels(3).await, ["3", "4", "5"]);
    device.nothing_comes().await;
}

/// PROTO-31: what a topic's log lets go of is counted in a gap of that topic, for those who were owed it.
#[tokio::test]
async fn trimmed_messages_are_told_until_acked() {
    let broker = SMALL_QUEUES.broker();
    let api = Api::new(&broker);
    let mut present = RawDevice::register(&broker).await;
    let mut away = RawDevice::register(&broker).await;
    let topic = "trimmed";
    for device in [&mut present, &mut away] {
        assert_eq!(device.subscribe(topic).await, Ok(()));
    }
    let hello = away.hello();
    away.goodbye().await;
    for n in 1..=5 {
        api.publish_topic(topic, message(&n.to_string())).await.id();
        assert_eq!(present.take(1).await, [n.to_string()]);
        present.round_trip().await;
    }
    let mut away = RawDevice::greet(&broker, hello.clone()).await;
    let (mut came, gaps) = kinds(&mut away, 3).await;
    came.retain(|kind| kind != "gap");
    assert_eq!(came, ["4", "5"]);
    let [gap] = &gaps[..] else {
        panic!("one gap: {gaps:?}");
    };
    assert_eq!((gap.count, gap.topic.as_str()), (3, topic));
    assert_eq!(gap.reasons, [("trimmed".to_owned(), 3)].into());
    away.ack([MessageId::from(gap.id.unwrap())]).await;
    away.round_trip().await;
    away.goodbye().await;
    let mut away = RawDevice::greet(&broker, hello).await;
    assert_eq!(away.take(2).await, ["4", "5"]);
    away.nothing_comes().await;
    present.nothing_comes().await;
}

/// PROTO-33: whatever cursor a device shows, it gets everything that it has not acked.
#[tokio::test]
async fn no_cursor_costs_a_message() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("cursor").await, Ok(()));
    let first = api.publish_token(&device.token, message("1")).await.id();
    api.publish_topic("cursor", message("2")).await.id();
    assert_eq!(device.labels(2).await, ["1", "2"]);
    let cursors = [
        None,
        Some((0, 0)),
        Some((first.epoch, first.sequence)),
        Some((first.epoch, first.sequence + 1_000)),
        Some((first.epoch, u64::MAX)),
        Some((first.epoch + 1, 0)),
        Some((first.epoch - 1, u64::MAX)),
        Some((u32::MAX, u64::MAX)),
    ];
    for cursor in cursors {
        let hello = wire::Hello {
            cursor: cursor.map(|(epoch, sequence)| wire::MessageId { epoch, sequence }),
            ..device.hello()
        };
        device = RawDevice::greet(&broker, hello).await;
        assert_eq!(device.labels(2).await, ["1", "2"], "{cursor:?}");
        device.nothing_comes().await;
    }
}

/// PROTO-33: the cursor stands at zero while something is owed and moves on once nothing is, told in `Welcome` and, now
/// and then, in `Settled`. Shown again it costs nothing.
#[tokio::test]
async fn the_cursor_moves_on_when_all_is_settled() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let mut last = MessageId::ZERO;
    let mut settled = MessageId::ZERO;
    for n in 1..=130 {
        last = api
            .publish_token(&device.token, message(&n.to_string()))
            .await
            .id();
        loop {
            match device.event().await {
                DeviceEvent::Settled(up_to) => {
                    assert!(up_to > settled && up_to < last, "{up_to} before {last}");
                    settled = up_to;
                }
                DeviceEvent::Deliver(message) => {
                    device.ack([id(&message)]).await;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        // The ack is worked off by the store; a repeat finds that nothing is owed any more.
        device.round_trip().await;
        device.ack([last]).await;
        device.round_trip().await;
    }
    assert!(settled > MessageId::ZERO, "told at least once in 260 acks");
    let again = device.again(&broker).await;
    let cursor = again.welcome.settled_up_to;
    assert!(cursor >= last, "{cursor} after {last}");
    let next = api.publish_token(&again.token, message("next")).await.id();
    assert!(next > cursor, "a cursor never covers what is to come");
    let hello = wire::Hello {
        cursor: Some(cursor.into()),
        ..again.hello()
    };
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(
        device.welcome.settled_up_to,
        MessageId::ZERO,
        "something is owed"
    );
    assert_eq!(device.take(1).await, ["next"]);
}
