//! What the test knows: every publish with its answer, every kill, and an [`Account`] for each registration.
//!
//! Everything is judged from outside. Where the order of two things cannot be seen (a publish was under way while a
//! subscription changed, an answer was lost with the broker) the book says so, and the verdict allows both.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use petrel_protocol::MessageId;

use crate::account::{Account, Member};

/// The topics; the last one is for devices that are away most of the time.
pub(crate) const TOPICS: [&str; 5] = ["news", "sport", "weather", "traffic", "flood"];
pub(crate) const FLOOD: usize = 4;

/// How long an ack may take until it survives a kill: settled sets of broadcasts are written twice a second; the rest is
/// for a busy machine.
pub(crate) const COMMIT_WINDOW: Duration = Duration::from_millis(1000);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Address {
    /// By its place among the accounts.
    Device(usize),
    /// By its place in [`TOPICS`].
    Topic(usize),
}

/// How a publish was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Awaited,
    /// With 200.
    Accepted(Instant),
    /// With 503 or by a broken connection: it may have been accepted.
    Unsure(Instant),
    /// Because the registration has ended.
    Refused,
}

/// One publish. Its label is its place in the book.
pub(crate) struct Publication {
    pub(crate) address: Address,
    pub(crate) key: Option<&'static str>,
    pub(crate) urgency: &'static str,
    /// `None`: as long as can be.
    pub(crate) ttl: Option<Duration>,
    pub(crate) sent_at: Instant,
    pub(crate) answer: Answer,
    /// As answered, or as it arrived first.
    pub(crate) id: Option<MessageId>,
}

impl Publication {
    /// When it was accepted at the latest; `None` while that is open.
    pub(crate) fn answered_at(&self) -> Option<Instant> {
        match self.answer {
            Answer::Accepted(at) | Answer::Unsure(at) => Some(at),
            Answer::Awaited | Answer::Refused => None,
        }
    }

    pub(crate) fn is_accepted(&self) -> bool {
        matches!(self.answer, Answer::Accepted(_))
    }

    pub(crate) fn is_now_or_never(&self) -> bool {
        self.ttl == Some(Duration::ZERO)
    }

    /// Whether some of its deadline's uncertainty lies before `now`: then it may have expired.
    pub(crate) fn may_be_expired(&self, now: Instant) -> bool {
        self.ttl.is_some_and(|ttl| self.sent_at + ttl <= now)
    }

    /// Whether it may have been accepted after `other`.
    pub(crate) fn may_be_newer_than(&self, other: &Self) -> bool {
        match (self.id, other.id) {
            (Some(id), Some(other)) => id > other,
            _ => self.answered_at().is_none_or(|at| at > other.sent_at),
        }
    }
}

/// Totals, printed at the end.
#[derive(Default, Debug)]
pub(crate) struct Totals {
    pub(crate) delivered: u64,
    pub(crate) repeats: u64,
    /// Handed to an app of the SDK twice.
    pub(crate) doubled: u64,
    pub(crate) repeats_in_one_session_max: u64,
    pub(crate) sessions: u64,
    pub(crate) gap_frames_repeated: u64,
    /// Of these, with another count than the first time.
    pub(crate) gap_frames_changed: u64,
    pub(crate) registered: u64,
    pub(crate) ended: u64,
    pub(crate) lateness_max_ms: u64,
}

