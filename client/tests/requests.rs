//! What the app asks for: answers, refusals, and what becomes of requests when connections come and go.
#![allow(clippy::unwrap_used)]

mod broker;

use std::time::Duration;

use broker::{Session, TestBroker, closed, disconnected, id, next_message, registered};
use petrel_client::{
    Attributes, Client, DeviceState, ErrorCode, Events, FileStorage, MemoryStorage, Report,
    RequestError, Urgency,
};
use petrel_protocol::session::{BrokerEvent, RequestBody};
use petrel_protocol::wire;

async fn open(broker: &TestBroker) -> (Client, Events, Session) {
    let storage = FileStorage::open(broker.state()).unwrap();
    let (client, mut events) = broker.device().storage(storage).start().unwrap();
    let session = broker.admit().await;
    registered(&mut events).await;
    (client, events, session)
}

#[tokio::test]
async fn requests_are_answered_one_by_one_in_any_order() {
    let broker = TestBroker::start();
    let (client, _events, mut session) = open(&broker).await;
    let attributes = Attributes {
        locale: "de-CH".into(),
        ..Attributes::default()
    };
    let answering = async {
        let mut numbers = Vec::new();
        for _ in 0..4 {
            let (number, body) = session.request().await;
            let refusal = match body {
                RequestBody::Subscribe(topic) if topic.as_str() == "full" => {
                    Some((ErrorCode::TooManyTopics, "10 are allowed"))
                }
                RequestBody::Subscribe(_) | RequestBody::Unsubscribe(_) => None,
                RequestBody::SetAttributes(attributes) => {
                    assert_eq!(attributes.locale, "de-CH");
                    None
                }
                other => panic!("{other:?}"),
            };
            numbers.push((number, refusal));
        }
        for (number, refusal) in numbers.into_iter().rev() {
            session.answer(number, refusal).await;
        }
    };
    let (a, b, c, d, ()) = tokio::join!(
        client.subscribe("news"),
        client.subscribe("full"),
        client.unsubscribe("old"),
        client.set_attributes(attributes),
        answering,
    );
    a.and(c).and(d).unwrap();
    let refused = b.unwrap_err();
    assert_eq!(
        (refused.code(), refused.is_retryable()),
        (Some(ErrorCode::TooManyTopics), false)
    );
    assert!(refused.to_string().contains("10 are allowed"), "{refused}");
}

