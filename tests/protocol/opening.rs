//! Opening: PROTO-12 to PROTO-16 and PROTO-19.

use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_protocol::session::states::BrokerState;
use petrel_protocol::session::{BrokerEvent, BrokerSession};
use petrel_protocol::wire::{self, to_broker, to_device};
use petrel_protocol::{ErrorCode, codec};
use petrel_quic::close_code;
use serde_json::json;

use super::frames::frame_of_kind;
use crate::common::{Api, Broker, Closed, RawDevice, Wire, within};
use crate::{DEFAULTS, IMPATIENT, message, message_with};

/// PROTO-12: a connection that says too little for `hello_timeout` is told so and closed; one that was admitted in time
/// stays.
#[tokio::test]
async fn a_device_that_does_not_open_in_time_is_closed() {
    let broker = IMPATIENT.broker();
    let mut admitted = RawDevice::register(&broker).await;
    let began = Instant::now();
    let mut silent = Wire::open(&broker).await;
    silent.send(&[100, 2]).await;
    silent.end().await.expect(ErrorCode::HelloTimeout);
    assert!(began.elapsed() >= Duration::from_millis(300));
    admitted.nothing_comes().await;
}

/// PROTO-12: a connection whose stream never comes is closed by the transport within its 10 s.
#[tokio::test]
async fn a_device_that_never_opens_its_stream_is_closed() {
    let broker = IMPATIENT.broker();
    let silent = Wire::open(&broker).await;
    let closed = silent.closed().await;
    let code = u64::from(close_code::STREAM_MISSING);
    assert!(
        matches!(closed, Closed::Application(is, _) if is == code),
        "{closed:?}"
    );
}

/// PROTO-13: frames right behind the opening are answered after `Welcome`, up to 32,768 bytes of them in any case.
#[tokio::test]
async fn a_device_need_not_wait_for_welcome() {
    const PIPELINED_BYTES: usize = 32_768;
    let broker = DEFAULTS.broker();
    let device = RawDevice::register(&broker).await;
    for opening in [
        to_broker::Frame::Register(RawDevice::registration(&broker)),
        to_broker::Frame::Hello(device.hello()),
    ] {
        let topic = "early".to_owned();
        let subscribe = to_broker::Frame::Subscribe(wire::Subscribe { request: 9, topic });
        let subscribe = codec::encode_to_broker(subscribe);
        let mut bytes = codec::encode_to_broker(opening).to_vec();
        // The prefix of a frame of this length has three bytes, one of 128 to 16,383 has two.
        bytes.extend(frame_of_kind(20, 16_384));
        let left = PIPELINED_BYTES - 16_387 - subscribe.len() - 2;
        bytes.extend(frame_of_kind(20, left));
        bytes.extend_from_slice(&subscribe);
        let mut wire = Wire::open(&broker).await;
        wire.send(&bytes).await;
        wire.welcomed().await;
        match wire.frame().await {
            Some(to_device::Frame::Result(r)) => assert_eq!((r.request, r.code), (9, 0)),
            other => panic!("{other:?}"),
        }
    }
}

/// PROTO-13: while a device is being admitted 32,768 bytes wait, one more is a violation. On the machine itself, because
/// outside nobody can tell when an admission ends.
#[test]
fn too_many_bytes_before_welcome_are_a_violation() {
    let register = codec::encode_to_broker(to_broker::Frame::Register(wire::Register {
        secret: vec![1; 32].into(),
        ..wire::Register::default()
    }));
    let mut session = BrokerSession::default();
    session.handle_bytes(register);
    assert!(matches!(
        session.poll_event(),
        Some(BrokerEvent::Opening(_))
    ));
    // A prefix of two bytes, then the body.
    session.handle_bytes(frame_of_kind(20, 16_000).into());
    assert!(session.poll_event().is_none());
    session.handle_bytes(Bytes::from(vec![2; 32_768 - 16_002]));
    assert!(session.poll_event().is_none(), "at the limit");
    assert_eq!(session.state(), BrokerState::Admitting);
    session.handle_bytes(Bytes::from_static(&[2]));
    match session.poll_event() {
        Some(BrokerEvent::Fault { code, .. }) => assert_eq!(code, ErrorCode::ProtocolViolation),
        other => panic!("{other:?}"),
    }
}

/// PROTO-14: the broker keeps no secret: no file of its data directory holds one.
#[tokio::test]
async fn the_secret_is_not_kept() {
    let broker = Broker::start();
    let secret = Bytes::from_static(b"a secret of thirty-two bytes!!!!");
    let register = wire::Register {
        secret: secret.clone(),
        ..RawDevice::registration(&broker)
    };
    let device = RawDevice::register_as(&broker, register).await;
    device.goodbye().await;
    let mut folders = vec![broker.ready.data_dir.clone()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                let content = std::fs::read(&path).unwrap();
                let holds_it = content.windows(secret.len()).any(|window| window == secret);
                assert!(!holds_it, "{}", path.display());
            }
        }
    }
    assert!(files > 3 && !broker.stderr().contains("thirty-two"));
}

/// PROTO-15: `Registered` names the token, `Welcome` follows; `Hello` is answered with `Welcome` alone.
#[tokio::test]
async fn a_registration_is_answered_with_its_token_and_welcome() {
    let broker = DEFAULTS.broker();
    let mut wire = Wire::open(&broker).await;
    let register = RawDevice::registration(&broker);
    wire.send_frame(to_broker::Frame::Register(register.clone()))
        .await;
    let token = wire.welcomed().await.unwrap();
    assert_eq!(token.len(), 34);
    let mut wire = Wire::open(&broker).await;
    let (secret, hello_token) = (register.secret, token);
    let hello = wire::Hello {
        token: hello_token,
        secret,
        ..wire::Hello::default()
    };
    wire.send_frame(to_broker::Frame::Hello(hello)).await;
    match wire.frame().await {
        Some(to_device::Frame::Welcome(w)) => {
            let limits = w.limits.unwrap();
            assert_eq!(
                (limits.frame_bytes_max, limits.window_messages),
                (16_384, 64)
            );
            assert!(w.server_time_ms > 1_700_000_000_000 && w.keep_alive_seconds == 120);
        }
        other => panic!("{other:?}"),
    }
}

