//! Both session machines over a simulated bad network, under virtual time: 5 % loss, delay, reordering, duplication, and
//! phones that lose everything they knew of their connection and come back.
//!
//! The broker here is a few lines of glue over a shard and its session machine, so that what is shown is the protocol's
//! own doing. Every run repeats from its seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "lossy_network/broker.rs"]
mod broker;
#[path = "lossy_network/phone.rs"]
mod phone;

use std::collections::VecDeque;

use bytes::Bytes;
use petrel_protocol::ALPN;
use petrel_protocol::wire::{self, to_broker};
use petrel_quic::sim::{HostId, Identity, Link, Sim};
use petrel_quic::{ClientSetup, CloseReason, ConnId, SendError, ShardCore};

use crate::broker::Broker;
use crate::phone::Phone;

const HOSTS: usize = 6;
const PHONES_PER_HOST: usize = 6;
/// Messages that each phone is owed.
const MESSAGES: u64 = 40;

/// Frames that wait for room in a connection.
#[derive(Default)]
struct Unsent(VecDeque<Bytes>);

impl Unsent {
    fn push(&mut self, core: &mut ShardCore, conn: ConnId, frame: Bytes) {
        self.0.push_back(frame);
        self.flush(core, conn);
    }

    fn flush(&mut self, core: &mut ShardCore, conn: ConnId) {
        while let Some(frame) = self.0.pop_front() {
            match core.send(conn, frame) {
                Ok(()) => {}
                Err(SendError::Full(frame)) => return self.0.push_front(frame),
                Err(SendError::Gone) => self.0.clear(),
            }
        }
    }
}

/// Between 0 and 2,999 bytes that no other message has: many frames span several datagrams.
fn payload(phone: usize, sequence: u64) -> String {
    let length = (phone * 1_231 + sequence as usize * 577) % 3_000;
    let tile = format!("{phone}/{sequence};");
    tile.chars().cycle().take(length).collect()
}

/// Everybody, and the network between them.
struct World {
    sim: Sim,
    setup: ClientSetup,
    identity: Identity,
    broker: Broker,
    hosts: Vec<HostId>,
    phones: Vec<Phone>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut identity = Identity::new();
        identity.alpn = vec![ALPN.to_vec()];
        let setup = identity.client_setup();
        let mut sim = Sim::new(seed, Link::LOSSY);
        let broker = sim.add_host(&identity.server_config());
        let hosts: Vec<_> = (0..HOSTS)
            .map(|_| sim.add_host(&identity.client_config()))
            .collect();
        let phones = (0..HOSTS * PHONES_PER_HOST)
            .map(|n| Phone::new(n, hosts[n % HOSTS], broker, &mut sim, &setup))
            .collect();
        Self {
            broker: Broker::new(broker, HOSTS * PHONES_PER_HOST),
            sim,
            setup,
            identity,
            hosts,
            phones,
        }
    }

    fn pump(&mut self) {
        self.broker.pump(&mut self.sim);
        for &host in &self.hosts {
            for event in self.sim.take_events(host) {
                let conn = event.conn();
                let mut phones = self.phones.iter_mut();
                if let Some(phone) = phones.find(|p| p.host == host && p.conn == conn) {
                    phone.handle(self.sim.core(host), event);
                }
            }
        }
    }

    /// Steps until the condition holds.
    fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(self.sim.step(), "{what}: nothing happens any more");
            self.pump();
        }
    }

    /// Every phone leaves; then nothing is left anywhere, and nothing will ever happen again.
    fn end(&mut self) {
        for phone in &mut self.phones {
            let goodbye = to_broker::Frame::Goodbye(wire::Goodbye {});
            phone.session.say(goodbye);
            let core = self.sim.core(phone.host);
            while let Some(frame) = phone.session.poll_transmit() {
                phone.unsent.push(core, phone.conn, frame);
            }
        }
        while self.sim.step() {
            self.pump();
        }
        self.pump();
        let mut told = 0;
        for phone in &self.phones {
            match &phone.closed {
                Some(CloseReason::ByPeer { code: 0, reason }) => {
                    assert_eq!(reason, "goodbye");
                    told += 1;
                }
                // The close was lost, and the broker had forgotten the connection when the phone asked again.
                Some(CloseReason::Reset | CloseReason::TimedOut) => {}
                other => panic!("{other:?}"),
            }
            let all: Vec<u64> = (1..=MESSAGES).collect();
            assert_eq!(phone.kept, all, "all, once, in order");
            assert!(phone.unsent.0.is_empty());
        }
        assert!(told * 2 > self.phones.len(), "{told}");
        for registration in &self.broker.registrations {
            assert!(registration.owed.is_empty() && registration.conn.is_none());
        }
        assert_eq!(self.broker.sessions.len(), 0, "nothing leaked");
        for host in self.hosts.iter().copied().chain([self.broker.host]) {
            let stats = self.sim.core(host).stats();
            let connections = [
                stats.connections,
                stats.handshakes,
                stats.connecting,
                stats.lingering,
            ];
            let bytes = [stats.remainder_bytes, stats.event_bytes, stats.reply_bytes];
            assert_eq!((connections, bytes), ([0; 4], [0; 3]), "nothing leaked");
        }
    }
}

/// PROTO-5, PROTO-13, PROTO-15, PROTO-20, PROTO-28, PROTO-34: registering, requests, deliveries and acks of many devices
/// over a network that loses, delays, reorders and repeats datagrams.
#[test]
fn every_frame_arrives_once_and_in_order_over_a_bad_network() {
    for seed in [1, 2, 3, 4, 5] {
        let mut world = World::new(seed);
        world.run_until("all are served", |w| w.phones.iter().all(Phone::is_served));
        let net = world.sim.stats();
        assert!(
            net.lost > 100 && net.duplicated > 20,
            "seed {seed}: {net:?}"
        );
        assert!(world.phones.iter().all(|phone| phone.repeats == 0));
        assert_eq!(world.broker.replaced, 0);
        world.end();
    }
}

/// PROTO-19, PROTO-23, PROTO-27: a phone that lost its connection comes back, replaces its old session, and gets
/// again, in order, what it had not acked.
#[test]
fn devices_that_come_back_get_what_they_had_not_acked() {
    let (mut repeats, mut replaced) = (0, 0);
    for seed in [11, 12, 13] {
        let mut world = World::new(seed);
        for round in 1..=2 {
            let goal = round * MESSAGES as usize / 4;
            world.run_until("some messages for all", |w| {
                w.phones.iter().all(|phone| phone.kept.len() >= goal)
            });
            for at in 0..HOSTS / 2 {
                let host = world.hosts[at];
                let config = world.identity.client_config();
                world.sim.restart(host, &config);
                for phone in world.phones.iter_mut().filter(|p| p.host == host) {
                    phone.come_back(world.broker.host, &mut world.sim, &world.setup);
                }
            }
        }
        world.run_until("all are served", |w| w.phones.iter().all(Phone::is_served));
        repeats += world
            .phones
            .iter()
            .map(|phone| phone.repeats)
            .sum::<usize>();
        replaced += world.broker.replaced;
        world.end();
    }
    assert!(repeats > 0 && replaced > 0, "{repeats} {replaced}");
}
