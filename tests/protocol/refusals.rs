//! Who is not let in: PROTO-14, PROTO-17, PROTO-18.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use petrel_protocol::wire::{self, to_broker};
use petrel_protocol::{ErrorCode, codec};
use tokio::task::JoinSet;

use crate::DEFAULTS;
use crate::common::{Api, Broker, End, RawDevice, Wire};
use crate::message;

/// Opens with these frames, each on a connection of its own, all at once; the ends in their order.
async fn refused(broker: &Broker, openings: Vec<to_broker::Frame>) -> Vec<End> {
    let mut wires = Vec::new();
    for opening in openings {
        let mut wire = Wire::open(broker).await;
        wire.send(&codec::encode_to_broker(opening)).await;
        wires.push(wire);
    }
    let mut ends = JoinSet::new();
    for (nth, mut wire) in wires.into_iter().enumerate() {
        ends.spawn(async move { (nth, wire.end().await) });
    }
    let mut ends = ends.join_all().await;
    ends.sort_by_key(|(nth, _)| *nth);
    ends.into_iter().map(|(_, end)| end).collect()
}

fn hello(token: &str, secret: impl Into<Bytes>) -> to_broker::Frame {
    to_broker::Frame::Hello(wire::Hello {
        token: token.to_owned(),
        secret: secret.into(),
        ..wire::Hello::default()
    })
}

/// PROTO-14: without its secret a token opens nothing, and the device that is attached notices nothing.
#[tokio::test]
async fn a_wrong_secret_opens_nothing() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    let other = RawDevice::register(&broker).await;
    let token = device.token.clone();
    let mut almost = device.secret.to_vec();
    almost[31] ^= 1;
    let token_as_secret = token.as_bytes()[..32].to_vec();
    let secrets = [almost, token_as_secret, vec![0; 32], other.secret.to_vec()];
    let openings = secrets.into_iter().map(|secret| hello(&token, secret));
    for end in refused(&broker, openings.collect()).await {
        end.expect(ErrorCode::WrongSecret);
        assert!(end.frames.is_empty());
    }
    Api::new(&broker)
        .publish_token(&token, message("1"))
        .await
        .id();
    assert_eq!(device.take(1).await, ["1"]);
}

/// PROTO-14: a secret has 32 bytes; the token itself is none.
#[tokio::test]
async fn a_secret_of_another_length_is_no_secret() {
    let broker = DEFAULTS.broker();
    let device = RawDevice::register(&broker).await;
    let whole_token = Bytes::copy_from_slice(device.token.as_bytes());
    let lengths = [0, 1, 31, 33, 64].map(|length| Bytes::from(vec![1; length]));
    let mut openings = vec![hello(&device.token, whole_token)];
    for secret in lengths {
        openings.push(hello(&device.token, secret.clone()));
        openings.push(to_broker::Frame::Register(wire::Register {
            secret,
            ..RawDevice::registration(&broker)
        }));
    }
    for end in refused(&broker, openings).await {
        let text = end.expect(ErrorCode::InvalidArgument);
        assert!(text.contains("secret: a secret has 32 bytes"), "{text}");
    }
}

/// What a device may say of itself, in one place for both frames that carry it.
#[derive(Clone, Default)]
struct Texts {
    locale: String,
    time_zone: String,
    app_version: String,
    user: String,
    attributes: BTreeMap<String, String>,
    sdk: String,
}

fn attributes(count: usize, name_bytes: usize, value_bytes: usize) -> BTreeMap<String, String> {
    (0..count)
        .map(|n| (format!("{n:0name_bytes$}"), "v".repeat(value_bytes)))
        .collect()
}

/// Every text at its bound, but for one that has `past` bytes more; `field` is named when it is past.
fn texts(field: &str, past: usize) -> Texts {
    let text = |name: &str, max: usize| "x".repeat(if name == field { max + past } else { max });
    let more = |name: &str, max: usize| if name == field { max + past } else { max };
    Texts {
        locale: text("locale", 35),
        time_zone: text("time_zone", 64),
        app_version: text("app_version", 64),
        user: text("user", 256),
        // 32 names of 64 and values of 256 bytes fit into one frame.
        attributes: attributes(
            more("attributes", 32),
            more("attributes name", 64),
            more("attributes value", 256),
        ),
        sdk: text("sdk", 64),
    }
}

fn register(broker: &Broker, texts: Texts) -> wire::Register {
    wire::Register {
        locale: texts.locale,
        time_zone: texts.time_zone,
        app_version: texts.app_version,
        user: texts.user,
        attributes: texts.attributes,
        sdk: texts.sdk,
        ..RawDevice::registration(broker)
    }
}

const FIELDS: [&str; 8] = [
    "locale",
    "time_zone",
    "app_version",
    "user",
    "attributes",
    "attributes name",
    "attributes value",
    "sdk",
];

