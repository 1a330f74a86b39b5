//! Apps that are slower than their broker.

mod broker;

use std::time::Duration;

use broker::{TestBroker, id, message, next_message, registered};
use petrel_client::{IN_HAND_MAX, MemoryStorage};

#[tokio::test]
async fn an_app_that_takes_nothing_holds_the_broker_back() {
    let broker = TestBroker::start();
    let (_client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    let mut written = 0_u64;
    let mut acked = 0;
    loop {
        let bytes: Vec<u8> = (written..written + 100).flat_map(message).collect();
        if !session.try_write(&bytes, Duration::from_millis(300)).await {
            break;
        }
        written += 100;
        assert!(
            written < 20_000,
            "the device takes everything though its app takes nothing"
        );
        while let Ok(sequences) = tokio::time::timeout(Duration::ZERO, session.acks()).await {
            acked += sequences.len();
        }
    }
    // Whatever was acked is stored, and no more than the channel, one read beyond it and the inbox allow.
    while let Ok(sequences) = tokio::time::timeout(Duration::from_millis(300), session.acks()).await
    {
        acked += sequences.len();
    }
    assert!(acked < 2 * IN_HAND_MAX, "{acked} acked");
    // Once the app takes events, all of them come, in order.
    registered(&mut events).await;
    for sequence in 0..acked as u64 {
        let message = next_message(&mut events).await;
        assert_eq!(message.id, id(sequence));
        message.done();
    }
    assert!(next_message(&mut events).await.id == id(acked as u64));
}

#[tokio::test]
async fn an_app_may_ask_from_within_its_event_loop() {
    let broker = TestBroker::start();
    let (client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    // More than the channel holds: the SDK has stopped reading when the app asks.
    session.deliver(1..=200).await;
    assert_eq!(next_message(&mut events).await.id, id(1));
    let answering = async {
        loop {
            if let petrel_protocol::session::BrokerEvent::Request(request) = session.next().await {
                session.deliver(201..=300).await;
                session.answer(request.number, None).await;
                break;
            }
        }
    };
    let (subscribed, ()) = tokio::join!(client.subscribe("news"), answering);
    subscribed.unwrap();
    for sequence in 2..=300 {
        assert_eq!(next_message(&mut events).await.id, id(sequence));
    }
}

#[tokio::test]
async fn messages_that_are_never_done_hold_the_broker_back_too() {
    let broker = TestBroker::start();
    let (_client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    let mut held = Vec::new();
    for block in 0..IN_HAND_MAX as u64 / 8 {
        session.deliver(block * 8..block * 8 + 8).await;
        let mut acked = 0;
        while acked < 8 {
            acked += session.acks().await.len();
        }
        for _ in 0..8 {
            held.push(next_message(&mut events).await);
        }
    }
    session.deliver([5000]).await;
    assert!(
        session.is_silent(Duration::from_millis(200)).await,
        "nothing more is acked"
    );
    held[5].done();
    assert_eq!(session.acks().await, [5000]);
    assert_eq!(next_message(&mut events).await.id, id(5000));
}
