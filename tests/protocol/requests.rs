//! Requests: PROTO-20 to PROTO-22, PROTO-25, PROTO-26.

use std::collections::BTreeMap;

use petrel_protocol::session::DeviceEvent;
use petrel_protocol::wire::{self, to_broker, to_device};
use petrel_protocol::{ErrorCode, codec};
use serde_json::json;

use crate::common::{Api, Broker, Closed, RawDevice, Wire, new_secret};
use crate::{DEFAULTS, SMALL_QUEUES, message, message_with};

/// PROTO-20: each request is answered once, by its own number, whatever number that is.
#[tokio::test]
async fn each_request_is_answered_with_its_number() {
    let broker = DEFAULTS.broker();
    let mut wire = Wire::open(&broker).await;
    wire.send_frame(to_broker::Frame::Register(RawDevice::registration(&broker)))
        .await;
    wire.welcomed().await;
    // A number twice: two requests, two answers.
    let numbers = [7, 0, u32::MAX, 7, 1];
    let mut bytes = Vec::new();
    for (nth, request) in numbers.into_iter().enumerate() {
        let topic = if nth == 1 {
            "no topic!".to_owned()
        } else {
            format!("t{nth}")
        };
        let subscribe = to_broker::Frame::Subscribe(wire::Subscribe { request, topic });
        bytes.extend_from_slice(&codec::encode_to_broker(subscribe));
    }
    wire.send(&bytes).await;
    let mut answers = BTreeMap::new();
    for _ in numbers {
        match wire.frame().await {
            Some(to_device::Frame::Result(r)) => {
                answers
                    .entry(r.request)
                    .or_insert_with(Vec::new)
                    .push(r.code);
            }
            other => panic!("{other:?}"),
        }
    }
    let invalid = ErrorCode::InvalidTopic as u32;
    let expected = [
        (0, vec![invalid]),
        (1, vec![0]),
        (7, vec![0, 0]),
        (u32::MAX, vec![0]),
    ];
    assert_eq!(answers, BTreeMap::from(expected));
}

/// PROTO-20: a request that fails says why and leaves the session open.
#[tokio::test]
async fn a_failed_request_leaves_the_session_open() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    let long = "t".repeat(901);
    for topic in ["", "no topic!", "a/b", "täglich", &long] {
        let (code, text) = device.subscribe(topic).await.unwrap_err();
        assert_eq!(code, ErrorCode::InvalidTopic as u32);
        assert!(text.starts_with("Subscribe.topic: "), "{text}");
        let (code, _) = device.unsubscribe(topic).await.unwrap_err();
        assert_eq!(code, ErrorCode::InvalidTopic as u32);
    }
    let rotate = |request| {
        let secret = vec![1; 31].into();
        to_broker::Frame::Rotate(wire::Rotate { request, secret })
    };
    let (code, text) = device.request(rotate).await.unwrap_err();
    assert_eq!(code, ErrorCode::InvalidArgument as u32);
    assert!(text.starts_with("Rotate.secret: "), "{text}");
    assert_eq!(
        device.subscribe(&long[1..]).await,
        Ok(()),
        "900 bytes are a topic"
    );
    Api::new(&broker)
        .publish_topic(&long[1..], message("1"))
        .await
        .id();
    assert_eq!(device.take(1).await, ["1"]);
}

/// PROTO-20: one topic more than a registration may have fails; what it has stays, and a place can be made.
#[tokio::test]
async fn topics_are_bounded() {
    let broker = SMALL_QUEUES.broker();
    let mut device = RawDevice::register(&broker).await;
    for topic in ["a", "b", "c", "c"] {
        assert_eq!(device.subscribe(topic).await, Ok(()));
    }
    let (code, text) = device.subscribe("d").await.unwrap_err();
    assert_eq!(code, ErrorCode::TooManyTopics as u32, "{text}");
    assert_eq!(device.unsubscribe("b").await, Ok(()));
    assert_eq!(device.subscribe("d").await, Ok(()));
}