/// PROTO-17: every text of `Register` may be as long as its bound; one byte more is refused by the name of the field.
#[tokio::test]
async fn texts_of_a_registration_are_bounded() {
    let broker = DEFAULTS.broker();
    RawDevice::register_as(&broker, register(&broker, texts("", 0))).await;
    let openings =
        FIELDS.map(|field| to_broker::Frame::Register(register(&broker, texts(field, 1))));
    let ends = refused(&broker, openings.to_vec()).await;
    for (field, end) in FIELDS.iter().zip(ends) {
        let text = end.expect(ErrorCode::InvalidArgument);
        assert!(
            text.contains(field.split(' ').next().unwrap()),
            "{field}: {text}"
        );
    }
}

/// PROTO-17, PROTO-20: the same bounds hold for `SetAttributes`, and a refusal leaves the session open.
#[tokio::test]
async fn texts_of_attributes_are_bounded() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    let set = |texts: Texts| {
        move |request| {
            to_broker::Frame::SetAttributes(wire::SetAttributes {
                request,
                locale: texts.locale,
                time_zone: texts.time_zone,
                app_version: texts.app_version,
                user: texts.user,
                attributes: texts.attributes,
            })
        }
    };
    for field in &FIELDS[..7] {
        let (code, text) = device.request(set(texts(field, 1))).await.unwrap_err();
        assert_eq!(code, ErrorCode::InvalidArgument as u32);
        assert!(
            text.contains(field.split(' ').next().unwrap()),
            "{field}: {text}"
        );
        assert_eq!(device.request(set(texts("", 0))).await, Ok(()));
    }
    let unnamed = Texts {
        attributes: BTreeMap::from([(String::new(), "v".into())]),
        ..Texts::default()
    };
    assert!(
        device.request(set(unnamed)).await.is_err(),
        "a name has at least one byte"
    );
}

/// PROTO-18: a token of another broker, an altered one and what is no token at all are invalid.
#[tokio::test]
async fn a_token_that_this_broker_did_not_make_is_invalid() {
    let broker = DEFAULTS.broker();
    let device = RawDevice::register(&broker).await;
    let stranger = Broker::start();
    let foreign = RawDevice::register(&stranger).await;
    let mut altered = device.token.clone().into_bytes();
    altered[20] = if altered[20] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    let long = "A".repeat(2_000);
    let tokens = [&foreign.token, &altered, "", "x", "no token at all", &long];
    let openings = tokens.map(|token| hello(token, foreign.secret.clone()));
    for end in refused(&broker, openings.to_vec()).await {
        end.expect(ErrorCode::InvalidToken);
    }
    // Nor does anybody publish to it here.
    let answer = Api::new(&broker)
        .publish_token(&foreign.token, message("1"))
        .await;
    assert_eq!(
        (answer.status, answer.reason()),
        (400, "INVALID_TOKEN".into())
    );
}

/// PROTO-18: the token of a registration that has ended is unregistered, whatever the secret.
#[tokio::test]
async fn the_token_of_an_ended_registration_is_unregistered() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    let (token, secret) = (device.token.clone(), device.secret.clone());
    let unregister = |request| to_broker::Frame::Unregister(wire::Unregister { request });
    assert_eq!(device.request(unregister).await, Ok(()));
    let openings = vec![hello(&token, secret.clone()), hello(&token, vec![9; 32])];
    for end in refused(&broker, openings).await {
        end.expect(ErrorCode::Unregistered);
    }
    // The same secret again is a new registration with a new token.
    let register = wire::Register {
        secret,
        ..RawDevice::registration(&broker)
    };
    let anew = RawDevice::register_as(&broker, register).await;
    assert_ne!(anew.token, token);
}

/// PROTO-18: an unknown project, a wrong app key and an API key in its place are refused with one and the same answer.
#[tokio::test]
async fn an_unknown_project_or_app_key_is_refused() {
    let broker = DEFAULTS.broker();
    let good = Arc::new(RawDevice::registration(&broker));
    let edit = |edit: &dyn Fn(&mut wire::Register)| {
        let mut register = (*good).clone();
        edit(&mut register);
        to_broker::Frame::Register(register)
    };
    let openings = vec![
        edit(&|r| r.project = "nobody".into()),
        edit(&|r| r.project = String::new()),
        edit(&|r| r.project = "Demo".into()),
        edit(&|r| r.app_key = String::new()),
        edit(&|r| r.app_key.push('x')),
        edit(&|r| r.app_key = r.app_key[1..].into()),
        edit(&|r| r.app_key = broker.ready.api_key.clone()),
    ];
    let ends = refused(&broker, openings).await;
    let texts: Vec<_> = ends
        .iter()
        .map(|end| end.expect(ErrorCode::AppKeyRefused))
        .collect();
    assert!(
        texts.iter().all(|text| *text == texts[0]),
        "nobody learns which of them was wrong"
    );
    RawDevice::register_as(&broker, (*good).clone()).await;
}
