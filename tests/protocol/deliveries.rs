//! Messages: PROTO-27 to PROTO-30.

use std::time::Duration;

use petrel_protocol::wire::Deliver;
use serde_json::{Map, json};

use crate::common::{Api, Broker, RawDevice, id, label};
use crate::{DEFAULTS, SMALL_WINDOW, message, message_with};

/// Publishes the labels `from..=to`, every third of them to the topic.
async fn publish_mixed(api: &Api, token: &str, topic: &str, from: usize, to: usize) {
    for n in from..=to {
        let message = message(&n.to_string());
        if n % 3 == 0 {
            api.publish_topic(topic, message).await.id();
        } else {
            api.publish_token(token, message).await.id();
        }
    }
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..=to).map(|n| n.to_string()).collect()
}

/// Shows that of messages published by [`publish_mixed`] each came once and in the order of its address. Over both
/// addresses the order holds for what is sent after an opening only: live, a unicast may overtake a broadcast.
#[track_caller]
fn assert_in_order_by_address(labels: &[String], from: usize, to: usize) {
    for is_broadcast in [false, true] {
        let came = labels.iter().map(|label| label.parse::<usize>().unwrap());
        let came: Vec<_> = came.filter(|n| (n % 3 == 0) == is_broadcast).collect();
        let expected: Vec<_> = (from..=to)
            .filter(|n| (n % 3 == 0) == is_broadcast)
            .collect();
        assert_eq!(came, expected, "{labels:?}");
    }
}

/// PROTO-27: a session is sent each message once, a new one everything that was not acked, in the order of acceptance.
#[tokio::test]
async fn messages_come_once_a_session_and_again_in_order() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("mixed").await, Ok(()));
    publish_mixed(&api, &device.token, "mixed", 1, 10).await;
    let mut came = Vec::new();
    for _ in 0..10 {
        came.push(device.message().await);
    }
    let labels: Vec<_> = came
        .iter()
        .map(|message| label(message).to_owned())
        .collect();
    assert_in_order_by_address(&labels, 1, 10);
    came.sort_by_key(id);
    assert_eq!(
        came.iter().map(label).collect::<Vec<_>>(),
        numbers(1, 10),
        "ids are in the order of acceptance"
    );
    device.nothing_comes().await;

    let mut again = device.again(&broker).await;
    let repeats: Vec<Deliver> = {
        let mut repeats = Vec::new();
        for _ in 0..10 {
            repeats.push(again.message().await);
        }
        repeats
    };
    assert_eq!(repeats, came, "the same messages under the same ids");
    again
        .ack([2, 3, 5, 9].map(|n: usize| id(&came[n - 1])))
        .await;
    again.round_trip().await;
    let hello = again.hello();
    again.goodbye().await;
    publish_mixed(&api, &hello.token, "mixed", 11, 13).await;
    let mut last = RawDevice::greet(&broker, hello).await;
    let left = ["1", "4", "6", "7", "8", "10", "11", "12", "13"];
    assert_eq!(last.take(9).await, left);
    last.nothing_comes().await;
}

/// PROTO-27: nothing that was accepted is lost by a SIGKILL of the broker, and what was acked does not come again.
#[tokio::test]
async fn what_is_owed_survives_a_kill() {
    let mut broker = Broker::start();
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("mixed").await, Ok(()));
    publish_mixed(&Api::new(&broker), &device.token, "mixed", 1, 9).await;
    // Unicasts only: what of a broadcast is settled is written behind.
    let mut acked = Vec::new();
    for _ in 0..9 {
        let message = device.message().await;
        if ["1", "5"].contains(&label(&message)) {
            acked.push(id(&message));
        }
    }
    device.ack(acked).await;
    device.round_trip().await;
    broker.kill();
    broker.restart();
    let mut device = device.again(&broker).await;
    publish_mixed(&Api::new(&broker), &device.token, "mixed", 10, 11).await;
    let left = ["2", "3", "4", "6", "7", "8", "9", "10", "11"];
    assert_eq!(device.take(9).await, left);
    device.nothing_comes().await;
}

