//! Publishers: futures that are polled by hand, and what was promised.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use petrel_core::{Content, Draft, DraftOptions, PerPlatform, Ttl};
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform, TopicName, Urgency};
use roaring::RoaringBitmap;

use super::device::{Member, TOPICS};
use super::world::{PROJECT, World};
use crate::delivery::PublishError;

type Answer = Result<MessageId, PublishError>;

/// Whom a publish is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum To {
    Device(Ordinal),
    Topic(usize),
}

pub(super) struct Publish {
    pub(super) to: To,
    pub(super) key: Option<&'static str>,
    /// Seconds for iOS and for others; `None` for four weeks.
    pub(super) ttl: [Option<u64>; 2],
    pub(super) urgency: Urgency,
    /// Known as soon as it has one, whether or not the publisher ever hears.
    pub(super) id: Option<MessageId>,
    pub(super) accepted_at: u64,
    /// Who was to get it when it was accepted.
    pub(super) audience: RoaringBitmap,
    pub(super) answer: Option<Answer>,
    pub(super) future: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
}

impl Publish {
    pub(super) fn deadline(&self, platform: Platform) -> u64 {
        let ttl = self.ttl[usize::from(platform != Platform::Ios)];
        self.accepted_at + ttl.map_or(u64::MAX >> 1, |seconds| seconds * 1000)
    }

    pub(super) fn is_safe(&self) -> bool {
        matches!(self.answer, Some(Ok(_)))
    }

    fn draft(&self) -> Draft {
        let options = |ttl: Option<u64>| DraftOptions {
            ttl: ttl.map_or(Ttl::MAX, |s| Ttl::new(Duration::from_secs(s)).unwrap()),
            urgency: self.urgency,
            collapse_key: self.key.map(|k| CollapseKey::parse(k).unwrap()),
        };
        Draft {
            content: Content::default(),
            options: PerPlatform {
                common: options(self.ttl[1]),
                ios: Some(options(self.ttl[0])),
                web: None,
            },
        }
    }
}

impl World {
    pub(super) fn publish(&mut self) {
        let to = if self.rng.percent(65) {
            let at = self.rng.below(self.devices.len());
            let Some(device) = self.devices[at].registered else {
                return;
            };
            To::Device(device.ordinal)
        } else {
            To::Topic(self.rng.below(TOPICS.len()))
        };
        let key = [None, None, Some("a"), Some("b")][self.rng.below(4)];
        // Time goes in steps of 100 s.
        let ttls = [None, None, None, None, Some(50), Some(250), Some(0)];
        let ttl = ttls[self.rng.below(ttls.len())];
        let other = if self.rng.percent(15) { None } else { ttl };
        let urgency = [Urgency::Normal, Urgency::Normal, Urgency::Low][self.rng.below(3)];
        self.begin_publish(to, key, [ttl, other], urgency);
    }

    /// Publishes to a device, with no other wish.
    pub(super) fn publish_plainly(&mut self, at: usize) {
        let to = To::Device(self.devices[at].registered.unwrap().ordinal);
        self.begin_publish(to, None, [None; 2], Urgency::Normal);
    }

    fn begin_publish(
        &mut self,
        to: To,
        key: Option<&'static str>,
        ttl: [Option<u64>; 2],
        urgency: Urgency,
    ) {
        let mut publish = Publish {
            to,
            key,
            ttl,
            urgency,
            id: None,
            accepted_at: 0,
            audience: RoaringBitmap::new(),
            answer: None,
            future: None,
        };
        let delivery = self.delivery();
        let draft = publish.draft();
        match to {
            To::Device(ordinal) => {
                let token = delivery.directory().token(PROJECT, ordinal);
                let Ok(device) = delivery.resolve(PROJECT, token.as_str()) else {
                    return;
                };
                let future = async move { delivery.publish_to_device(device, draft).await };
                publish.future = Some(Box::pin(future));
            }
            To::Topic(topic) => {
                let sequencer = Arc::clone(&self.life().sequencer);
                let topic = TopicName::parse(TOPICS[topic]).unwrap();
                let room = sequencer.room().expect("walks are handed out at once");
                let walk = move |broadcast| sequencer.walk(broadcast, room);
                let future =
                    async move { delivery.publish_to_many(PROJECT, topic, draft, walk).await };
                publish.future = Some(Box::pin(future));
            }
        }
        self.publishes.push(publish);
        self.poll_publish(self.publishes.len() - 1);
    }

    /// Polls one; notes its id and its audience when it gets them.
    pub(super) fn poll_publish(&mut self, at: usize) {
        let Some(mut future) = self.publishes[at].future.take() else {
            return;
        };
        let delivery = self.delivery();
        let next = delivery.sequence.peek();
        let audience = match self.publishes[at].to {
            To::Device(ordinal) => RoaringBitmap::from([ordinal.0]),
            To::Topic(topic) => {
                self.check_members(topic);
                let topic = TopicName::parse(TOPICS[topic]).unwrap();
                delivery.directory().audience(PROJECT, &topic)
            }
        };
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if delivery.sequence.peek() != next {
            assert!(next > self.last_id, "{next} is used twice");
            self.last_id = next;
            let publish = &mut self.publishes[at];
            publish.id = Some(next);
            publish.audience = audience;
            publish.accepted_at = self.wall;
        }
        match polled {
            Poll::Pending => self.publishes[at].future = Some(future),
            Poll::Ready(answer) => {
                if let Ok(id) = &answer {
                    assert_eq!(self.publishes[at].id, Some(*id));
                }
                self.publishes[at].answer = Some(answer);
            }
        }
        let publish = &self.publishes[at];
        let line = format!(
            "publish {at} {:?} key {:?} ttl {:?} {:?}: id {:?} answer {:?}",
            publish.to, publish.key, publish.ttl, publish.urgency, publish.id, publish.answer
        );
        self.say(line);
    }

    /// The audience holds everybody whose subscription was confirmed, and nobody whose was never asked for.
    fn check_members(&self, topic: usize) {
        let name = TopicName::parse(TOPICS[topic]).unwrap();
        let audience = self.delivery().directory().audience(PROJECT, &name);
        for device in &self.devices {
            if let Some(registered) = device.registered.filter(|_| !device.is_ending) {
                let is_in = audience.contains(registered.ordinal.0);
                let member = device.topics[topic];
                assert!(
                    member == Member::Unsure || is_in == (member == Member::Yes),
                    "{registered:?} is {member:?} of {name:?}, in the audience: {is_in}"
                );
            }
        }
    }
}
