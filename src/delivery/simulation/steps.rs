//! What may happen next, one atomic step at a time.

use petrel_protocol::session::{Attributes, Register, RequestBody};
use petrel_protocol::{Platform, TopicName, Urgency};

use super::device::{Device, Member, TOPICS};
use super::world::{SHARDS, World};

/// Most registrations in one run.
const DEVICES_MAX: usize = 6;

impl World {
    /// Anything but a turn of the committer and a crash.
    pub(super) fn step(&mut self) {
        let device = self.rng.below(self.devices.len());
        let shard = self.rng.below(usize::from(SHARDS));
        match self.rng.below(100) {
            0..18 => self.publish(),
            18..26 if !self.publishes.is_empty() => {
                let at = self.rng.below(self.publishes.len());
                self.poll_publish(at);
            }
            26..34 => self.attach(device, shard),
            34..38 => self.close(device),
            38..54 => _ = self.receive(device),
            54..68 => _ = self.acks(device),
            68..84 => {
                let most = 1 + self.rng.below(4);
                self.say(format!("shard {shard} takes up to {most} commands"));
                self.shard(shard).handle_mailbox(most);
            }
            84..89 => {
                let slots = 1 + self.rng.below(4);
                self.say(format!("shard {shard} walks {slots} slots"));
                self.shard(shard).walk(slots);
            }
            89..92 => {
                self.say(format!("shard {shard} tries again"));
                self.shard(shard).retry();
            }
            92..97 => self.request(device),
            97 => self.change_urgency(device),
            98 => self.pass_time(),
            _ => self.forget_publish(),
        }
        self.hear();
    }

    /// Opens a session and scans; others may act in between.
    pub(super) fn attach(&mut self, at: usize, shard: usize) {
        self.open_session(at, shard);
        if self.rng.percent(30) {
            self.publish();
        }
        if let Some((shard, conn)) = self.devices[at].at {
            self.shard(shard).scan(conn);
        }
    }

    /// Opens a session for the device to listen to, and attaches or registers it.
    pub(super) fn open_session(&mut self, at: usize, shard: usize) {
        let device = &mut self.devices[at];
        if device.is_ending {
            return;
        }
        if let Some(old) = device.at.take() {
            device.left.push(old);
        }
        let urgency = device.minimum_urgency;
        let now = self.now;
        let conn = {
            let shard = self.shard(shard);
            shard.now = now;
            shard.open(at, urgency)
        };
        self.say(format!("device {at} opens {conn:?} on shard {shard}"));
        self.devices[at].at = Some((shard, conn));
        let place = self.shard(shard).place(conn);
        let delivery = self.delivery();
        let Some(registered) = self.devices[at].registered else {
            let device = &self.devices[at];
            let register = Register {
                project: "simulated".into(),
                app_key: "app".into(),
                secret: device.secret(),
                platform: if at.is_multiple_of(2) {
                    Platform::Android
                } else {
                    Platform::Ios
                },
                attributes: Attributes::default(),
                minimum_urgency: urgency,
                sdk: String::new(),
            };
            if delivery.register(register, place).is_err() {
                self.close(at);
            }
            return;
        };
        // Durable and answered, so it must be there, over every crash.
        assert!(
            delivery
                .directory()
                .is_secret_of(registered.ordinal, &self.devices[at].secret())
        );
        self.shard(shard).attach(conn, registered);
    }

    /// The connection is lost, with what is on its way; acks that were not sent yet may be.
    pub(super) fn close(&mut self, at: usize) {
        let rng = self.rng.percent(50);
        let device = &mut self.devices[at];
        if rng {
            device.acks.clear();
        }
        let Some((shard, conn)) = device.left.pop().or_else(|| device.at.take()) else {
            return;
        };
        self.say(format!(
            "{conn:?} on shard {shard} of device {at} is closed"
        ));
        if self.shard(shard).session(conn).is_some() {
            self.shard(shard).close(conn);
        }
    }