/// PROTO-28: no more than the window is ever unacked; what waits comes in order as room is made.
#[tokio::test]
async fn no_more_than_the_window_is_unacked() {
    const WINDOW: usize = 4;
    let broker = SMALL_WINDOW.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("window").await, Ok(()));
    // In flight and waiting, live and replayed.
    for round in 0..2 {
        publish_mixed(&api, &device.token, "window", 1, 30).await;
        if round == 1 {
            device = device.again(&broker).await;
        }
        let mut unacked: Vec<Deliver> = Vec::new();
        let mut labels = Vec::new();
        for step in 0.. {
            // Acks of one, two, three at a time, the oldest or the newest first.
            while unacked.len() < WINDOW && labels.len() < 30 {
                let message = device.message().await;
                labels.push(label(&message).to_owned());
                unacked.push(message);
            }
            device.nothing_comes().await;
            if unacked.is_empty() {
                break;
            }
            // More than half of the window, after which a broker must fill it again.
            let count = (WINDOW / 2 + step % 3).min(unacked.len());
            if step % 2 == 0 {
                unacked.reverse();
            }
            let acked: Vec<_> = unacked.drain(..count).collect();
            device.ack(acked.iter().map(id)).await;
        }
        assert_in_order_by_address(&labels, 1, 30);
        assert!(round == 0 || labels == numbers(1, 30), "{labels:?}");
    }
}

/// PROTO-28: also where a window in bytes stops before one of messages does, nothing spins and nobody is kept waiting.
#[tokio::test]
async fn a_window_of_bytes_stops_one_device_and_no_other() {
    const WIDE: usize = 2_040;
    let broker = Broker::with_config("[session]\nwindow_bytes = \"16KiB\"\n");
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let mut bystander = RawDevice::register(&broker).await;
    for device in [&mut device, &mut bystander] {
        assert_eq!(device.subscribe("wide").await, Ok(()));
    }
    // Many short keys: some 4 KB of payload make a frame of some 12 KB, so a second one does not fit beside it.
    let mut data = Map::new();
    for n in 0..WIDE {
        let digit =
            |n: usize| char::from(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[n]);
        data.insert([digit(n / 52), digit(n % 52)].iter().collect(), "".into());
    }
    // What is in flight first fills less than half of the window.
    let long = json!({ "data": { "n": "x".repeat(4_090) } });
    let wide = json!({ "data": data });
    for to_topic in [false, true] {
        for message in [&long, &wide, &wide] {
            match to_topic {
                true => api.publish_topic("wide", message.clone()).await.id(),
                false => api.publish_token(&device.token, message.clone()).await.id(),
            };
        }
        // The device has acked nothing yet: the first is in flight, the others wait, and the broker is at rest.
        let first = device.message().await;
        device.nothing_comes().await;
        if to_topic {
            for _ in 0..3 {
                let message = bystander.message().await;
                bystander.ack([id(&message)]).await;
            }
        }
        bystander.nothing_comes().await;
        device.ack([id(&first)]).await;
        for _ in 0..2 {
            let message = device.message().await;
            assert_eq!(message.data.len(), WIDE);
            device.ack([id(&message)]).await;
        }
    }
}

