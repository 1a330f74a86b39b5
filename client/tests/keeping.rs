//! Ack means kept: what is stored, what is acked, what is handed over, and what comes again.

#![allow(clippy::unwrap_used)]

mod broker;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{
    TestBroker, closed, disconnected, eventually, gap, id, next, next_message, registered,
};
use petrel_client::{
    CauseKind, Event, FileStorage, InboxRecord, MemoryStorage, MessageId, Storage, StorageError,
    StoredState,
};

#[tokio::test]
async fn a_message_arrives_with_all_that_it_says() {
    use petrel_protocol::{codec, wire};
    let broker = TestBroker::start();
    let (_client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    let frame = wire::Deliver {
        id: Some(id(7).into()),
        condition: "'a' in topics".into(),
        notification: Some(wire::Notification {
            title: Some("T".into()),
            body: Some("B".into()),
            image: None,
        }),
        data: [("k".to_owned(), "v".to_owned())].into(),
        urgency: 4,
        collapse_key: "score".into(),
        category: "sport".into(),
        badge: Some(wire::Badge {
            change: Some(wire::badge::Change::Set(3)),
        }),
        accepted_at_ms: 1000,
        expires_at_ms: 2000,
        ..wire::Deliver::default()
    };
    session
        .write(&codec::encode_to_device(wire::to_device::Frame::Deliver(
            frame,
        )))
        .await;
    let recall = wire::Recall {
        id: Some(id(7).into()),
    };
    session
        .write(&codec::encode_to_device(wire::to_device::Frame::Recall(
            recall,
        )))
        .await;
    let got = next_message(&mut events).await;
    let json = serde_json::to_value(got.message()).unwrap();
    assert!(!got.redelivered());
    assert!(got.received_at_ms > 1_000_000);
    let expected = serde_json::json!({
        "id": "6a4e-7", "condition": "'a' in topics", "notification": {"title": "T", "body": "B"},
        "data": {"k": "v"}, "urgency": "high", "collapse_key": "score", "category": "sport",
        "badge": {"set": 3}, "sent_at_ms": 1000, "expires_at_ms": 2000, "received_at_ms": got.received_at_ms,
    });
    assert_eq!(json, expected);
    assert!(matches!(next(&mut events).await, Event::Recall { id: recalled } if recalled == id(7)));
}

#[tokio::test]
async fn what_arrives_together_is_acked_together_and_repeats_are_acked_but_not_handed_over() {
    let broker = TestBroker::start();
    let (_client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([1, 2, 3]).await;
    assert_eq!(session.acks().await, [1, 2, 3]);
    // In the same read, in the same session, done or not: known is known.
    for sequence in 1..=3 {
        let message = next_message(&mut events).await;
        assert_eq!((message.id, message.redelivered()), (id(sequence), false));
        if sequence == 2 {
            message.done();
            message.done();
        }
    }
    session.deliver([2, 3, 4, 4]).await;
    assert_eq!(session.acks().await, [2, 3, 4, 4]);
    assert_eq!(next_message(&mut events).await.id, id(4));
    // In the next session as well.
    session.cut();
    disconnected(&mut events).await;
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([1, 2, 3, 4, 5]).await;
    assert_eq!(session.acks().await, [1, 2, 3, 4, 5]);
    assert_eq!(next_message(&mut events).await.id, id(5));
}

/// A storage that says when it is asked, and fails when told to.
#[derive(Clone, Default)]
struct Watched {
    inner: Arc<Mutex<MemoryStorage>>,
    fails: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    appends: Arc<AtomicUsize>,
}

impl Storage for Watched {
    fn load(&mut self) -> Result<StoredState, StorageError> {
        self.inner.lock().unwrap().load()
    }
    fn save_registration(&mut self, registration: &str) -> Result<(), StorageError> {
        self.inner.lock().unwrap().save_registration(registration)
    }
    fn append(&mut self, records: &[InboxRecord]) -> Result<(), StorageError> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        while self.held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(StorageError::Other("disk full".into()));
        }
        self.inner.lock().unwrap().append(records)
    }
    fn done(&mut self, ids: &[MessageId]) -> Result<(), StorageError> {
        self.inner.lock().unwrap().done(ids)
    }
    fn forget(&mut self) -> Result<(), StorageError> {
        self.inner.lock().unwrap().forget()
    }
}