    pub(super) fn receive(&mut self, at: usize) -> bool {
        let Some((shard, conn)) = self.devices[at].at else {
            return false;
        };
        let most = 1 + self.rng.below(4);
        let mut frames = Vec::new();
        if let Some(session) = self.shard(shard).session(conn) {
            let count = most.min(session.wire.len());
            frames.extend(session.wire.drain(..count));
        }
        for frame in &frames {
            self.devices[at].receive(frame);
        }
        if let Some(registered) = self.devices[at].registered {
            let evicted = self.evicted.get(&registered.ordinal).copied().unwrap_or(0);
            let told = self.devices[at].told_of("");
            assert!(
                told <= evicted,
                "device {at} was told of {told}, durably evicted are {evicted}"
            );
        }
        let kept = self.devices[at].acks.iter().map(ToString::to_string);
        let line = format!(
            "device {at} takes {}, to ack {:?}",
            frames.len(),
            kept.collect::<Vec<_>>()
        );
        self.say(line);
        !frames.is_empty()
    }

    /// Brings some acks, in any order, now and then over a session that has been left or replaced.
    pub(super) fn acks(&mut self, at: usize) -> bool {
        let device = &self.devices[at];
        let sessions = device.left.iter().chain(&device.at).copied();
        let sessions: Vec<_> = sessions.collect();
        if sessions.is_empty() || device.acks.is_empty() {
            return false;
        }
        let (shard, conn) = sessions[self.rng.below(sessions.len())];
        for _ in 0..=self.rng.below(4) {
            if self.devices[at].acks.is_empty() {
                break;
            }
            let any = self.rng.below(self.devices[at].acks.len());
            let id = self.devices[at].acks.remove(any);
            self.say(format!(
                "device {at} acks {id} over {conn:?} on shard {shard}"
            ));
            self.shard(shard).ack(conn, id);
        }
        self.shard(shard).scan(conn);
        true
    }

    fn request(&mut self, at: usize) {
        let Some((shard, conn)) = self.devices[at].at else {
            return;
        };
        let Some(registered) = self.devices[at].registered else {
            return;
        };
        let place = self.shard(shard).place(conn);
        let number = self.next_number;
        self.next_number += 1;
        let delivery = self.delivery();
        if self.rng.percent(15) && self.devices.len() < DEVICES_MAX {
            if delivery
                .request(registered, number, RequestBody::Unregister, place)
                .is_ok()
            {
                self.say(format!("device {at} unregisters"));
                self.devices[at].is_ending = true;
                let secret = u8::try_from(self.devices.len()).unwrap();
                self.devices.push(Device::new(secret));
            }
            return;
        }
        let topic = self.rng.below(TOPICS.len());
        let name = TopicName::parse(TOPICS[topic]).unwrap();
        let (body, member) = if self.rng.percent(75) {
            (RequestBody::Subscribe(name), Member::Yes)
        } else {
            (RequestBody::Unsubscribe(name), Member::No)
        };
        if delivery.request(registered, number, body, place).is_ok() {
            self.say(format!(
                "device {at} asks to be {member:?} of {}",
                TOPICS[topic]
            ));
            let device = &mut self.devices[at];
            device.topics[topic] = Member::Unsure;
            device.requests.insert(number, (topic, member));
            device.last_requests[topic] = number;
        }
    }

    pub(super) fn set_urgency(&mut self, at: usize, urgency: Urgency) {
        self.devices[at].is_picky |= self.devices[at].minimum_urgency != urgency;
        self.devices[at].minimum_urgency = urgency;
        if let Some((shard, conn)) = self.devices[at].at {
            let now = self.now;
            if let Some(session) = self.shard(shard).session(conn) {
                session.minimum_urgency = urgency;
                session.outbox.heard(now);
                session.outbox.mark();
            }
            self.shard(shard).scan(conn);
        }
    }

    fn change_urgency(&mut self, at: usize) {
        let urgency = if self.rng.percent(50) {
            Urgency::VeryLow
        } else {
            Urgency::Normal
        };
        self.say(format!("device {at} wants {urgency:?}"));
        self.set_urgency(at, urgency);
    }

    /// A publisher gives up waiting.
    fn forget_publish(&mut self) {
        if !self.publishes.is_empty() {
            let at = self.rng.below(self.publishes.len());
            self.publishes[at].future = None;
            self.say(format!("publisher of {at} goes away"));
        }
    }
}
