//! The last account: what was answered 200 arrived, or is excused by what the test can show.
//!
//! For each device and address (its own, or a topic) the messages that are missing must be as many as its gaps say. What
//! cannot be seen from outside is counted on both sides: a publish without an answer may or may not have been accepted,
//! and a message whose ack was lost may have been kept here and counted in a gap there.

use std::collections::BTreeMap;
use std::time::Instant;

use petrel_protocol::MessageId;

use crate::account::{Ack, Member};
use crate::book::{Address, Answer, Book, COMMIT_WINDOW, TOPICS};

/// The bit that tells a gap's id from that of the message that names it.
const GAP_BIT: u64 = 1 << 63;

/// How the counts of one stretch of one address came out.
#[derive(Default)]
struct Stretch {
    told: u64,
    missing: Vec<usize>,
    /// Messages that may or may not be in the gap.
    open: u64,
}

/// What the run came to.
#[derive(Default, Debug)]
pub(crate) struct Verdict {
    /// Deliveries of messages answered 200 to living registrations.
    pub(crate) owed: u64,
    pub(crate) arrived: u64,
    pub(crate) collapsed: u64,
    pub(crate) expired: u64,
    /// Counted in gaps.
    pub(crate) in_gaps: u64,
    pub(crate) gaps: u64,
    /// Gaps whose count had to be exactly this one, and those that might have been another.
    pub(crate) gaps_pinned: u64,
    pub(crate) gaps_open: u64,
    pub(crate) lost: u64,
}

impl Book {
    /// Looks at everything once all devices are quiet.
    pub(crate) fn verdict(&mut self) -> Verdict {
        let mut verdict = Verdict::default();
        for device in 0..self.accounts.len() {
            if self.accounts[device].ending_at.is_some() {
                continue;
            }
            self.judge(device, Address::Device(device), &mut verdict);
            if self.accounts[device].is_plain {
                self.judge_between(device, &mut verdict);
            }
            for topic in 0..TOPICS.len() {
                self.judge(device, Address::Topic(topic), &mut verdict);
            }
        }
        verdict
    }

    fn judge(&mut self, device: usize, address: Address, verdict: &mut Verdict) {
        let now = Instant::now();
        let mut stretches = self.stretches(device, address);
        for &label in self.by_address.get(&address).into_iter().flatten() {
            let publication = &self.publications[label];
            let member = self.is_for(label, device);
            if member == Member::No {
                continue;
            }
            let id = publication.id;
            let is_owed = publication.is_accepted() && member == Member::Yes;
            verdict.owed += u64::from(is_owed);
            let Some(id) = id else {
                // Without an answer and never seen: in any stretch that it can belong to, or nowhere.
                let (after, before) = self.bounds(label);
                for (end, stretch) in stretches.range_mut(after..) {
                    stretch.open += 1;
                    if *end >= before {
                        break;
                    }
                }
                continue;
            };
            let Some((_, stretch)) = stretches.range_mut(id..).next() else {
                continue;
            };
            let is_kept = self.accounts[device].kept.contains_key(&id);
            if is_kept {
                verdict.arrived += u64::from(is_owed);
                stretch.open += u64::from(self.may_be_told(device, label));
            } else if !is_owed {
                stretch.open += 1;
            } else if publication.may_be_expired(now) {
                verdict.expired += 1;
                stretch.open += 1;
            } else if self.is_replaced(device, label) {
                verdict.collapsed += 1;
                stretch.open += 1;
            } else {
                stretch.missing.push(label);
            }
        }
        for stretch in stretches.into_values() {
            self.weigh(device, address, &stretch, verdict);
        }
    }

    /// What was published to a device between two sessions that left nothing owed came in the second, or is in a gap that
    /// was told since the first. Where no answer and no ack is missing, the counts are equal.
    fn judge_between(&mut self, device: usize, verdict: &mut Verdict) {
        let emptied = self.accounts[device].emptied.clone();
        for pair in emptied.windows(2) {
            let ((_, from), (until, end)) = (pair[0], pair[1]);
            let mut stretch = Stretch::default();
            let account = &self.accounts[device];
            let told = account.told.iter().filter(|told| told.topic.is_none());
            let told = told.filter(|told| told.at > from && told.at <= end);
            stretch.told = told.map(|told| told.count).sum();
            let labels = self.by_address.get(&Address::Device(device));
            for &label in labels.into_iter().flatten() {
                let publication = &self.publications[label];
                let answered_at = publication.answered_at().unwrap_or(end);
                if answered_at < pair[0].0 || publication.sent_at > end {
                    continue;
                }
                let id = publication.id;
                let is_kept = id.is_some_and(|id| account.kept.contains_key(&id));
                let is_inside = publication.sent_at > from && answered_at < until;
                if is_kept && is_inside {
                    stretch.open += u64::from(self.may_be_told(device, label));
                } else if publication.is_accepted() && is_inside {
                    stretch.missing.push(label);
                } else if !is_kept || answered_at > from {
                    stretch.open += 1;
                }
            }
            // The sums are in the books of the whole address already.
            let mut between = Verdict::default();
            self.weigh(device, Address::Device(device), &stretch, &mut between);
            verdict.gaps_pinned += between.gaps_pinned;
        }
    }

