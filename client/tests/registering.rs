//! Registering, resuming, and what the SDK does when a broker refuses.

mod broker;

use std::time::{Duration, Instant};

use broker::{Session, TestBroker, closed, disconnected, registered, token};
use petrel_client::{
    Attributes, CauseKind, ErrorCode, FileStorage, MemoryStorage, Platform, StartError, Urgency,
};
use petrel_protocol::session::RequestBody;

#[tokio::test]
async fn a_device_registers_once_and_resumes_with_what_it_stored() {
    let broker = TestBroker::start();
    let attributes = Attributes {
        user: "ada".into(),
        free: [("tier".to_owned(), "gold".to_owned())].into(),
        ..Attributes::default()
    };
    let builder = || {
        broker
            .device()
            .platform(Platform::Android)
            .attributes(attributes.clone())
            .minimum_urgency(Urgency::Low)
            .storage(FileStorage::open(broker.state()).unwrap())
    };
    let (client, mut events) = builder().start().unwrap();
    assert_eq!(client.token(), None);
    let mut session = broker.accept().await;
    let register = session.register();
    assert_eq!(
        (register.project.as_str(), register.app_key.as_str()),
        ("demo", "app key")
    );
    assert_eq!(
        (register.platform, register.minimum_urgency),
        (Platform::Android, Urgency::Low)
    );
    assert_eq!(register.attributes.user, "ada");
    let secret = register.secret.clone();
    session.let_in().await;
    assert_eq!(registered(&mut events).await, ("token".into(), false, None));
    assert_eq!(client.token(), Some(token("token")));
    tokio::join!(client.close(), session.goodbye());
    assert_eq!(closed(&mut events).await.kind(), CauseKind::App);

    let (client, mut events) = builder().start().unwrap();
    assert_eq!(
        client.token(),
        Some(token("token")),
        "known before the first packet"
    );
    let mut session = broker.accept().await;
    assert_eq!(session.hello().token, token("token"));
    assert_eq!(session.hello().secret, secret);
    assert_eq!(session.hello().cursor, Some(Session::terms().settled_up_to));
    session.let_in().await;
    assert_eq!(registered(&mut events).await, ("token".into(), true, None));
    // The attributes are as the broker was told: it is not told again.
    assert!(session.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn a_lost_answer_to_register_is_repeated_with_the_same_secret() {
    let broker = TestBroker::start();
    let storage = FileStorage::open(broker.state()).unwrap();
    let (client, mut events) = broker.device().storage(storage).start().unwrap();
    let first = broker.accept().await;
    first.cut();
    assert!(disconnected(&mut events).await.0.is_retryable());
    let again = broker.accept().await;
    assert_eq!(again.register().secret, first.register().secret);
    client.close().await;
    let storage = FileStorage::open(broker.state()).unwrap();
    let (_client, _events) = broker.device().storage(storage).start().unwrap();
    let after_restart = broker.accept().await;
    assert_eq!(after_restart.register().secret, first.register().secret);
}

#[tokio::test]
async fn attributes_that_changed_between_two_runs_are_told() {
    let broker = TestBroker::start();
    for (version, told) in [("1", false), ("2", true)] {
        let attributes = Attributes {
            app_version: version.into(),
            ..Attributes::default()
        };
        let storage = FileStorage::open(broker.state()).unwrap();
        let (client, mut events) = broker
            .device()
            .attributes(attributes)
            .storage(storage)
            .start()
            .unwrap();
        let mut session = broker.admit().await;
        registered(&mut events).await;
        if told {
            let (number, body) = session.request().await;
            assert!(matches!(body, RequestBody::SetAttributes(a) if a.app_version == "2"));
            session.answer(number, None).await;
        }
        tokio::join!(client.close(), session.goodbye());
    }
}

#[tokio::test]
async fn replaced_is_the_end_and_the_device_does_not_come_back() {
    let broker = TestBroker::start();
    let (client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.end(ErrorCode::Replaced, "", 0).await;
    let cause = closed(&mut events).await;
    assert_eq!((cause.code(), cause.is_retryable()), ("replaced", false));
    assert!(client.subscribe("x").await.is_err());
    assert!(broker.stays_alone(Duration::from_millis(600)).await);
}

#[tokio::test]
async fn a_dead_registration_is_renewed_once_and_the_app_hears_which_token_died() {
    for code in [ErrorCode::Unregistered, ErrorCode::InvalidToken] {
        let broker = TestBroker::start();
        let storage = FileStorage::open(broker.state()).unwrap();
        let (client, mut events) = broker.device().storage(storage).start().unwrap();
        let mut session = broker.admit().await;
        let secret = session.register().secret.clone();
        let subscribing = client.subscribe("news");
        let answering = async {
            let (number, topic) = session.subscribe().await;
            assert_eq!(topic, "news");
            session.answer(number, None).await;
        };
        tokio::join!(async { subscribing.await.unwrap() }, answering);
        tokio::join!(client.close(), session.goodbye());
        drop(events);

        let storage = FileStorage::open(broker.state()).unwrap();
        (_, events) = broker.device().storage(storage).start().unwrap();
        let mut refused = broker.accept().await;
        assert_eq!(refused.hello().token, token("token"));
        refused.end(code, "", 0).await;
        let mut session = broker.accept().await;
        assert_ne!(
            session.register().secret,
            secret,
            "another secret, so another token"
        );
        session.admit(Some(&token("new")), Session::terms()).await;
        assert_eq!(disconnected(&mut events).await.0.broker_code(), Some(code));
        assert_eq!(
            registered(&mut events).await,
            ("new".into(), false, Some("token".into()))
        );
        // Its subscriptions come along.
        let (number, topic) = session.subscribe().await;
        assert_eq!(topic, "news");
        session.answer(number, None).await;
    }
}

#[tokio::test]
async fn the_previous_token_is_told_until_the_app_took_it() {
    let broker = TestBroker::start();
    let open = || FileStorage::open(broker.state()).unwrap();
    let (client, mut events) = broker.device().storage(open()).start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    tokio::join!(client.close(), session.goodbye());
    drop(events);
    // Renewed, but the app goes before it takes the event.
    let (client, events) = broker.device().storage(open()).start().unwrap();
    broker
        .accept()
        .await
        .end(ErrorCode::Unregistered, "", 0)
        .await;
    let mut session = broker.accept().await;
    session.admit(Some(&token("new")), Session::terms()).await;
    broker::eventually("the new token", || client.token() == Some(token("new"))).await;
    tokio::join!(client.close(), session.goodbye());
    drop(events);
    for previous in [Some("token".to_owned()), None] {
        let (client, mut events) = broker.device().storage(open()).start().unwrap();
        let mut session = broker.admit().await;
        assert_eq!(
            registered(&mut events).await,
            ("new".into(), true, previous)
        );
        tokio::join!(client.close(), session.goodbye());
    }
}

#[tokio::test]
async fn a_second_refusal_in_a_row_closes() {
    let broker = TestBroker::start();
    let (client, mut events) = {
        let storage = FileStorage::open(broker.state()).unwrap();
        broker.device().storage(storage).start().unwrap()
    };
    let mut session = broker.admit().await;
    registered(&mut events).await;
    tokio::join!(client.close(), session.goodbye());
    drop(events);
    let storage = FileStorage::open(broker.state()).unwrap();
    let (_client, mut events) = broker.device().storage(storage).start().unwrap();
    broker
        .accept()
        .await
        .end(ErrorCode::Unregistered, "", 0)
        .await;
    let mut second = broker.accept().await;
    second.register();
    assert_eq!(disconnected(&mut events).await.0.code(), "unregistered");
    second.end(ErrorCode::InvalidToken, "", 0).await;
    assert_eq!(closed(&mut events).await.code(), "invalid_token");
}

#[tokio::test]
async fn a_refused_app_key_closes_and_connect_returns_it() {
    let broker = TestBroker::start();
    let connecting = broker.device().storage(MemoryStorage::default()).connect();
    let refusing = async {
        broker
            .accept()
            .await
            .end(ErrorCode::AppKeyRefused, "no such key", 0)
            .await;
    };
    let (result, ()) = tokio::join!(connecting, refusing);
    let error = result.err().unwrap();
    assert_eq!(
        (error.code(), error.is_retryable()),
        ("app_key_refused", false)
    );
    assert!(error.to_string().contains("no such key"), "{error}");
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let broker = TestBroker::start();
    let (_client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.accept().await;
    session.end(ErrorCode::Overloaded, "", 700).await;
    let refused = Instant::now();
    let (cause, retry_in) = disconnected(&mut events).await;
    assert_eq!(cause.retry_after(), Some(Duration::from_millis(700)));
    // The back-off's jitter, at most 250 ms at the first failure, comes on top.
    assert!((700..=950).contains(&retry_in.as_millis()), "{retry_in:?}");
    let _session = broker.admit().await;
    // The broker noticed the end of the session up to a packet later than the device.
    assert!(refused.elapsed() >= Duration::from_millis(600));
    registered(&mut events).await;
}

#[tokio::test]
async fn reconnect_is_obeyed_in_time_and_place() {
    let (broker, other) = (TestBroker::start(), TestBroker::start());
    let both = [broker.ca(), other.ca()]
        .map(|path| std::fs::read(path).unwrap())
        .concat();
    let (_client, mut events) = broker
        .device()
        .ca_pem(both)
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.reconnect(500, &other.address.to_string()).await;
    let sent_away = Instant::now();
    let (cause, retry_in) = disconnected(&mut events).await;
    assert_eq!(
        (cause.kind(), retry_in),
        (CauseKind::Reconnect, Duration::from_millis(500))
    );
    let mut session = other.admit().await;
    assert!(sent_away.elapsed() >= Duration::from_millis(400));
    assert_eq!(session.hello().token, token("token"));
    assert_eq!(registered(&mut events).await, ("token".into(), true, None));
    // Without a place: back to where the app said.
    session.reconnect(0, "").await;
    broker.admit().await;
}

#[tokio::test]
async fn wrong_settings_are_told_before_anything_is_sent() {
    let broker = TestBroker::start();
    let storage = MemoryStorage::default;
    let start = |builder: petrel_client::ClientBuilder| builder.start().err().unwrap();
    assert!(
        matches!(start(broker.device()), StartError::Missing(_)),
        "no storage"
    );
    let unnamed = broker.device().project("").storage(storage());
    assert!(matches!(start(unnamed), StartError::Missing(_)));
    let long = broker.device().sdk_name(&"s".repeat(65)).storage(storage());
    assert!(matches!(
        start(long),
        StartError::Invalid {
            field: "sdk_name",
            ..
        }
    ));
    let address = petrel_client::Client::builder("nowhere").storage(storage());
    assert!(matches!(start(address), StartError::Address { .. }));
    let no_ca = petrel_client::Client::builder("127.0.0.1:1")
        .project("p")
        .storage(storage());
    assert!(matches!(start(no_ca), StartError::Missing(_)));
    let (client, _events) = broker
        .device()
        .storage(FileStorage::open(broker.state()).unwrap())
        .start()
        .unwrap();
    client.close().await;
    let other = broker
        .device()
        .project("other")
        .storage(FileStorage::open(broker.state()).unwrap());
    assert!(matches!(start(other), StartError::OtherProject { .. }));
}
