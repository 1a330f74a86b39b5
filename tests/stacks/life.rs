//! A whole life of a device on each stack.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Answer, Api, Broker, eventually};
use crate::nat::Nat;
use crate::process::Device;
use crate::{PROTO, RESIDENT, Stack};

/// Long enough that the broker takes the connection for a quiet one and hands it over.
const IDLE: Duration = Duration::from_secs(3);

const TOPIC: &str = "news";

#[tokio::test]
async fn aioquic_lives_with_the_resident_engine() {
    live(Stack::Aioquic, RESIDENT).await;
}

#[tokio::test]
async fn aioquic_lives_with_the_handshake_engine() {
    live(Stack::Aioquic, PROTO).await;
}

#[tokio::test]
async fn s2n_quic_lives_with_the_resident_engine() {
    live(Stack::S2nQuic, RESIDENT).await;
}

#[tokio::test]
async fn s2n_quic_lives_with_the_handshake_engine() {
    live(Stack::S2nQuic, PROTO).await;
}

/// PROTO-1, PROTO-2, PROTO-5, PROTO-13, PROTO-15, PROTO-20, PROTO-23, PROTO-27, PROTO-34.
async fn live(stack: Stack, engine: &str) {
    let mut life = Life::begin(stack, engine).await;
    life.exchange(2).await;

    life.idle().await;
    life.is_served_by(engine).await;
    life.exchange(20).await;

    // A NAT forgets a quiet device. What the broker sends to the old port is lost, until the device speaks up.
    life.idle().await;
    life.nat.forget();
    life.publish(3).await;
    life.order("ping").await;
    life.received().await;
    life.exchange(2).await;

    if stack.migrates() {
        life.order("migrate").await;
        life.exchange(2).await;
        life.idle().await;
        life.publish(1).await;
        life.order("migrate").await;
        life.received().await;
    }

    for _ in 0..3 {
        life.order("key-update").await;
        life.exchange(2).await;
    }
    life.idle().await;
    life.order("key-update").await;
    life.exchange(20).await;

    life.end().await;
}

/// A broker, a device, and what the one owes to the other.
struct Life {
    broker: Broker,
    api: Api,
    nat: Nat,
    device: Device,
    token: String,
    published: usize,
    received: usize,
    /// Came while a command was carried out.
    early: VecDeque<Value>,
}

impl Life {
    /// Handshake, registration, and a topic.
    async fn begin(stack: Stack, engine: &str) -> Self {
        let broker = Broker::with_config(engine);
        let api = Api::new(&broker);
        let nat = Nat::start(broker.ready.quic).await;
        let ca = &broker.ready.ca;
        let mut device = Device::start(stack.command(), &broker, nat.address, ca, &[TOPIC]);
        let registered = device.process.next("registered").await;
        assert_eq!(device.process.next("subscribed").await["topic"], TOPIC);
        eventually("a device online", async || {
            let handshakes = "petrel_quic_handshakes_total";
            api.metric(handshakes, "completed").await == 1.0
                && api.metric("petrel_presence_online", "").await == 1.0
        })
        .await;
        Self {
            token: registered["token"].as_str().unwrap().to_owned(),
            broker,
            api,
            nat,
            device,
            published: 0,
            received: 0,
            early: VecDeque::new(),
        }
    }

    /// Nothing happens for a while: time itself is what is waited for.
    async fn idle(&self) {
        tokio::time::sleep(IDLE).await;
    }

    /// Quiet as it is, the connection has come to the engine that the configuration says.
    async fn is_served_by(&self, engine: &str) {
        let residents = if engine.contains("resident") {
            1.0
        } else {
            0.0
        };
        eventually("the engine of the configuration", async || {
            self.api.metric("petrel_quic_residents", "").await == residents
        })
        .await;
    }

    async fn order(&mut self, command: &str) {
        self.early.extend(self.device.order(command).await);
    }

    /// Publishes so many messages to the device itself.
    async fn publish(&mut self, count: usize) {
        for _ in 0..count {
            let fields = self.next_fields();
            safe(&self.api.publish_token(&self.token, fields).await);
        }
    }

    fn next_fields(&mut self) -> Value {
        self.published += 1;
        json!({ "data": { "n": self.published.to_string() } })
    }

    /// Waits until everything published has come, once and in order, and until the broker has every ack.
    async fn received(&mut self) {
        while self.received < self.published {
            self.received += 1;
            let line = match self.early.pop_front() {
                Some(line) => line,
                None => self.device.process.next("message").await,
            };
            assert_eq!(line["data"]["n"], self.received.to_string(), "{line}");
        }
        assert!(self.early.is_empty(), "repeats: {:?}", self.early);
        let published = self.published as f64;
        eventually("every ack", async || {
            let settled = "petrel_delivery_settled_total";
            self.api.metric(settled, "outcome=\"acked\"").await == published
        })
        .await;
        eventually("nothing owed", async || {
            self.api.metric("petrel_delivery_owed", "").await == 0.0
        })
        .await;
    }

    /// So many messages to the device itself, and then, so that they cannot overtake it, a broadcast to its topic.
    async fn exchange(&mut self, count: usize) {
        self.publish(count).await;
        self.received().await;
        let fields = self.next_fields();
        safe(&self.api.publish_topic(TOPIC, fields).await);
        self.received().await;
    }

    /// The device closes, and the broker has forgotten it without having had to reset or drop anything on the way.
    async fn end(mut self) {
        self.order("close").await;
        assert_eq!(self.device.process.next("closed").await["code"], 0);
        assert!(self.device.process.ended().await.success());
        for gauge in [
            "petrel_presence_online",
            "petrel_shard_sessions",
            "petrel_quic_connections",
        ] {
            let what = format!("{gauge} is 0");
            eventually(&what, async || self.api.metric(gauge, "").await == 0.0).await;
        }
        let handshakes = "petrel_quic_handshakes_total";
        assert_eq!(self.api.metric(handshakes, "").await, 1.0, "one connection");
        for fault in [
            "petrel_quic_resets_sent_total",
            "petrel_shard_acks_dropped_total",
            "petrel_shard_panics_total",
        ] {
            assert_eq!(self.api.metric(fault, "").await, 0.0, "{fault}");
        }
        drop(self.broker);
    }
}

fn safe(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.text);
}