/// PROTO-15: the same project and secret give the same token, another secret or project another one.
#[tokio::test]
async fn the_same_registration_again_gives_the_same_token() {
    let broker = Broker::with_config(
        "[projects.one]\napi_keys = [\"api-key-of-project-one\"]\napp_keys = [\"app-key-of-project-one\"]\n\
         [projects.two]\napi_keys = [\"api-key-of-project-two\"]\napp_keys = [\"app-key-of-project-two\"]\n",
    );
    let of = |project: &str, secret: &Bytes| wire::Register {
        project: project.to_owned(),
        app_key: format!("app-key-of-project-{project}"),
        secret: secret.clone(),
        ..wire::Register::default()
    };
    let (secret, other_secret) = (Bytes::from(vec![1; 32]), Bytes::from(vec![2; 32]));
    let first = RawDevice::register_as(&broker, of("one", &secret)).await;
    let again = RawDevice::register_as(&broker, of("one", &secret)).await;
    let other = RawDevice::register_as(&broker, of("one", &other_secret)).await;
    let elsewhere = RawDevice::register_as(&broker, of("two", &secret)).await;
    assert_eq!(first.token, again.token);
    assert!(first.token != other.token && first.token != elsewhere.token);
    let foreign = Api::with_keys(&broker, "two", "api-key-of-project-two");
    let refused = foreign.publish_token(&first.token, message("1")).await;
    assert_eq!(
        (refused.status, refused.reason()),
        (403, "FOREIGN_PROJECT".into())
    );
}

/// PROTO-15: what `Registered` said survives a SIGKILL that follows at once.
#[tokio::test]
async fn a_registration_is_durable_before_it_is_told() {
    let mut broker = Broker::start();
    let register = RawDevice::registration(&broker);
    let mut wire = Wire::open(&broker).await;
    wire.send_frame(to_broker::Frame::Register(register.clone()))
        .await;
    let Some(to_device::Frame::Registered(registered)) = wire.frame().await else {
        panic!("no Registered");
    };
    broker.kill();
    broker.restart();
    let (token, secret) = (registered.token.clone(), register.secret.clone());
    let hello = wire::Hello {
        token,
        secret,
        ..wire::Hello::default()
    };
    let device = RawDevice::greet(&broker, hello).await;
    let again = RawDevice::register_as(&broker, register).await;
    assert_eq!(again.token, registered.token);
    drop(device);
}

/// PROTO-16: messages below `minimum_urgency` are held back over sessions, and come when it is lowered.
#[tokio::test]
async fn less_urgent_messages_are_held_back() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let register = wire::Register {
        minimum_urgency: wire::Urgency::High as i32,
        ..RawDevice::registration(&broker)
    };
    let mut device = RawDevice::register_as(&broker, register).await;
    for urgency in ["very-low", "low", "normal", "high"] {
        let message = message_with(urgency, json!({ "urgency": urgency }));
        api.publish_token(&device.token, message).await.id();
    }
    assert_eq!(device.take(1).await, ["high"]);
    device.nothing_comes().await;
    let hello = wire::Hello {
        minimum_urgency: wire::Urgency::Normal as i32,
        ..device.hello()
    };
    device.goodbye().await;
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.take(1).await, ["normal"]);
    device.nothing_comes().await;
    for (minimum, label) in [
        (wire::Urgency::Low, "low"),
        (wire::Urgency::Unspecified, "very-low"),
    ] {
        let state = wire::SetState {
            minimum_urgency: Some(minimum as i32),
            ..wire::SetState::default()
        };
        device.say(to_broker::Frame::SetState(state)).await;
        assert_eq!(device.take(1).await, [label]);
        device.nothing_comes().await;
    }
}

/// PROTO-16: a minimum that the broker does not know means everything; so does none.
#[tokio::test]
async fn an_unknown_minimum_urgency_means_everything() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    for minimum_urgency in [0, 99, -1] {
        let register = wire::Register {
            minimum_urgency,
            ..RawDevice::registration(&broker)
        };
        let mut device = RawDevice::register_as(&broker, register).await;
        let message = message_with("quiet", json!({ "urgency": "very-low" }));
        api.publish_token(&device.token, message).await.id();
        assert_eq!(device.take(1).await, ["quiet"]);
    }
}

/// PROTO-19: the newer session of a registration replaces the older one, which is told and sent nothing more.
#[tokio::test]
async fn a_second_session_replaces_the_first() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut old = RawDevice::register(&broker).await;
    let mut new = old.again(&broker).await;
    api.publish_token(&new.token, message("1")).await.id();
    assert_eq!(new.take(1).await, ["1"]);
    let end = old.wire.end().await;
    end.expect(ErrorCode::Replaced);
    assert!(end.frames.is_empty(), "{:?}", end.frames);
    // The end of the old one takes nothing from the new one.
    api.publish_token(&new.token, message("2")).await.id();
    assert_eq!(new.take(1).await, ["2"]);
    // Registering again is an opening like any other.
    let register = wire::Register {
        secret: new.secret.clone(),
        ..RawDevice::registration(&broker)
    };
    let newest = RawDevice::register_as(&broker, register).await;
    new.wire.end().await.expect(ErrorCode::Replaced);
    within("a goodbye", newest.goodbye()).await;
}