/// PROTO-20, PROTO-21: what was answered with done survives a SIGKILL that follows at once.
#[tokio::test]
async fn an_answer_is_durable() {
    let mut broker = Broker::start();
    let mut device = RawDevice::register(&broker).await;
    let secret = new_secret();
    let rotate = {
        let secret = secret.clone();
        |request| to_broker::Frame::Rotate(wire::Rotate { request, secret })
    };
    assert_eq!(device.request(rotate).await, Ok(()));
    assert_eq!(device.subscribe("kept").await, Ok(()));
    broker.kill();
    broker.restart();
    Api::new(&broker)
        .publish_topic("kept", message("1"))
        .await
        .id();
    let mut device = RawDevice::greet(
        &broker,
        wire::Hello {
            secret,
            ..device.hello()
        },
    )
    .await;
    assert_eq!(device.take(1).await, ["1"]);
}

/// PROTO-21: subscribing twice and unsubscribing from nothing succeed, and change nothing further.
#[tokio::test]
async fn repeated_subscriptions_succeed() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let topic = "twice";
    assert_eq!(device.unsubscribe(topic).await, Ok(()));
    assert_eq!(device.subscribe(topic).await, Ok(()));
    assert_eq!(device.subscribe(topic).await, Ok(()));
    api.publish_topic(topic, message("1")).await.id();
    let came = device.message().await;
    assert_eq!(came.topic, topic);
    device.nothing_comes().await;
    assert_eq!(device.unsubscribe(topic).await, Ok(()));
    assert_eq!(device.unsubscribe(topic).await, Ok(()));
    api.publish_topic(topic, message("2")).await.id();
    device.nothing_comes().await;
}

/// PROTO-21: a message reaches those who were subscribed when it was accepted: not who comes later, and also who has
/// left since.
#[tokio::test]
async fn the_audience_is_fixed_at_acceptance() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let topic = "audience";
    let register = wire::Register {
        minimum_urgency: wire::Urgency::High as i32,
        ..RawDevice::registration(&broker)
    };
    let mut leaves = RawDevice::register_as(&broker, register).await;
    let mut away = RawDevice::register(&broker).await;
    let mut late = RawDevice::register(&broker).await;
    assert_eq!(leaves.subscribe(topic).await, Ok(()));
    assert_eq!(away.subscribe(topic).await, Ok(()));
    let hello = away.hello();
    away.goodbye().await;

    api.publish_topic(topic, message("1")).await.id();
    assert_eq!(leaves.unsubscribe(topic).await, Ok(()));
    assert_eq!(late.subscribe(topic).await, Ok(()));
    late.nothing_comes().await;
    leaves.nothing_comes().await;
    let state = wire::SetState {
        minimum_urgency: Some(wire::Urgency::Unspecified as i32),
        ..wire::SetState::default()
    };
    leaves.say(to_broker::Frame::SetState(state)).await;
    assert_eq!(leaves.take(1).await, ["1"]);
    // The subscription is the registration's and was not lost with the session.
    let mut away = RawDevice::greet(&broker, hello).await;
    assert_eq!(away.take(1).await, ["1"]);
    api.publish_topic(topic, message("2")).await.id();
    assert_eq!(away.take(1).await, ["2"]);
    assert_eq!(late.take(1).await, ["2"]);
    leaves.nothing_comes().await;
}

/// PROTO-22: what a `SetState` does not say stays as it was.
#[tokio::test]
async fn absent_fields_of_a_state_change_nothing() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let minimum = |minimum: Option<wire::Urgency>| {
        to_broker::Frame::SetState(wire::SetState {
            foreground: Some(true),
            notifications_allowed: Some(false),
            muted_categories: vec!["news".into()],
            muted_known: true,
            battery_percent: Some(100),
            minimum_urgency: minimum.map(|urgency| urgency as i32),
            ..wire::SetState::default()
        })
    };
    device.say(minimum(Some(wire::Urgency::High))).await;
    device.say(minimum(None)).await;
    device
        .say(to_broker::Frame::SetState(wire::SetState::default()))
        .await;
    device.round_trip().await;
    api.publish_token(
        &device.token,
        message_with("1", json!({ "urgency": "normal" })),
    )
    .await
    .id();
    device.nothing_comes().await;
    device.say(minimum(Some(wire::Urgency::Unspecified))).await;
    assert_eq!(device.take(1).await, ["1"]);
}