/// Everything that happened, and what was wrong with it.
pub(crate) struct Book {
    pub(crate) began: Instant,
    pub(crate) publications: Vec<Publication>,
    pub(crate) label_by_id: HashMap<MessageId, usize>,
    /// Labels by address and key, in the order of sending.
    pub(crate) by_key: BTreeMap<(Address, &'static str), Vec<usize>>,
    pub(crate) by_address: HashMap<Address, Vec<usize>>,
    pub(crate) accounts: Vec<Account>,
    /// When each broker began to be killed, and when it was gone.
    pub(crate) kills: Vec<(Instant, Option<Instant>)>,
    pub(crate) totals: Totals,
    pub(crate) violations: Vec<String>,
}

impl Book {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            publications: Vec::new(),
            label_by_id: HashMap::new(),
            by_key: BTreeMap::new(),
            by_address: HashMap::new(),
            accounts: Vec::new(),
            kills: Vec::new(),
            totals: Totals::default(),
            violations: Vec::new(),
        }
    }

    /// Notes a publish that is about to be sent; its label.
    pub(crate) fn publish(
        &mut self,
        address: Address,
        key: Option<&'static str>,
        urgency: &'static str,
        ttl: Option<Duration>,
    ) -> usize {
        let label = self.publications.len();
        self.publications.push(Publication {
            address,
            key,
            urgency,
            ttl,
            sent_at: Instant::now(),
            answer: Answer::Awaited,
            id: None,
        });
        self.by_address.entry(address).or_default().push(label);
        if let Some(key) = key {
            self.by_key.entry((address, key)).or_default().push(label);
        }
        label
    }

    /// A publish was answered with 200.
    pub(crate) fn accepted(&mut self, label: usize, id: MessageId) {
        let now = Instant::now();
        self.publications[label].answer = Answer::Accepted(now);
        self.name(label, id);
        let publication = &self.publications[label];
        if let Address::Device(device) = publication.address
            && self.accounts[device]
                .ended_at
                .is_some_and(|at| at < publication.sent_at)
        {
            self.violation(
                Some(device),
                Some(label),
                "accepted for a dead registration",
            );
        }
    }

    /// A publish was answered with 404 and `UNREGISTERED`.
    pub(crate) fn refused(&mut self, label: usize) {
        self.publications[label].answer = Answer::Refused;
        let Address::Device(device) = self.publications[label].address else {
            return self.violation(None, Some(label), "a topic is no registration");
        };
        if self.accounts[device].ending_at.is_none() {
            self.violation(
                Some(device),
                Some(label),
                "refused for a living registration",
            );
        }
    }

    /// A publish was answered with 503, or not at all.
    pub(crate) fn unsure(&mut self, label: usize) {
        self.publications[label].answer = Answer::Unsure(Instant::now());
    }

    /// An id is one message's for ever.
    pub(crate) fn name(&mut self, label: usize, id: MessageId) {
        let named = *self.publications[label].id.get_or_insert(id);
        if named != id {
            let what = format!("has two ids, {named} and {id}");
            self.violation(None, Some(label), &what);
        }
        let other = *self.label_by_id.entry(id).or_insert(label);
        if other != label {
            let what = format!("its id {id} was used before, for #{other}");
            self.violation(None, Some(label), &what);
            self.violation(None, Some(other), "the other one");
        }
    }

    /// Whether a message is for a device.
    pub(crate) fn is_for(&self, label: usize, device: usize) -> Member {
        let publication = &self.publications[label];
        match publication.address {
            Address::Device(other) if other == device => Member::Yes,
            Address::Device(_) => Member::No,
            Address::Topic(topic) => {
                let until = publication.answered_at();
                self.accounts[device].member(topic, publication.sent_at, until)
            }
        }
    }

    /// Whether a broker was killed from `from` until `until`.
    pub(crate) fn was_killed(&self, from: Instant, until: Instant) -> bool {
        let is_over = |kill: &(_, Option<Instant>)| kill.1.is_some_and(|gone_at| gone_at < from);
        let next = self.kills.partition_point(is_over);
        self.kills.get(next).is_some_and(|kill| kill.0 <= until)
    }

    pub(crate) fn kill_begins(&mut self) {
        self.kills.push((Instant::now(), None));
    }

    pub(crate) fn kill_ends(&mut self) {
        self.kills.last_mut().unwrap().1 = Some(Instant::now());
    }

    pub(crate) fn millis(&self, at: Instant) -> u128 {
        at.saturating_duration_since(self.began).as_millis()
    }
}

/// The content of a message, made from its label: whoever has the label can tell whether the rest is whole.
pub(crate) fn content(label: usize) -> String {
    let length = label * 577 % 1_500;
    format!("{label}; ").chars().cycle().take(length).collect()
}

pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