#[tokio::test]
async fn what_is_out_of_bounds_is_told_without_asking() {
    let broker = TestBroker::start();
    let (client, _events, mut session) = open(&broker).await;
    let long = || "x".repeat(65);
    let outcomes = [
        client.subscribe("/topics/news").await,
        client.unsubscribe("").await,
        client.report(Report::Muted(long())).await,
        client
            .report(Report::Action {
                id: id(1),
                action: long(),
            })
            .await,
        client
            .set_attributes(Attributes {
                time_zone: long(),
                ..Attributes::default()
            })
            .await,
        client
            .set_state(DeviceState {
                battery_percent: Some(101),
                ..DeviceState::default()
            })
            .await,
    ];
    for outcome in outcomes {
        assert!(
            matches!(outcome, Err(RequestError::Invalid(_))),
            "{outcome:?}"
        );
    }
    assert!(session.is_silent(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn a_request_outlives_its_connection() {
    let broker = TestBroker::start();
    let (client, mut events, mut session) = open(&broker).await;
    let serving = async {
        assert_eq!(session.subscribe().await.1, "news");
        session.cut();
        disconnected(&mut events).await;
        let mut session = broker.admit().await;
        let (number, topic) = session.subscribe().await;
        assert_eq!(topic, "news");
        session.answer(number, None).await;
        session
    };
    let (subscribed, session) = tokio::join!(client.subscribe("news"), serving);
    subscribed.unwrap();
    // Answered is answered: the next session does not ask again.
    session.cut();
    let mut session = broker.admit().await;
    assert!(session.is_silent(Duration::from_millis(200)).await);
}

#[tokio::test]
async fn without_a_session_requests_wait_and_then_time_out_but_the_wish_is_kept() {
    let broker = TestBroker::start();
    let builder = || {
        let storage = FileStorage::open(broker.state()).unwrap();
        broker
            .device()
            .request_timeout(Duration::from_millis(150))
            .storage(storage)
    };
    let (client, events) = builder().start().unwrap();
    // The device is connected and not let in: no session.
    let waiting = broker.accept().await;
    let late = client.subscribe("news").await.unwrap_err();
    assert!(matches!(late, RequestError::Timeout { .. }) && late.is_retryable());
    assert!(matches!(
        client.report(Report::BadgeCleared).await,
        Err(RequestError::Timeout { .. })
    ));
    drop(waiting);
    client.close().await;
    assert!(matches!(
        client.subscribe("x").await,
        Err(RequestError::Closed)
    ));
    drop(events);
    let (_client, _events) = builder().start().unwrap();
    let mut session = broker.admit().await;
    assert_eq!(session.subscribe().await.1, "news");
    // The report is not kept: its caller knows that it failed.
    assert!(session.is_silent(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn reports_and_states_reach_the_broker_and_states_are_said_at_each_session() {
    let broker = TestBroker::start();
    let (client, _events, mut session) = open(&broker).await;
    client
        .report(Report::Action {
            id: id(3),
            action: "reply".into(),
        })
        .await
        .unwrap();
    let BrokerEvent::Report(event) = session.next().await else {
        panic!()
    };
    assert_eq!(
        (event.kind, event.action.as_str()),
        (wire::event::Kind::Action as i32, "reply")
    );
    assert_eq!(event.message, Some(id(3).into()));
    let state = DeviceState {
        foreground: Some(true),
        muted_categories: Some(Vec::new()),
        minimum_urgency: Some(Urgency::High),
        ..DeviceState::default()
    };
    client.set_state(state).await.unwrap();
    let BrokerEvent::State(said) = session.next().await else {
        panic!()
    };
    assert_eq!(
        (said.foreground, said.muted),
        (Some(true), Some(Vec::new()))
    );
    session.cut();
    let mut session = broker.admit().await;
    assert_eq!(session.hello().minimum_urgency, Urgency::High);
    let BrokerEvent::State(said) = session.next().await else {
        panic!()
    };
    assert_eq!(said.foreground, Some(true));
}

#[tokio::test]
async fn a_rotation_whose_answer_is_lost_ends_with_the_secret_that_the_broker_has() {
    let broker = TestBroker::start();
    let (client, mut events, mut session) = open(&broker).await;
    let old = session.register().secret.clone();
    let serving = async {
        let (_, RequestBody::Rotate(new)) = session.request().await else {
            panic!()
        };
        assert_ne!(new, old);
        // The broker rotated, and the answer is lost.
        session.cut();
        let mut session = broker.accept().await;
        assert_eq!(session.hello().secret, old);
        session.end(ErrorCode::WrongSecret, "", 0).await;
        let mut session = broker.admit().await;
        assert_eq!(session.hello().secret, new);
        let (number, RequestBody::Rotate(again)) = session.request().await else {
            panic!()
        };
        session.answer(number, None).await;
        (session, again)
    };
    let (rotated, (session, again)) = tokio::join!(client.rotate_secret(), serving);
    rotated.unwrap();
    session.cut();
    let mut session = broker.accept().await;
    assert_eq!(session.hello().secret, again);
    // Wrong without a rotation under way: nothing that the device can mend.
    session.end(ErrorCode::WrongSecret, "", 0).await;
    loop {
        if let petrel_client::Event::Closed(cause) = broker::next(&mut events).await {
            assert_eq!(cause.code(), "wrong_secret");
            break;
        }
    }
}

#[tokio::test]
async fn unregister_forgets_everything_and_closes() {
    let broker = TestBroker::start();
    let (client, mut events, mut session) = open(&broker).await;
    session.deliver([1]).await;
    drop(next_message(&mut events).await);
    session.acks().await;
    let secret = session.register().secret.clone();
    let serving = async {
        let (number, RequestBody::Unregister) = session.request().await else {
            panic!()
        };
        session.answer(number, None).await;
        session.goodbye().await;
    };
    let (unregistered, ()) = tokio::join!(client.unregister(), serving);
    unregistered.unwrap();
    assert_eq!(client.token(), None);
    assert_eq!(closed(&mut events).await.code(), "goodbye");
    client.close().await;
    drop(events);
    let (_client, mut events) = broker
        .device()
        .storage(FileStorage::open(broker.state()).unwrap())
        .start()
        .unwrap();
    let mut session = broker.accept().await;
    assert_ne!(session.register().secret, secret);
    session.let_in().await;
    assert_eq!(registered(&mut events).await, ("token".into(), false, None));
}

#[tokio::test]
async fn an_unregistration_whose_answer_is_lost_is_done_when_the_broker_knows_the_token_no_more() {
    let broker = TestBroker::start();
    let (client, mut events, mut session) = open(&broker).await;
    let serving = async {
        session.request().await;
        session.cut();
        disconnected(&mut events).await;
        broker
            .accept()
            .await
            .end(ErrorCode::Unregistered, "", 0)
            .await;
    };
    let (unregistered, ()) = tokio::join!(client.unregister(), serving);
    unregistered.unwrap();
    assert_eq!(closed(&mut events).await.code(), "goodbye");
    assert!(
        broker.stays_alone(Duration::from_millis(300)).await,
        "it does not register anew"
    );
}

#[tokio::test]
async fn closing_says_goodbye_and_dropping_the_events_closes() {
    let broker = TestBroker::start();
    let (client, events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    session.deliver([1]).await;
    drop(events);
    session.goodbye().await;
    broker::within("the end", client.close()).await;
    assert!(broker.stays_alone(Duration::from_millis(300)).await);
}

#[tokio::test]
async fn a_client_without_handles_goes_on() {
    let broker = TestBroker::start();
    let (client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    drop(client);
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([1]).await;
    assert_eq!(next_message(&mut events).await.id, id(1));
}
