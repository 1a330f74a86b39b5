//! A device: keeps what it is sent, drops repeats by id, acks when it gets round to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use petrel_protocol::codec::{self, Decoded, Decoder};
use petrel_protocol::wire::to_device::Frame;
use petrel_protocol::{DeviceSecret, MessageId, Urgency};
use petrel_quic::ConnId;

use crate::directory::Device as Registered;

pub(super) const TOPICS: [&str; 2] = ["news", "sport"];

/// What a device knows of one of its subscriptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Member {
    /// Never asked, or the answer said that it ended.
    #[default]
    No,
    /// The answer said so.
    Yes,
    /// Asked, and not or never answered.
    Unsure,
}

pub(super) struct Device {
    pub(super) secret: u8,
    pub(super) registered: Option<Registered>,
    /// Asked to end the registration.
    pub(super) is_ending: bool,
    /// The session that it listens to: the shard and the connection.
    pub(super) at: Option<(usize, ConnId)>,
    /// Sessions that it left without closing; they may still bring acks.
    pub(super) left: Vec<(usize, ConnId)>,
    pub(super) minimum_urgency: Urgency,
    /// Its minimum urgency has changed, so that older messages may follow newer ones.
    pub(super) is_picky: bool,
    /// In the order in which the app got them.
    pub(super) kept: Vec<MessageId>,
    pub(super) kept_ids: BTreeSet<MessageId>,
    /// Topic and count of each gap.
    pub(super) gaps: BTreeMap<MessageId, (String, u64)>,
    /// Waiting to be sent.
    pub(super) acks: Vec<MessageId>,
    pub(super) topics: [Member; TOPICS.len()],
    /// Requests without an answer: number, topic, and what it will be.
    pub(super) requests: BTreeMap<u32, (usize, Member)>,
    /// The last request about each topic.
    pub(super) last_requests: [u32; TOPICS.len()],
}

impl Device {
    pub(super) fn new(secret: u8) -> Self {
        Self {
            secret,
            registered: None,
            is_ending: false,
            at: None,
            left: Vec::new(),
            minimum_urgency: Urgency::VeryLow,
            is_picky: false,
            kept: Vec::new(),
            kept_ids: BTreeSet::new(),
            gaps: BTreeMap::new(),
            acks: Vec::new(),
            topics: Default::default(),
            requests: BTreeMap::new(),
            last_requests: Default::default(),
        }
    }

    pub(super) fn secret(&self) -> DeviceSecret {
        DeviceSecret::new([self.secret; 32])
    }

    /// How many messages are missing from a topic, or for "" from its own queue, by what it was told.
    pub(super) fn told_of(&self, topic: &str) -> u64 {
        let of_topic = self.gaps.values().filter(|(of, _)| of == topic);
        of_topic.map(|(_, count)| count).sum()
    }

    pub(super) fn receive(&mut self, frame: &Bytes) {
        let id = match decode(frame) {
            Frame::Deliver(deliver) => {
                let id = MessageId::from(deliver.id.unwrap());
                if self.kept_ids.insert(id) {
                    self.kept.push(id);
                }
                id
            }
            Frame::Gap(gap) => {
                let id = MessageId::from(gap.id.unwrap());
                let told = (gap.topic, gap.count);
                let first = self.gaps.entry(id).or_insert_with(|| told.clone());
                assert_eq!(*first, told, "a gap that was told is another one");
                id
            }
            other => panic!("unexpected {other:?}"),
        };
        self.acks.push(id);
    }
}

pub(super) fn decode(frame: &Bytes) -> Frame {
    let mut decoder = Decoder::default();
    decoder.handle_bytes(frame.clone());
    let body = decoder.poll_frame(usize::MAX).unwrap().unwrap();
    match codec::decode_to_device(body).unwrap() {
        Decoded::Frame(frame) => frame,
        Decoded::Ignored => panic!("a frame of an unknown kind"),
    }
}

/// When the message of a frame expires; `None` for gaps.
pub(super) fn deadline(frame: &Bytes) -> Option<u64> {
    match decode(frame) {
        Frame::Deliver(deliver) => Some(deliver.expires_at_ms),
        _ => None,
    }
}
