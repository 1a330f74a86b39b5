//! No stack talks to a broker that its authority does not vouch for.

use crate::Stack;
use crate::common::{Api, Broker, eventually};
use crate::process::Device;

#[tokio::test]
async fn aioquic_refuses_a_broker_of_another_authority() {
    refuse(Stack::Aioquic).await;
}

#[tokio::test]
async fn s2n_quic_refuses_a_broker_of_another_authority() {
    refuse(Stack::S2nQuic).await;
}

/// PROTO-1: TLS is that of RFC 9001, so the device's refusal is a failed handshake at the broker.
async fn refuse(stack: Stack) {
    let broker = Broker::start();
    let api = Api::new(&broker);
    let foreign = Broker::start();
    let _device = Device::start(
        stack.command(),
        &broker,
        broker.ready.quic,
        &foreign.ready.ca,
        &[],
    );
    eventually("a failed handshake", async || {
        api.metric("petrel_quic_handshakes_total", "failed").await >= 1.0
    })
    .await;
    let handshakes = "petrel_quic_handshakes_total";
    assert_eq!(api.metric(handshakes, "completed").await, 0.0);
}
