//! A broker of several shards: whatever shard a device is on, everything reaches it, and all shards end together.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use common::{Api, Broker, RawDevice, eventually, within};
use petrel_protocol::ErrorCode;
use serde_json::json;

const SHARDS: usize = 4;

/// All on one shard of four: one chance in 10^17.
const DEVICES: usize = 30;

fn broker() -> Broker {
    Broker::with_config(&format!("[quic]\nshards = {SHARDS}\n"))
}

async fn devices(broker: &Broker) -> Vec<RawDevice> {
    let mut devices = Vec::new();
    for _ in 0..DEVICES {
        let mut device = RawDevice::register(broker).await;
        assert_eq!(device.subscribe("news").await, Ok(()));
        devices.push(device);
    }
    devices
}

fn numbered(n: usize) -> serde_json::Value {
    json!({ "data": { "n": n.to_string() } })
}

#[tokio::test]
async fn unicasts_and_broadcasts_reach_devices_on_every_shard() {
    let mut broker = broker();
    let api = Api::new(&broker);
    let mut devices = devices(&broker).await;
    let sessions = || api.metric("petrel_shard_sessions", "");
    eventually("the sessions of all shards", async || {
        sessions().await == DEVICES as f64
    })
    .await;
    for n in 0..6 {
        if n % 2 == 0 {
            assert_eq!(api.publish_topic("news", numbered(n)).await.status, 200);
        }
        for device in &mut devices {
            if n % 2 == 1 {
                let token = device.token.clone();
                let answer = api.publish_token(&token, numbered(n));
                let (answer, labels) = tokio::join!(answer, device.take(1));
                assert_eq!((answer.status, labels), (200, vec![n.to_string()]));
            } else {
                assert_eq!(device.take(1).await, [n.to_string()]);
            }
        }
    }
    for device in &mut devices {
        device.nothing_comes().await;
    }
    eventually("every delivery to be settled", async || {
        api.metric("petrel_delivery_owed", "").await == 0.0
    })
    .await;
    assert_eq!(api.metric("petrel_quic_forwarded_total", "").await, 0.0);

    // Every shard sends its devices away, and all of them end.
    broker.ask_to_end();
    for device in &mut devices {
        device.end().await;
    }
    assert!(broker.ended().await.success());
}

/// The old session is told on its shard, whichever it is, and what follows goes to the new one.
#[tokio::test]
async fn a_device_that_comes_back_on_another_shard_is_one_device() {
    let broker = broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    assert_eq!(device.subscribe("news").await, Ok(()));
    // Staying on one shard for all of these has one chance in 65,000, and would only show less.
    for n in 0..8 {
        let mut again = device.again(&broker).await;
        let end = within("the end of the old session", device.wire.end()).await;
        end.expect(ErrorCode::Replaced);
        assert_eq!(api.publish_topic("news", numbered(n)).await.status, 200);
        let token = again.token.clone();
        let answer = api.publish_token(&token, numbered(100 + n));
        let (answer, mut labels) = tokio::join!(answer, again.take(2));
        assert_eq!(answer.status, 200);
        labels.sort_unstable();
        let mut expect = [n.to_string(), (100 + n).to_string()];
        expect.sort_unstable();
        assert_eq!(labels, expect);
        again.nothing_comes().await;
        device = again;
    }
    assert_eq!(api.metric("petrel_presence_online", "").await, 1.0);
}
