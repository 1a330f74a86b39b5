//! Coming to rest, and what must be true then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use petrel_protocol::session::RequestBody;
use petrel_protocol::{MessageId, Ordinal, Platform, Urgency};
use petrel_quic::ConnId;

use super::device::{Device, TOPICS};
use super::publisher::{Publish, To};
use super::world::{SHARDS, World, lock};
use super::{Life, turn};

/// Rounds after which whatever still moves will never stop.
const ROUNDS_MAX: usize = 5000;

/// Lets everything come to rest, with all devices attached anew, then detached.
pub(super) fn settle(world: &Arc<Mutex<World>>, life: &mut Life) {
    {
        let mut world = lock(world);
        world.is_wild = false;
        world.say("coming to rest".into());
    }
    for _ in 0..20 {
        turn(world, life, true);
        lock(world).round();
    }
    lock(world).come_back();
    let mut quiet = 0;
    for round in 0.. {
        assert!(round < ROUNDS_MAX, "it never comes to rest");
        turn(world, life, true);
        let mut world = lock(world);
        let is_moving = world.round() || !world.is_at_rest();
        quiet = if is_moving { 0 } else { quiet + 1 };
        if quiet == 3 {
            break;
        }
    }
    {
        let mut world = lock(world);
        for at in 0..world.devices.len() {
            while world.devices[at].at.is_some() || !world.devices[at].left.is_empty() {
                world.close(at);
            }
        }
    }
    turn(world, life, true);
    turn(world, life, true);
}

impl World {
    /// Everybody does what there is to do; whether anybody did.
    fn round(&mut self) -> bool {
        let mut did = false;
        for at in 0..self.publishes.len() {
            did |= self.publishes[at].future.is_some();
            self.poll_publish(at);
        }
        for shard in 0..usize::from(SHARDS) {
            did |= self.shard(shard).handle_mailbox(usize::MAX);
            did |= self.shard(shard).walk(usize::MAX);
            self.shard(shard).retry();
        }
        for at in 0..self.devices.len() {
            did |= self.receive(at);
            did |= self.acks(at);
            did |= self.end_registration(at);
        }
        self.hear();
        did
    }

    /// Asks again for what a crash forgot; whether that is needed.
    fn end_registration(&mut self, at: usize) -> bool {
        let device = &self.devices[at];
        let Some(registered) = device.registered.filter(|_| device.is_ending) else {
            return false;
        };
        let delivery = self.delivery();
        let conn = ConnId {
            slot: 0,
            generation: u32::MAX,
        };
        let place = self.shard(0).place(conn);
        let is_there = delivery.directory().device(registered.ordinal).is_some();
        if is_there {
            // A busy store is asked again in the next round.
            let _ = delivery.request(registered, u32::MAX, RequestBody::Unregister, place);
        }
        is_there
    }

    fn come_back(&mut self) {
        for at in 0..self.devices.len() {
            while self.devices[at].at.is_some() || !self.devices[at].left.is_empty() {
                self.close(at);
            }
            if self.devices[at].is_ending {
                continue;
            }
            self.set_urgency(at, Urgency::VeryLow);
            self.attach(at, at % usize::from(SHARDS));
        }
    }

    fn is_at_rest(&mut self) -> bool {
        let life = self.life();
        life.operations.is_empty() && life.shards.iter().all(super::shard::Shard::is_at_rest)
    }

    pub(super) fn check(&mut self) {
        let delivery = self.delivery();
        let balance = delivery.balance();
        assert!(balance.is_even() && balance.owed == 0, "{balance:?}");
        assert_eq!(delivery.pending.devices(), 0, "something is pending");
        assert_eq!(delivery.presence().online(), 0, "somebody is present");
        assert!(
            delivery.queued.read().unwrap().is_empty(),
            "a queue is marked"
        );
        assert!(delivery.broadcasts.all().is_empty(), "a broadcast is left");
        assert!(delivery.mailboxes().iter().all(|m| m.stats().depth == 0));
        assert_eq!(delivery.operations_waiting(), 0);
        for (key, _) in self.map.pairs() {
            let kind = char::from(key[0]);
            assert!(
                !matches!(kind, 'Q' | 'L' | 'A' | 'Z' | 'W'),
                "{kind} is left in the store: {key:?}"
            );
            if matches!(kind, 'U' | 'R') {
                let ordinal = Ordinal(u32::from_be_bytes(key[1..5].try_into().unwrap()));
                assert!(
                    delivery.directory().device(ordinal).is_some(),
                    "{kind} of the dead"
                );
            }
        }
        let by_id: BTreeMap<MessageId, &Publish> = self
            .publishes
            .iter()
            .filter_map(|p| Some((p.id?, p)))
            .collect();
        for device in &self.devices {
            if let Some(registered) = device.registered {
                self.check_device(device, registered.ordinal, registered.platform, &by_id);
            }
        }
    }

    fn check_device(
        &self,
        device: &Device,
        ordinal: Ordinal,
        platform: Platform,
        by_id: &BTreeMap<MessageId, &Publish>,
    ) {
        let mut newest = MessageId::ZERO;
        for id in &device.kept {
            let publish = by_id[id];
            assert!(
                publish.audience.contains(ordinal.0),
                "{id} was not for {ordinal:?}"
            );
            let is_own = matches!(publish.to, To::Device(_))
                && publish.deadline(platform) > publish.accepted_at;
            if is_own && !device.is_picky {
                assert!(*id > newest, "{ordinal:?} got {id} after {newest}");
                newest = *id;
            }
        }
        if device.is_ending {
            return;
        }
        let evicted = self.evicted.get(&ordinal).copied().unwrap_or(0);
        let mut missing = [0; TOPICS.len() + 1];
        let mut trimmed = [0; TOPICS.len() + 1];
        for (&id, publish) in by_id {
            if !publish.audience.contains(ordinal.0) {
                continue;
            }
            let place = match publish.to {
                To::Device(_) => TOPICS.len(),
                To::Topic(topic) => topic,
            };
            let is_trimmed = self.trimmed.contains(&id);
            trimmed[place] += u64::from(is_trimmed);
            let is_excused = |p: &Publish| {
                let id = p.id.unwrap();
                let was_evicted = p.to == To::Device(ordinal) && evicted > 0;
                p.deadline(platform) <= self.wall || was_evicted || self.trimmed.contains(&id)
            };
            let is_collapsed = publish.key.is_some()
                && by_id.range(id..).skip(1).any(|(newer, p)| {
                    p.to == publish.to
                        && p.key == publish.key
                        && p.audience.contains(ordinal.0)
                        && (device.kept_ids.contains(newer) || is_excused(p))
                });
            let is_expired = publish.deadline(platform) <= self.wall;
            if !publish.is_safe() || device.kept_ids.contains(&id) || is_collapsed || is_expired {
                continue;
            }
            missing[place] += 1;
            assert!(is_trimmed || evicted > 0, "{id} was lost for {ordinal:?}");
        }
        trimmed[TOPICS.len()] = evicted;
        for (place, topic) in TOPICS.iter().chain(&[""]).enumerate() {
            let told: u64 = device
                .gaps
                .values()
                .filter(|(t, _)| t == topic)
                .map(|(_, n)| n)
                .sum();
            assert!(
                missing[place] <= told && told <= trimmed[place],
                "{ordinal:?} misses {} of {topic:?}, was told of {told}, {} went",
                missing[place],
                trimmed[place],
            );
            assert!(
                place < TOPICS.len() || told == evicted,
                "told {told}, evicted {evicted}"
            );
        }
    }
}
