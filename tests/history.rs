//! What became of a message, as the API tells it.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use common::{Api, Broker, RawDevice, eventually};
use petrel_protocol::MessageId;
use petrel_protocol::session::DeviceEvent;
use serde_json::{Value, json};

fn name(id: MessageId) -> String {
    format!("projects/demo/messages/{id}")
}

/// What is told of one message: its state and what happened, in order.
async fn told(api: &Api, token: &str, id: MessageId) -> (String, Vec<String>) {
    let answer = api.history(token, "limit=1000").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let json = answer.json();
    let messages = json["messages"].as_array().unwrap();
    let found = messages.iter().find(|m| m["name"] == name(id));
    let Some(found) = found else {
        return (String::new(), Vec::new());
    };
    let steps = found["history"].as_array().unwrap();
    let times: Vec<&str> = steps.iter().map(|s| s["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|t| t.ends_with('Z') && t.len() == 24));
    let happenings = steps.iter().map(|s| s["happening"].as_str().unwrap());
    (
        found["state"].as_str().unwrap().to_owned(),
        happenings.map(str::to_owned).collect(),
    )
}

/// Waits until exactly this is told.
async fn is_told(api: &Api, token: &str, id: MessageId, state: &str, happenings: &[&str]) {
    let expected = (
        state.to_owned(),
        happenings.iter().map(|h| (*h).to_owned()).collect(),
    );
    eventually(&format!("{state} {happenings:?}"), async || {
        told(api, token, id).await == expected
    })
    .await;
}

fn data() -> Value {
    json!({ "data": { "n": "1" } })
}

#[tokio::test]
async fn a_message_to_a_device_that_is_there_was_accepted_sent_and_acked() {
    // Long enough for the ack of a busy machine.
    let broker = Broker::with_config("[store]\nack_window = \"1s\"\n");
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let token = device.token.clone();
    let (answer, ()) = tokio::join!(api.publish_token(&token, data()), async {
        let delivered = device.message().await;
        device.ack([common::id(&delivered)]).await;
    });
    is_told(
        &api,
        &token,
        answer.id(),
        "acked",
        &["accepted", "sent", "acked"],
    )
    .await;
    let answer = api.history(&token, "").await.json();
    assert_eq!(
        (&answer["online"], &answer["queued"]),
        (&json!(true), &json!(false))
    );
}

#[tokio::test]
async fn what_waited_tells_its_whole_way_also_after_a_crash() {
    let mut broker = Broker::start();
    let api = Api::new(&broker);
    let device = RawDevice::register(&broker).await;
    let token = device.token.clone();
    let hello = device.hello();
    device.goodbye().await;
    let id = api.publish_token(&token, data()).await.id();
    is_told(&api, &token, id, "waiting", &["accepted", "queued"]).await;
    let answer = api.history(&token, "").await.json();
    assert_eq!(
        (&answer["online"], &answer["queued"]),
        (&json!(false), &json!(true))
    );
    // Written behind; a crash keeps what was.
    eventually("it is written", async || {
        api.metric("petrel_history_bytes_written_total", "").await > 0.0
    })
    .await;
    broker.kill();
    broker.restart();
    let api = Api::new(&broker);
    let mut device = RawDevice::greet(&broker, hello).await;
    let delivered = device.message().await;
    device.ack([common::id(&delivered)]).await;
    let way = ["accepted", "queued", "sent", "acked"];
    is_told(&api, &token, id, "acked", &way).await;
    assert!(api.metric("petrel_history_bytes", "").await > 0.0);
    assert_eq!(api.metric("petrel_history_dropped_total", "").await, 0.0);
}

#[tokio::test]
async fn what_was_replaced_expired_or_evicted_says_so() {
    let broker = Broker::with_config("[queue]\nmessages_max = 2\n");
    let api = Api::new(&broker);
    let device = RawDevice::register(&broker).await;
    let token = device.token.clone();
    let hello = device.hello();
    device.goodbye().await;
    let publish = async |petrel: Value| {
        let message = json!({ "data": { "n": "1" }, "petrel": petrel });
        api.publish_token(&token, message).await.id()
    };
    let replaced = publish(json!({ "collapse_key": "score" })).await;
    let replacing = publish(json!({ "collapse_key": "score" })).await;
    is_told(
        &api,
        &token,
        replaced,
        "collapsed",
        &["accepted", "queued", "collapsed"],
    )
    .await;
    let evicted = publish(json!({ "urgency": "very-low" })).await;
    let short = publish(json!({ "ttl": "1s", "urgency": "high" })).await;
    is_told(
        &api,
        &token,
        evicted,
        "evicted",
        &["accepted", "queued", "evicted"],
    )
    .await;
    let impossible = publish(json!({ "ttl": "0s" })).await;
    is_told(
        &api,
        &token,
        impossible,
        "expired",
        &["accepted", "expired"],
    )
    .await;
    eventually("its second is over", async || {
        // It expires when its device asks for what it is owed.
        let mut device = RawDevice::greet(&broker, hello.clone()).await;
        loop {
            match device.event().await {
                DeviceEvent::Deliver(_) | DeviceEvent::Gap(_) => break,
                _ => {}
            }
        }
        told(&api, &token, short).await.0 == "expired"
    })
    .await;
    let page = api.history(&token, "limit=2").await.json();
    let names = |page: &Value| -> Vec<String> {
        let messages = page["messages"].as_array().unwrap().iter();
        messages
            .map(|m| m["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&page), [name(impossible), name(short)]);
    let page = api.history(&token, &format!("before={short}")).await.json();
    assert_eq!(
        names(&page),
        [name(evicted), name(replacing), name(replaced)]
    );
}

#[tokio::test]
async fn only_who_may_publish_may_read_and_only_what_there_is() {
    let broker = Broker::start();
    let api = Api::new(&broker);
    let device = RawDevice::register(&broker).await;
    let stranger = Api::with_keys(&broker, &broker.ready.project, "no-key");
    let refused = stranger.history(&device.token, "").await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (401, "UNAUTHENTICATED")
    );
    let refused = api.history("no-token", "").await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (400, "INVALID_TOKEN")
    );
    let refused = api.history(&device.token, "limit=0").await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (400, "INVALID_REQUEST")
    );
    let id = api.publish_token(&device.token, data()).await.id();
    assert!(!told(&api, &device.token, id).await.1.is_empty());
    assert_eq!(api.erase(&device.token).await.status, 200);
    let gone = api.history(&device.token, "").await;
    assert_eq!((gone.status, gone.reason().as_str()), (404, "UNREGISTERED"));
    eventually("its history is erased", async || {
        api.metric("petrel_history_bytes", "").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn switched_off_it_tells_nothing() {
    let broker = Broker::with_config("[history]\nlevel = \"off\"\n");
    let api = Api::new(&broker);
    let device = RawDevice::register(&broker).await;
    let id = api.publish_token(&device.token, data()).await.id();
    assert!(told(&api, &device.token, id).await.1.is_empty());
    assert_eq!(api.metric("petrel_history_recorded_total", "").await, 0.0);
}
