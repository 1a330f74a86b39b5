//! What the test knows of one registration, on the device's side: what it kept, acked and was told.

use std::collections::HashMap;
use std::time::Instant;

use petrel_protocol::MessageId;

use crate::book::TOPICS;

/// Whether a registration was subscribed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Member {
    Yes,
    No,
    /// A change was under way, or its answer was lost.
    Maybe,
}

/// What became of the ack for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ack {
    /// Not sent in the session that brought the message last.
    None,
    /// Sent; whether it arrived is open.
    Sent(Instant),
    /// The session ended well, so it arrived.
    Arrived(Instant),
    /// A request that was sent after it was answered at the second instant: it arrived, and everything that the store did
    /// before is durable.
    Confirmed(Instant, Instant),
}

/// A message in the device's inbox, which survives everything.
pub(crate) struct Kept {
    /// Each time that it came: when, and in which session of the device.
    pub(crate) came: Vec<(Instant, u32)>,
    pub(crate) ack: Ack,
}

/// A gap in the device's inbox.
pub(crate) struct Told {
    /// `None` where the SDK told, which keeps the id to itself.
    pub(crate) id: Option<MessageId>,
    /// The topic; `None`: the device's own queue.
    pub(crate) topic: Option<usize>,
    pub(crate) count: u64,
    pub(crate) at: Instant,
}

/// A session while it is open.
pub(crate) struct Open {
    pub(crate) began: Instant,
    /// The last message of each address: topics, then the device itself.
    pub(crate) last: [MessageId; TOPICS.len() + 1],
    pub(crate) repeats: u64,
    pub(crate) acked: Vec<MessageId>,
}

/// One registration.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) token: Option<String>,
    /// When its end was asked for first; from then on nothing is owed for sure.
    pub(crate) ending_at: Option<Instant>,
    /// When its end was known.
    pub(crate) ended_at: Option<Instant>,
    /// Publishers leave it alone for the moment.
    pub(crate) is_reserved: bool,
    /// Its messages have no key, no time to live and no topic but the last: what is missing can only be in a gap.
    pub(crate) is_plain: bool,
    /// Served by the SDK: the wire is not seen.
    pub(crate) is_sdk: bool,
    pub(crate) kept: HashMap<MessageId, Kept>,
    pub(crate) told: Vec<Told>,
    /// Sessions that ended well with nothing owed any more: from when until when.
    pub(crate) emptied: Vec<(Instant, Instant)>,
    pub(crate) session: Option<Open>,
    pub(crate) sessions: u32,
    /// What to tell of it when something is wrong: when, and what.
    pub(crate) log: Vec<(Instant, String)>,
    members: [Vec<(Instant, Member)>; TOPICS.len()],
}

impl Account {
    pub(crate) fn new(name: String, is_sdk: bool) -> Self {
        Self {
            name,
            token: None,
            ending_at: None,
            ended_at: None,
            is_reserved: false,
            is_plain: false,
            is_sdk,
            kept: HashMap::new(),
            told: Vec::new(),
            emptied: Vec::new(),
            session: None,
            sessions: 0,
            log: Vec::new(),
            members: [const { Vec::new() }; TOPICS.len()],
        }
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.log.push((Instant::now(), what.into()));
    }

    /// Notes what is known of a subscription from now on.
    pub(crate) fn set_member(&mut self, topic: usize, member: Member) {
        self.members[topic].push((Instant::now(), member));
        self.note(format!("{}: {member:?}", TOPICS[topic]));
    }

    pub(crate) fn is_member_now(&self, topic: usize) -> Member {
        self.members[topic].last().map_or(Member::No, |(_, m)| *m)
    }

    /// What was true all the time from `from` until `until`, or still is.
    pub(crate) fn member(&self, topic: usize, from: Instant, until: Option<Instant>) -> Member {
        let changes = &self.members[topic];
        let first = changes.partition_point(|(at, _)| *at <= from);
        let before = first.checked_sub(1).map_or(Member::No, |at| changes[at].1);
        let meanwhile = changes[first..]
            .iter()
            .take_while(|(at, _)| until.is_none_or(|until| *at <= until));
        if meanwhile.into_iter().all(|(_, member)| *member == before) {
            before
        } else {
            Member::Maybe
        }
    }

    /// Begins a session, with what the device says first.
    pub(crate) fn open(&mut self) {
        self.sessions += 1;
        self.session = Some(Open {
            began: Instant::now(),
            last: [MessageId::ZERO; TOPICS.len() + 1],
            repeats: 0,
            acked: Vec::new(),
        });
        self.note(format!("session {} begins", self.sessions));
    }

    /// Ends the session; `is_clean` says that the broker closed after everything that the device had said.
    pub(crate) fn close(&mut self, is_clean: bool) {
        let Some(session) = self.session.take() else {
            return;
        };
        if is_clean {
            for id in session.acked {
                if let Some(kept) = self.kept.get_mut(&id)
                    && let Ack::Sent(at) = kept.ack
                {
                    kept.ack = Ack::Arrived(at);
                }
            }
        }
        let how = if is_clean { "ends well" } else { "is lost" };
        self.note(format!("session {} {how}", self.sessions));
    }

    /// The device acks.
    pub(crate) fn acked(&mut self, ids: &[MessageId]) {
        for id in ids {
            if let Some(kept) = self.kept.get_mut(id) {
                kept.ack = Ack::Sent(Instant::now());
            }
        }
        if let Some(session) = &mut self.session {
            session.acked.extend(ids);
        }
    }

    /// How many acks this session has sent; to be given to [`Self::confirmed`] when an answer comes.
    pub(crate) fn acks_sent(&self) -> usize {
        self.session.as_ref().map_or(0, |s| s.acked.len())
    }

    /// A request was answered that was sent after so many acks of this session.
    pub(crate) fn confirmed(&mut self, acks: usize) {
        let Some(session) = &self.session else {
            return;
        };
        for id in &session.acked[..acks] {
            if let Some(kept) = self.kept.get_mut(id)
                && let Ack::Sent(at) = kept.ack
            {
                kept.ack = Ack::Confirmed(at, Instant::now());
            }
        }
    }
}