#[tokio::test]
async fn nothing_is_acked_or_handed_over_before_it_is_stored() {
    let broker = TestBroker::start();
    let storage = Watched::default();
    let (_client, mut events) = broker.device().storage(storage.clone()).start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    storage.held.store(true, Ordering::SeqCst);
    session.deliver([1]).await;
    eventually("the write", || storage.appends.load(Ordering::SeqCst) == 1).await;
    assert!(session.is_silent(Duration::from_millis(200)).await);
    assert!(
        tokio::time::timeout(Duration::ZERO, events.next())
            .await
            .is_err()
    );
    storage.held.store(false, Ordering::SeqCst);
    assert_eq!(session.acks().await, [1]);
    next_message(&mut events).await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_acked_and_comes_again() {
    let broker = TestBroker::start();
    let storage = Watched::default();
    let (_client, mut events) = broker.device().storage(storage.clone()).start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    storage.fails.store(true, Ordering::SeqCst);
    session.deliver([1, 2]).await;
    let (cause, _) = disconnected(&mut events).await;
    assert_eq!(cause.kind(), CauseKind::Storage);
    assert!(cause.to_string().contains("disk full"), "{cause}");
    let ended = broker::within("the close", session.connection.closed()).await;
    assert!(
        matches!(ended, quinn::ConnectionError::ApplicationClosed(_)),
        "without an ack before: {ended}"
    );
    storage.fails.store(false, Ordering::SeqCst);
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([1, 2]).await;
    assert_eq!(session.acks().await, [1, 2]);
    assert_eq!(next_message(&mut events).await.id, id(1));
}

const STATE: &str = "PETREL_TEST_STATE";
const BROKER: &str = "PETREL_TEST_BROKER";
const CA: &str = "PETREL_TEST_CA";

/// The app of the test below, in a process of its own: takes three messages, is done with the second, and hangs.
#[allow(clippy::print_stdout)]
async fn app(state: std::ffi::OsString) {
    let broker = std::env::var(BROKER).unwrap();
    let (_client, mut events) = petrel_client::Client::builder(&broker)
        .ca_file(std::env::var(CA).unwrap())
        .project("demo")
        .app_key("app key")
        .storage(FileStorage::open(state).unwrap())
        .start()
        .unwrap();
    registered(&mut events).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next_message(&mut events).await);
    }
    held[1].done();
    println!("{READY}");
    std::future::pending::<()>().await;
}

const READY: &str = "the app has three messages";

#[tokio::test]
async fn what_was_not_done_when_the_app_was_killed_comes_again_and_says_so() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    if let Some(state) = std::env::var_os(STATE) {
        return app(state).await;
    }
    let broker = TestBroker::start();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("what_was_not_done_when_the_app_was_killed_comes_again_and_says_so")
        .env(STATE, broker.state())
        .env(BROKER, broker.address.to_string())
        .env(CA, broker.ca())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut session = broker.admit().await;
    session.deliver([1, 2, 3]).await;
    assert_eq!(session.acks().await, [1, 2, 3]);
    let ready =
        tokio::task::spawn_blocking(move || lines.any(|line| line.unwrap().contains(READY)));
    assert!(broker::within("the app", ready).await.unwrap());
    child.kill().unwrap();
    child.wait().unwrap();

    let open = || {
        broker
            .device()
            .storage(FileStorage::open(broker.state()).unwrap())
    };
    let (client, mut events) = open().start().unwrap();
    // Before there is a connection, and marked.
    for sequence in [1, 3] {
        let message = next_message(&mut events).await;
        assert_eq!((message.id, message.redelivered()), (id(sequence), true));
        assert_eq!(message.data["sequence"], sequence.to_string());
        message.done();
    }
    let mut session = broker.admit().await;
    registered(&mut events).await;
    // The broker had no ack of some: they are acked and not handed over. A new one is not marked.
    session.deliver([1, 2, 3, 4]).await;
    assert_eq!(session.acks().await, [1, 2, 3, 4]);
    let message = next_message(&mut events).await;
    assert_eq!((message.id, message.redelivered()), (id(4), false));
    message.done();
    tokio::join!(client.close(), session.goodbye());

    // Done is done.
    let (_client, mut events) = open().start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([4]).await;
    assert_eq!(session.acks().await, [4]);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), events.next())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn done_after_close_does_nothing_and_the_message_comes_again() {
    let broker = TestBroker::start();
    let open = || {
        broker
            .device()
            .storage(FileStorage::open(broker.state()).unwrap())
    };
    let (client, mut events) = open().start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([1, 2]).await;
    let held = next_message(&mut events).await;
    tokio::join!(client.close(), session.goodbye());
    // The second was never taken: it is not handed over by a client that can no longer take its `done`.
    closed(&mut events).await;
    held.done();
    let (_client, mut events) = open().start().unwrap();
    for sequence in [1, 2] {
        let message = next_message(&mut events).await;
        assert_eq!((message.id, message.redelivered()), (id(sequence), true));
    }
}

#[tokio::test]
async fn a_gap_is_kept_until_the_app_takes_it() {
    let broker = TestBroker::start();
    let open = || FileStorage::open(broker.state()).unwrap();
    let (client, mut events) = broker.device().storage(open()).start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.write(&gap(4, 11)).await;
    assert_eq!(session.acks().await, [4]);
    tokio::join!(client.close(), session.goodbye());
    closed(&mut events).await;
    for run in 0..2 {
        let (client, mut events) = broker.device().storage(open()).start().unwrap();
        if run == 0 {
            let Event::Gap {
                topic,
                count,
                reasons,
            } = next(&mut events).await
            else {
                panic!("the gap comes first");
            };
            assert_eq!(
                (topic.as_deref(), count, reasons["trimmed"]),
                (Some("news"), 11, 11)
            );
        }
        let mut session = broker.admit().await;
        registered(&mut events).await;
        tokio::join!(client.close(), session.goodbye());
    }
}

#[tokio::test]
async fn what_was_acked_before_a_stop_still_reaches_the_app() {
    let broker = TestBroker::start();
    let (_client, mut events) = broker
        .device()
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let mut session = broker.admit().await;
    session.deliver(1..=100).await;
    let mut acked = 0;
    while acked < 100 {
        acked += session.acks().await.len();
    }
    session.end(petrel_client::ErrorCode::Replaced, "", 0).await;
    registered(&mut events).await;
    for sequence in 1..=100 {
        assert_eq!(next_message(&mut events).await.id, id(sequence));
    }
    assert_eq!(closed(&mut events).await.code(), "replaced");
}