/// PROTO-22: a state out of its bounds ends the session with the name of the field.
#[tokio::test]
async fn a_state_out_of_bounds_is_refused() {
    let broker = DEFAULTS.broker();
    let muted = |count: usize, bytes: usize| wire::SetState {
        muted_categories: vec!["c".repeat(bytes); count],
        muted_known: true,
        ..wire::SetState::default()
    };
    let battery = |percent| wire::SetState {
        battery_percent: Some(percent),
        ..wire::SetState::default()
    };
    let mut good = RawDevice::register(&broker).await;
    good.say(to_broker::Frame::SetState(battery(100))).await;
    good.say(to_broker::Frame::SetState(muted(64, 64))).await;
    good.round_trip().await;
    let mut ends = tokio::task::JoinSet::new();
    for (field, state) in [
        ("SetState.battery_percent", battery(101)),
        ("SetState.battery_percent", battery(u32::MAX)),
        ("SetState.muted_categories", muted(65, 1)),
        ("SetState.muted_categories", muted(1, 65)),
    ] {
        let mut device = RawDevice::register(&broker).await;
        device.say(to_broker::Frame::SetState(state)).await;
        ends.spawn(async move { (field, device.wire.end().await) });
    }
    while let Some(end) = ends.join_next().await {
        let (field, end) = end.unwrap();
        assert!(
            end.expect(ErrorCode::InvalidArgument).starts_with(field),
            "{end:?}"
        );
    }
}

/// PROTO-25: after `Unregister` the token is dead, queue and subscriptions are gone, the session ends with `goodbye`.
#[tokio::test]
async fn unregistering_ends_everything_of_a_registration() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let (token, secret) = (device.token.clone(), device.secret.clone());
    assert_eq!(device.subscribe("mine").await, Ok(()));
    api.publish_token(&token, message("queued")).await.id();
    api.publish_topic("mine", message("broadcast")).await.id();
    assert_eq!(device.labels(2).await, ["queued", "broadcast"]);

    let unregister = |request| to_broker::Frame::Unregister(wire::Unregister { request });
    assert_eq!(device.request(unregister).await, Ok(()));
    let (events, closed) = device.end().await;
    match &events[..] {
        [DeviceEvent::Error { number: 0, .. }] => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(closed, Closed::Application(0, "goodbye".into()));
    let refused = api.publish_token(&token, message("2")).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (404, "UNREGISTERED".into())
    );

    // The same device anew has nothing of the old one.
    let register = wire::Register {
        secret,
        ..RawDevice::registration(&broker)
    };
    let mut anew = RawDevice::register_as(&broker, register).await;
    api.publish_topic("mine", message("3")).await.id();
    anew.nothing_comes().await;
}

/// PROTO-26: after `Rotate` only the new secret opens a session; token, queue and the running session stay.
#[tokio::test]
async fn rotating_replaces_the_secret_and_nothing_else() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let old_secret = device.secret.clone();
    api.publish_token(&device.token, message("1")).await.id();
    assert_eq!(device.labels(1).await, ["1"]);
    let secret = new_secret();
    let rotate = {
        let secret = secret.clone();
        |request| to_broker::Frame::Rotate(wire::Rotate { request, secret })
    };
    assert_eq!(device.request(rotate).await, Ok(()));
    device.nothing_comes().await;
    let mut wire = Wire::open(&broker).await;
    wire.send_frame(to_broker::Frame::Hello(device.hello()))
        .await;
    wire.end().await.expect(ErrorCode::WrongSecret);

    let hello = wire::Hello {
        secret: secret.clone(),
        ..device.hello()
    };
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.take(1).await, ["1"]);
    let with_secret = |secret| wire::Register {
        secret,
        ..RawDevice::registration(&broker)
    };
    let again = RawDevice::register_as(&broker, with_secret(secret)).await;
    assert_eq!(
        again.token, device.token,
        "the new secret leads to the registration"
    );
    let other = RawDevice::register_as(&broker, with_secret(old_secret)).await;
    assert_ne!(other.token, device.token, "the old one does not");
}
