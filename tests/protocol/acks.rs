//! Acks: PROTO-23 and PROTO-24.

use petrel_protocol::limits::ACK_SEQUENCES_MAX;
use petrel_protocol::wire::{self, to_broker};
use petrel_protocol::{ErrorCode, MessageId};

use crate::common::{Api, RawDevice, id};
use crate::{DEFAULTS, message};

fn ack(epoch: u32, sequences: impl IntoIterator<Item = u64>) -> to_broker::Frame {
    to_broker::Frame::Ack(wire::Ack {
        epoch,
        sequences: sequences.into_iter().collect(),
    })
}

/// Publishes messages with the labels 1, 2, …; their ids.
async fn publish(api: &Api, token: &str, count: usize) -> Vec<MessageId> {
    let mut ids = Vec::new();
    for n in 1..=count {
        ids.push(api.publish_token(token, message(&n.to_string())).await.id());
    }
    ids
}

/// PROTO-23: acks may be batched, come in any order and be repeated; what is acked does not come again.
#[tokio::test]
async fn acks_come_batched_in_any_order_and_repeated() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let hello = device.hello();
    let ids = publish(&api, &device.token, 6).await;
    assert_eq!(device.labels(6).await, ["1", "2", "3", "4", "5", "6"]);
    let epoch = ids[0].epoch;
    let of = |labels: &[usize]| {
        labels
            .iter()
            .map(|n| ids[n - 1].sequence)
            .collect::<Vec<_>>()
    };
    for batch in [&[6][..], &[3, 1], &[3, 3, 6, 1], &[1]] {
        device.say(ack(epoch, of(batch))).await;
    }
    device.goodbye().await;
    let mut device = RawDevice::greet(&broker, hello).await;
    assert_eq!(device.labels(3).await, ["2", "4", "5"]);
    device.nothing_comes().await;
}

/// PROTO-23: an ack names 1 to 256 messages.
#[tokio::test]
async fn an_ack_names_1_to_256_messages() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    let most = ACK_SEQUENCES_MAX as u64;
    device.say(ack(1, 1..=most)).await;
    device.nothing_comes().await;
    let mut other = RawDevice::register(&broker).await;
    device.say(ack(1, 1..=most + 1)).await;
    other.say(ack(1, [])).await;
    let (too_many, none) = tokio::join!(device.wire.end(), other.wire.end());
    for end in [too_many, none] {
        let text = end.expect(ErrorCode::InvalidArgument);
        assert!(text.starts_with("Ack.sequences"), "{text}");
    }
}

/// PROTO-24: an ack counts whichever session brings it: a later one that was not sent the message yet, too.
#[tokio::test]
async fn an_ack_of_a_later_session_counts() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut first = RawDevice::register(&broker).await;
    let ids = publish(&api, &first.token, 3).await;
    assert_eq!(first.labels(3).await, ["1", "2", "3"]);
    let mut second = first.again(&broker).await;
    second.ack([ids[0], ids[2]]).await;
    second.round_trip().await;
    let hello = second.hello();
    second.goodbye().await;
    let mut third = RawDevice::greet(&broker, hello).await;
    assert_eq!(third.take(1).await, ["2"]);
    third.nothing_comes().await;
}

/// PROTO-24: an ack counts while the session that brings it closes.
#[tokio::test]
async fn an_ack_of_a_closing_session_counts() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut old = RawDevice::register(&broker).await;
    publish(&api, &old.token, 2).await;
    let ids = [id(&old.message().await), id(&old.message().await)];
    let new = old.again(&broker).await;
    // The machine of the SDK is done once it has read `Replaced`; the frame goes by hand.
    old.wire
        .send_frame(ack(ids[0].epoch, [ids[0].sequence]))
        .await;
    old.wire.end().await.expect(ErrorCode::Replaced);
    let hello = new.hello();
    new.goodbye().await;
    let mut newest = RawDevice::greet(&broker, hello).await;
    assert_eq!(newest.take(1).await, ["2"]);
    newest.nothing_comes().await;
}

/// PROTO-24: made-up acks change nothing: not for others, not for messages to come, not for other epochs.
#[tokio::test]
async fn made_up_acks_change_nothing() {
    let broker = DEFAULTS.broker();
    let api = Api::new(&broker);
    let mut victim = RawDevice::register(&broker).await;
    let mut liar = RawDevice::register(&broker).await;
    assert_eq!(victim.subscribe("made-up").await, Ok(()));
    let hello = victim.hello();
    victim.goodbye().await;
    let queued = publish(&api, &hello.token, 2).await;
    let broadcast = api.publish_topic("made-up", message("3")).await.id();
    // Something of its own in the store, so that the liar's acks get as far as acks can.
    let own = publish(&api, &liar.token, 1).await;
    assert_eq!(liar.labels(1).await, ["1"]);
    liar.round_trip().await;

    let epoch = own[0].epoch;
    let last = broadcast.sequence.max(own[0].sequence);
    // Its own message in other epochs, the others' messages, everything to come, and gaps of all of them.
    for wrong in [0, epoch - 1, epoch + 1, u32::MAX] {
        liar.say(ack(wrong, [own[0].sequence])).await;
    }
    for bit in [0, 1 << 63, 1 << 62] {
        let others = queued.iter().map(|id| id.sequence | bit);
        liar.say(ack(epoch, others.chain([broadcast.sequence | bit])))
            .await;
        liar.say(ack(
            epoch,
            (last + 1..=last + 200).map(|sequence| sequence | bit),
        ))
        .await;
    }
    liar.say(ack(epoch, [0, u64::MAX])).await;
    liar.round_trip().await;

    let to_come = api.publish_token(&liar.token, message("2")).await.id();
    assert!(to_come.sequence <= last + 200, "it was acked in advance");
    assert_eq!(liar.labels(1).await, ["2"]);
    let mut liar = liar.again(&broker).await;
    assert_eq!(liar.labels(2).await, ["1", "2"]);
    let mut victim = RawDevice::greet(&broker, hello).await;
    assert_eq!(victim.labels(3).await, ["1", "2", "3"]);
}
