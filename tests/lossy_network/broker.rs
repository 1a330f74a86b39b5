//! The broker's side: what is owed to whom, over a shard and [`BrokerSession`].

use std::collections::{BTreeSet, HashMap};

use petrel_protocol::session::states::BrokerState;
use petrel_protocol::session::{BrokerEvent, BrokerSession, Opening, WelcomeTerms};
use petrel_protocol::wire::{self, to_device};
use petrel_protocol::{DeviceToken, ErrorCode, MessageId, codec};
use petrel_quic::sim::{HostId, Sim};
use petrel_quic::{ConnId, Event, ShardCore};

use super::{MESSAGES, Unsent, payload};

/// Of every message id.
pub(super) const EPOCH: u32 = 0x6a4e;
const WINDOW: usize = 8;

/// What the broker knows of one session.
pub(super) struct Session {
    protocol: BrokerSession,
    phone: Option<usize>,
    in_flight: BTreeSet<u64>,
    sent_up_to: u64,
    /// The number of the last report: they count from 1 in each session.
    reported: u64,
    unsent: Unsent,
}

/// What the broker knows of one registration.
pub(super) struct Registration {
    pub(super) owed: BTreeSet<u64>,
    pub(super) conn: Option<ConnId>,
}

/// The broker's side: a shard, and what is owed to whom.
pub(super) struct Broker {
    pub(super) host: HostId,
    pub(super) sessions: HashMap<ConnId, Session>,
    pub(super) registrations: Vec<Registration>,
    /// Sessions that were replaced by newer ones.
    pub(super) replaced: usize,
}

impl Broker {
    pub(super) fn new(host: HostId, phones: usize) -> Self {
        let registrations = (0..phones)
            .map(|_| Registration {
                owed: (1..=MESSAGES).collect(),
                conn: None,
            })
            .collect();
        Self {
            host,
            sessions: HashMap::new(),
            registrations,
            replaced: 0,
        }
    }

    pub(super) fn pump(&mut self, sim: &mut Sim) {
        for event in sim.take_events(self.host) {
            let core = sim.core(self.host);
            match event {
                Event::Opened { conn, .. } => {
                    let session = Session {
                        protocol: BrokerSession::default(),
                        phone: None,
                        in_flight: BTreeSet::new(),
                        sent_up_to: 0,
                        reported: 0,
                        unsent: Unsent::default(),
                    };
                    assert!(self.sessions.insert(conn, session).is_none());
                }
                Event::Bytes { conn, bytes } => {
                    let session = self.sessions.get_mut(&conn).unwrap();
                    session.protocol.handle_bytes(bytes);
                    self.handle_frames(core, conn);
                }
                Event::Writable { conn } => {
                    let session = self.sessions.get_mut(&conn).unwrap();
                    session.unsent.flush(core, conn);
                }
                Event::Closed { conn, .. } => {
                    let session = self.sessions.remove(&conn).unwrap();
                    if let Some(phone) = session.phone {
                        let registration = &mut self.registrations[phone];
                        registration.conn.take_if(|now| *now == conn);
                    }
                }
            }
        }
    }

    fn handle_frames(&mut self, core: &mut ShardCore, conn: ConnId) {
        loop {
            let session = self.sessions.get_mut(&conn).unwrap();
            let Some(event) = session.protocol.poll_event() else {
                return;
            };
            match event {
                BrokerEvent::Opening(opening) => self.admit(core, conn, &opening),
                BrokerEvent::Request(request) => {
                    // Odd ones fail, and the session goes on (PROTO-20).
                    let failed = (request.number % 2 == 1)
                        .then_some((ErrorCode::TooManyTopics, "a text of some length"));
                    assert!(request.body.is_ok());
                    let answer = BrokerSession::answer(request.number, failed);
                    session.unsent.push(core, conn, answer);
                }
                BrokerEvent::Ack { epoch, sequences } => {
                    assert_eq!(epoch, EPOCH);
                    let registration = &mut self.registrations[session.phone.unwrap()];
                    for sequence in sequences {
                        session.in_flight.remove(&sequence);
                        registration.owed.remove(&sequence);
                    }
                    self.deliver(core, conn);
                }
                BrokerEvent::Report(report) => {
                    session.reported += 1;
                    assert_eq!(report.at_ms, session.reported, "every frame once, in order");
                }
                BrokerEvent::Goodbye => core.close(conn, ErrorCode::Goodbye as u32, b"goodbye"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn admit(&mut self, core: &mut ShardCore, conn: ConnId, opening: &Opening) {
        let (phone, token) = match opening {
            Opening::Register(register) => {
                let phone = usize::from(register.secret.as_bytes()[0]);
                (phone, Some(DeviceToken::from_text(&phone.to_string())))
            }
            Opening::Hello(hello) => (hello.token.as_str().parse().unwrap(), None),
        };
        if let Some(old) = self.registrations[phone].conn.replace(conn) {
            self.replaced += 1;
            let old_session = self.sessions.get_mut(&old).unwrap();
            let last = old_session.protocol.end(ErrorCode::Replaced, "replaced", 0);
            old_session.unsent.push(core, old, last.unwrap());
            core.close(old, ErrorCode::Replaced as u32, b"replaced");
        }
        let session = self.sessions.get_mut(&conn).unwrap();
        session.phone = Some(phone);
        let terms = WelcomeTerms {
            server_time_ms: 1,
            keep_alive_seconds: 120,
            window_messages: WINDOW as u32,
            topics_max: 10,
            settled_up_to: MessageId::ZERO,
        };
        for frame in session.protocol.admit(token.as_ref(), terms) {
            session.unsent.push(core, conn, frame);
        }
        self.deliver(core, conn);
    }

    /// Sends what is owed, in order, as far as the window goes.
    fn deliver(&mut self, core: &mut ShardCore, conn: ConnId) {
        let session = self.sessions.get_mut(&conn).unwrap();
        if session.protocol.state() != BrokerState::Attached {
            return;
        }
        let phone = session.phone.unwrap();
        let owed = &self.registrations[phone].owed;
        while session.in_flight.len() < WINDOW {
            let Some(&sequence) = owed.range(session.sent_up_to + 1..).next() else {
                return;
            };
            session.sent_up_to = sequence;
            session.in_flight.insert(sequence);
            let deliver = wire::Deliver {
                id: Some(wire::MessageId {
                    epoch: EPOCH,
                    sequence,
                }),
                data: [("payload".to_owned(), payload(phone, sequence))].into(),
                ..wire::Deliver::default()
            };
            let frame = codec::encode_to_device(to_device::Frame::Deliver(deliver));
            session.unsent.push(core, conn, frame);
        }
    }
}
