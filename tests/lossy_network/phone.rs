//! A device: what an app keeps, over a shard and [`DeviceSession`].

use std::collections::BTreeSet;

use petrel_protocol::MessageId;
use petrel_protocol::session::states::DeviceState;
use petrel_protocol::session::{DeviceEvent, DeviceSession};
use petrel_protocol::wire::{self, to_broker};
use petrel_quic::sim::{HostId, Sim};
use petrel_quic::{ClientSetup, CloseReason, ConnId, Event, ShardCore};

use super::{MESSAGES, Unsent, payload};

/// Requests and reports that each phone sends in each session.
const REQUESTS: u32 = 12;

/// One device.
pub(super) struct Phone {
    pub(super) number: usize,
    pub(super) host: HostId,
    pub(super) conn: ConnId,
    pub(super) session: DeviceSession,
    pub(super) unsent: Unsent,
    token: Option<String>,
    /// What its app has, in the order in which it came.
    pub(super) kept: Vec<u64>,
    last_of_session: u64,
    unanswered: BTreeSet<u32>,
    pub(super) repeats: usize,
    pub(super) closed: Option<CloseReason>,
}

impl Phone {
    pub(super) fn new(
        number: usize,
        host: HostId,
        broker: HostId,
        sim: &mut Sim,
        setup: &ClientSetup,
    ) -> Self {
        let register = wire::Register {
            secret: vec![number as u8; 32].into(),
            ..wire::Register::default()
        };
        Self {
            number,
            host,
            conn: sim.connect(host, broker, setup),
            session: DeviceSession::register(register),
            unsent: Unsent::default(),
            token: None,
            kept: Vec::new(),
            last_of_session: 0,
            unanswered: BTreeSet::new(),
            repeats: 0,
            closed: None,
        }
    }

    /// Everything but what an app keeps on disk is gone; a new connection is made.
    pub(super) fn come_back(&mut self, broker: HostId, sim: &mut Sim, setup: &ClientSetup) {
        let secret = vec![self.number as u8; 32].into();
        self.session = match self.token.clone() {
            Some(token) => DeviceSession::hello(wire::Hello {
                token,
                secret,
                ..wire::Hello::default()
            }),
            None => DeviceSession::register(wire::Register {
                secret,
                ..wire::Register::default()
            }),
        };
        self.conn = sim.connect(self.host, broker, setup);
        self.unsent = Unsent::default();
        self.last_of_session = 0;
        self.unanswered.clear();
    }

    pub(super) fn handle(&mut self, core: &mut ShardCore, event: Event) {
        match event {
            Event::Opened { .. } => self.say_everything(),
            Event::Bytes { bytes, .. } => {
                self.session.handle_bytes(bytes);
                while let Some(event) = self.session.poll_event() {
                    self.take(event);
                }
            }
            Event::Writable { .. } => {}
            Event::Closed { reason, .. } => self.closed = Some(reason),
        }
        while let Some(frame) = self.session.poll_transmit() {
            self.unsent.0.push_back(frame);
        }
        self.unsent.flush(core, self.conn);
    }

    /// Requests and reports, right behind the opening (PROTO-13).
    fn say_everything(&mut self) {
        for number in 1..=REQUESTS {
            let event = wire::Event {
                kind: wire::event::Kind::Displayed as i32,
                at_ms: u64::from(number),
                ..wire::Event::default()
            };
            self.session.say(to_broker::Frame::Event(event));
            let asked = self.session.request(|request| {
                to_broker::Frame::Subscribe(wire::Subscribe {
                    request,
                    topic: "t".repeat(number as usize * 70),
                })
            });
            self.unanswered.insert(asked.0);
        }
    }

    fn take(&mut self, event: DeviceEvent) {
        match event {
            DeviceEvent::Registered(token) => {
                assert_eq!(token.as_str(), self.number.to_string());
                self.token = Some(token.as_str().to_owned());
            }
            DeviceEvent::Welcome(welcome) => assert_eq!(welcome.keep_alive_seconds, 120),
            DeviceEvent::Deliver(message) => {
                let id: MessageId = message.id.unwrap().into();
                assert!(id.sequence > self.last_of_session, "once, in order");
                self.last_of_session = id.sequence;
                assert_eq!(message.data["payload"], payload(self.number, id.sequence));
                if self.kept.last().is_some_and(|&last| id.sequence <= last) {
                    self.repeats += 1;
                } else {
                    self.kept.push(id.sequence);
                }
                self.session.ack(id);
            }
            DeviceEvent::Result(request, result) => {
                assert!(self.unanswered.remove(&request.0), "answered once");
                assert_eq!(result.is_err(), request.0 % 2 == 1);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Has everything it will get, and has not left yet.
    pub(super) fn is_served(&self) -> bool {
        self.kept.len() as u64 == MESSAGES
            && self.unanswered.is_empty()
            && self.session.state() == DeviceState::Attached
    }
}