    /// Between which ids that of a message must lie that has no answer: the last before it was sent, and the first sent
    /// after it was given up.
    fn bounds(&self, label: usize) -> (MessageId, MessageId) {
        let last = MessageId {
            epoch: u32::MAX,
            sequence: u64::MAX,
        };
        let publication = &self.publications[label];
        let earlier = self.publications.iter().filter(|other| {
            other.is_accepted()
                && other
                    .answered_at()
                    .is_some_and(|at| at < publication.sent_at)
        });
        let given_up_at = publication.answered_at();
        let later = self
            .publications
            .iter()
            .filter(|other| given_up_at.is_some_and(|at| other.sent_at > at));
        (
            earlier
                .filter_map(|p| p.id)
                .max()
                .unwrap_or(MessageId::ZERO),
            later.filter_map(|p| p.id).min().unwrap_or(last),
        )
    }

    fn weigh(&mut self, device: usize, address: Address, stretch: &Stretch, verdict: &mut Verdict) {
        let missing = stretch.missing.len() as u64;
        verdict.in_gaps += missing.min(stretch.told);
        if stretch.told > 0 {
            verdict.gaps += 1;
            let is_open = stretch.open > 0;
            verdict.gaps_open += u64::from(is_open);
            verdict.gaps_pinned += u64::from(!is_open);
        }
        if missing > stretch.told {
            verdict.lost += missing - stretch.told;
            let what = format!(
                "is lost: {missing} of {address:?} are missing, and gaps say {}",
                stretch.told
            );
            self.violation(Some(device), stretch.missing.first().copied(), &what);
        } else if stretch.told > missing + stretch.open {
            let what = format!(
                "a gap too large: {} of {address:?} are missing, {} may be, and gaps say {}",
                missing, stretch.open, stretch.told
            );
            self.violation(Some(device), stretch.missing.first().copied(), &what);
        }
    }

    /// The stretches of an address, by the last id of each: one for each gap that is named by a message of this address,
    /// since nothing up to that message can be told later; and one for what follows. Otherwise one for everything.
    fn stretches(&self, device: usize, address: Address) -> BTreeMap<MessageId, Stretch> {
        let last = MessageId {
            epoch: u32::MAX,
            sequence: u64::MAX,
        };
        let mut stretches = BTreeMap::from([(last, Stretch::default())]);
        let topic = match address {
            Address::Topic(topic) => Some(topic),
            Address::Device(_) => None,
        };
        let told = self.accounts[device]
            .told
            .iter()
            .filter(|t| t.topic == topic);
        for told in told {
            let newest = told.id.map(|id| MessageId {
                sequence: id.sequence & !GAP_BIT,
                ..id
            });
            let end = newest
                .filter(|id| topic.is_some() && self.label_by_id.contains_key(id))
                .unwrap_or(last);
            stretches.entry(end).or_default().told += told.count;
        }
        stretches
    }

    /// Whether a message that arrived may be counted in a gap as well: the broker may not have known of its ack.
    fn may_be_told(&self, device: usize, label: usize) -> bool {
        let publication = &self.publications[label];
        let account = &self.accounts[device];
        if account.is_sdk {
            return true;
        }
        let Some(kept) = publication.id.and_then(|id| account.kept.get(&id)) else {
            return true;
        };
        let Some((came, _)) = kept.came.last() else {
            return true;
        };
        let (at, by) = match kept.ack {
            Ack::Confirmed(at, by) => (at, by),
            Ack::None | Ack::Sent(_) | Ack::Arrived(_) => return true,
        };
        let is_topic = matches!(publication.address, Address::Topic(_));
        if is_topic && self.was_killed(at, at + COMMIT_WINDOW) {
            return true;
        }
        // Something came in between that may have pushed it out.
        let first = self.publications.partition_point(|p| p.sent_at < *came);
        let open = self.publications[..first].iter().rev().take(1_000);
        let during = self.publications[first..]
            .iter()
            .take_while(|p| p.sent_at <= by);
        let mut meanwhile = open
            .filter(|p| p.answered_at().is_none_or(|at| at >= *came))
            .chain(during);
        meanwhile.any(|p| p.address == publication.address)
    }

    /// Whether a newer message of its key may stand for it.
    fn is_replaced(&self, device: usize, label: usize) -> bool {
        let publication = &self.publications[label];
        let Some(key) = publication.key else {
            return false;
        };
        self.by_key[&(publication.address, key)]
            .iter()
            .any(|other| {
                let newer = &self.publications[*other];
                *other != label
                    && newer.answer != Answer::Refused
                    && newer.may_be_newer_than(publication)
                    && self.is_for(*other, device) != Member::No
            })
    }
}