/// PROTO-29: a message carries the deadline of its acceptance and is not sent after it; others around it are.
#[tokio::test]
async fn nothing_is_sent_after_its_deadline() {
    let broker = SMALL_WINDOW.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("short-lived").await, Ok(()));
    let short = |label: &str| message_with(label, json!({ "ttl": "1s" }));
    let waiting = {
        let mut waiting = RawDevice::register(&broker).await;
        assert_eq!(waiting.subscribe("short-lived").await, Ok(()));
        waiting
    };
    let hello = waiting.hello();
    waiting.goodbye().await;
    // Four fill the window of the attached device; the rest waits at the broker.
    for label in ["1", "2", "3", "4"] {
        for token in [&device.token, &hello.token] {
            api.publish_token(token, message(label)).await.id();
        }
    }
    for token in [&device.token, &hello.token] {
        api.publish_token(token, short("expires")).await.id();
    }
    api.publish_topic("short-lived", short("expires, too"))
        .await
        .id();
    api.publish_topic("short-lived", message("5")).await.id();
    let mut came = Vec::new();
    for _ in 0..4 {
        came.push(device.message().await);
    }
    device.nothing_comes().await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    device.ack(came.iter().map(id)).await;
    assert_eq!(device.take(1).await, ["5"]);
    device.nothing_comes().await;
    let mut waiting = RawDevice::greet(&broker, hello).await;
    assert_eq!(waiting.take(5).await, numbers(1, 5));
    waiting.nothing_comes().await;

    // In time it comes, with its deadline.
    api.publish_token(&device.token, short("in time"))
        .await
        .id();
    let message = device.message().await;
    assert_eq!(message.expires_at_ms, message.accepted_at_ms + 1_000);
}

/// PROTO-29: a message with time to live 0 comes at once or never.
#[tokio::test]
async fn now_or_never() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut attached = RawDevice::register(&broker).await;
    let mut away = RawDevice::register(&broker).await;
    for device in [&mut attached, &mut away] {
        assert_eq!(device.subscribe("now").await, Ok(()));
    }
    let hello = away.hello();
    away.goodbye().await;
    let now = |label: &str| message_with(label, json!({ "ttl": "0s" }));
    for token in [&attached.token, &hello.token] {
        api.publish_token(token, now("token")).await.id();
    }
    api.publish_topic("now", now("topic")).await.id();
    for label in ["token", "topic"] {
        let message = attached.message().await;
        assert_eq!(
            (super::common::label(&message), message.expires_at_ms),
            (label, 0)
        );
    }
    // Not acked, and yet never sent again.
    let mut attached = attached.again(&broker).await;
    attached.nothing_comes().await;
    let mut away = RawDevice::greet(&broker, hello).await;
    away.nothing_comes().await;
}

/// PROTO-30: a newer message of a collapse key replaces older ones at the same address and nowhere else.
#[tokio::test]
async fn a_newer_message_replaces_an_older_one() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    for topic in ["collapse-a", "collapse-b"] {
        assert_eq!(device.subscribe(topic).await, Ok(()));
    }
    let hello = device.hello();
    device.goodbye().await;
    let keyed = |label: &str, key: &str| message_with(label, json!({ "collapse_key": key }));
    for (target, label, key) in [
        ("", "1", "k"),
        ("collapse-a", "2", "k"),
        ("collapse-b", "3", "k"),
        ("", "4", "other"),
        ("", "5", "k"),
        ("collapse-a", "6", "k"),
        ("collapse-a", "7", "other"),
        ("", "8", "k"),
    ] {
        match target {
            "" => api
                .publish_token(&hello.token, keyed(label, key))
                .await
                .id(),
            topic => api.publish_topic(topic, keyed(label, key)).await.id(),
        };
    }
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.labels(5).await, ["3", "4", "6", "7", "8"]);
    device.nothing_comes().await;
}

/// PROTO-30: a message in flight that is replaced came already; only its successor comes again. One that was acked is
/// replaced by nothing.
#[tokio::test]
async fn a_replaced_message_in_flight_is_not_sent_again() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("in-flight").await, Ok(()));
    let keyed = |label: &str| message_with(label, json!({ "collapse_key": "k" }));
    for label in ["1", "2"] {
        api.publish_token(&device.token, keyed(label)).await.id();
        api.publish_topic("in-flight", keyed(label)).await.id();
    }
    let mut live = device.labels(4).await;
    live.sort();
    assert_eq!(live, ["1", "1", "2", "2"]);
    let mut device = device.again(&broker).await;
    assert_eq!(device.take(2).await, ["2", "2"]);
    api.publish_token(&device.token, keyed("3")).await.id();
    assert_eq!(device.take(1).await, ["3"]);
    device.round_trip().await;
    let mut device = device.again(&broker).await;
    device.nothing_comes().await;
}
