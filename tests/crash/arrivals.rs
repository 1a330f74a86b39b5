//! What is checked the moment that something arrives at a device.

use std::time::Instant;

use petrel_client::Message;
use petrel_protocol::wire::{self, Deliver};
use petrel_protocol::{MessageId, Urgency};

use crate::account::{Ack, Kept, Member, Told};
use crate::book::{Address, Answer, Book, COMMIT_WINDOW, TOPICS, content, wall_ms};
use crate::common;

/// How much later than its deadline a message may be looked at here: both sides share a busy machine.
const LATENESS_MAX_MS: u64 = 1_500;

/// A message, as the wire or the SDK tells it.
pub(crate) struct Arrival {
    id: MessageId,
    topic: String,
    key: String,
    urgency: &'static str,
    label: String,
    content: String,
    accepted_ms: u64,
    expires_ms: u64,
}

impl From<&Deliver> for Arrival {
    fn from(frame: &Deliver) -> Self {
        Self {
            id: common::id(frame),
            topic: frame.topic.clone(),
            key: frame.collapse_key.clone(),
            urgency: match frame.urgency() {
                wire::Urgency::VeryLow => "very-low",
                wire::Urgency::Low => "low",
                wire::Urgency::High => "high",
                wire::Urgency::Normal | wire::Urgency::Unspecified => "normal",
            },
            label: common::label(frame).to_owned(),
            content: frame.data.get("content").cloned().unwrap_or_default(),
            accepted_ms: frame.accepted_at_ms,
            expires_ms: frame.expires_at_ms,
        }
    }
}

impl From<&Message> for Arrival {
    fn from(message: &Message) -> Self {
        let data = |key| message.data.get(key).cloned().unwrap_or_default();
        Self {
            id: message.id,
            topic: message.topic.clone().unwrap_or_default(),
            key: message.collapse_key.clone().unwrap_or_default(),
            urgency: match message.urgency {
                Urgency::VeryLow => "very-low",
                Urgency::Low => "low",
                Urgency::Normal => "normal",
                Urgency::High => "high",
            },
            label: data("n"),
            content: data("content"),
            accepted_ms: message.sent_at_ms,
            expires_ms: message.expires_at_ms,
        }
    }
}

impl Book {
    /// A message arrived: on the wire, or in the app where the SDK serves the device.
    pub(crate) fn arrived(&mut self, device: usize, arrival: &Arrival) {
        let now = Instant::now();
        let label = arrival.label.parse().ok();
        let Some(label) = label.filter(|label| *label < self.publications.len()) else {
            let what = format!(
                "a message that nobody sent: {} {:?}",
                arrival.id, arrival.label
            );
            return self.violation(Some(device), None, &what);
        };
        self.name(label, arrival.id);
        if let Some(what) = self.fault(device, label, arrival) {
            self.violation(Some(device), Some(label), &what);
        }
        let slot = match self.publications[label].address {
            Address::Topic(topic) => topic,
            Address::Device(_) => TOPICS.len(),
        };
        // PROTO-29: one that goes now or never waits for nothing, so it may overtake.
        let is_ordered = !self.publications[label].is_now_or_never();
        let account = &mut self.accounts[device];
        let number = account.sessions;
        if let Some(session) = account.session.as_mut().filter(|_| is_ordered) {
            let last = std::mem::replace(&mut session.last[slot], arrival.id);
            if last >= arrival.id {
                let what = format!("came after {last} in one session");
                self.violation(Some(device), Some(label), &what);
            }
        }
        if self.accounts[device].kept.contains_key(&arrival.id) {
            self.came_again(device, label, arrival.id);
        } else {
            self.check_collapse(device, label, arrival.id);
            let kept = Kept {
                came: Vec::new(),
                ack: Ack::None,
            };
            self.accounts[device].kept.insert(arrival.id, kept);
            self.totals.delivered += 1;
        }
        let kept = self.accounts[device].kept.get_mut(&arrival.id).unwrap();
        kept.came.push((now, number));
        kept.ack = Ack::None;
    }

    /// What is wrong with a message, by itself.
    fn fault(&mut self, device: usize, label: usize, arrival: &Arrival) -> Option<String> {
        let publication = &self.publications[label];
        let topic = match publication.address {
            Address::Topic(topic) => TOPICS[topic],
            Address::Device(_) => "",
        };
        if arrival.content != content(label)
            || arrival.topic != topic
            || arrival.key != publication.key.unwrap_or_default()
            || arrival.urgency != publication.urgency
        {
            return Some("arrived changed".to_owned());
        }
        // While its registration ends it may have been on its way already.
        let is_ending = self.accounts[device].ending_at.is_some();
        if publication.answer == Answer::Refused && !is_ending {
            return Some("arrived though it was refused".to_owned());
        }
        if self.is_for(label, device) == Member::No {
            return Some("arrived at somebody else".to_owned());
        }
        if let Some(ttl) = publication.ttl.filter(|ttl| !ttl.is_zero()) {
            let expected = arrival.accepted_ms + u64::try_from(ttl.as_millis()).unwrap();
            if arrival.expires_ms != expected {
                return Some(format!("its deadline moved by a restart: {expected}"));
            }
            let late = wall_ms().saturating_sub(arrival.expires_ms);
            self.totals.lateness_max_ms = self.totals.lateness_max_ms.max(late);
            if late > LATENESS_MAX_MS {
                return Some(format!("came {late} ms after its deadline"));
            }
        }
        None
    }

    /// On the wire a message may come again while its ack may have been lost, and to the app never.
    fn came_again(&mut self, device: usize, label: usize, id: MessageId) {
        let account = &mut self.accounts[device];
        let kept = &account.kept[&id];
        let is_again = kept.came.last().is_some_and(|c| c.1 == account.sessions);
        let ack = kept.ack;
        if let Some(session) = &mut account.session {
            session.repeats += 1;
            let repeats = session.repeats;
            let most = &mut self.totals.repeats_in_one_session_max;
            *most = repeats.max(*most);
        }
        self.totals.repeats += 1;
        let publication = &self.publications[label];
        let is_unicast = matches!(publication.address, Address::Device(_));
        let is_sdk = self.accounts[device].is_sdk;
        self.totals.doubled += u64::from(is_sdk);
        let what = if is_sdk {
            Some("reached the app twice")
        } else if is_again {
            Some("came twice in one session")
        } else if publication.is_now_or_never() {
            Some("was now or never, and came again")
        } else {
            let is_lost = match ack {
                Ack::None | Ack::Sent(_) => true,
                Ack::Arrived(at) => self.was_killed(at, at + COMMIT_WINDOW),
                Ack::Confirmed(at, _) if !is_unicast => self.was_killed(at, at + COMMIT_WINDOW),
                Ack::Confirmed(at, until) => self.was_killed(at, until),
            };
            (!is_lost).then_some("came again though its ack was safe")
        };
        if let Some(what) = what {
            self.violation(Some(device), Some(label), what);
        }
    }

    /// PROTO-30, over all lives: nothing comes after what replaced it, nor though that was answered before the session.
    fn check_collapse(&mut self, device: usize, label: usize, id: MessageId) {
        let publication = &self.publications[label];
        let Some(key) = publication.key else {
            return;
        };
        let account = &self.accounts[device];
        let began = account.session.as_ref().map(|session| session.began);
        let newer = self.by_key[&(publication.address, key)]
            .iter()
            .filter(|other| {
                self.publications[**other]
                    .id
                    .is_some_and(|other| other > id)
            });
        let wrong = newer.copied().find_map(|other| {
            let newer = &self.publications[other];
            if newer.id.is_some_and(|id| account.kept.contains_key(&id)) {
                return Some((other, "came after its successor"));
            }
            let Answer::Accepted(at) = newer.answer else {
                return None;
            };
            let is_before = began.is_some_and(|began| at < began);
            (is_before && self.is_for(other, device) == Member::Yes).then_some((
                other,
                "waited beside its successor, answered before the session",
            ))
        });
        if let Some((other, what)) = wrong {
            self.violation(Some(device), Some(label), &format!("{what}, #{other}"));
            self.violation(Some(device), Some(other), "the successor");
        }
    }

    /// A gap arrived.
    pub(crate) fn gap(&mut self, device: usize, gap: &wire::Gap) {
        let id: MessageId = gap.id.unwrap().into();
        let topic = TOPICS.iter().position(|topic| *topic == gap.topic);
        let reason = if topic.is_some() {
            "trimmed"
        } else {
            "evicted"
        };
        let account = &mut self.accounts[device];
        account.note(format!(
            "gap {id} of {:?}: {} {:?}",
            gap.topic, gap.count, gap.reasons
        ));
        if gap.count == 0 || gap.reasons != [(reason.to_owned(), gap.count)].into() {
            return self.violation(
                Some(device),
                None,
                &format!("a gap that does not add up: {gap:?}"),
            );
        }
        if let Some(known) = account.told.iter().find(|told| told.id == Some(id)) {
            self.totals.gap_frames_repeated += 1;
            // The app has the first one; that it adds up is for the verdict.
            self.totals.gap_frames_changed += u64::from(known.count != gap.count);
            if known.topic != topic {
                let what = format!("a gap that was told of {:?}: {gap:?}", known.topic);
                self.violation(Some(device), None, &what);
            }
            return;
        }
        account.told.push(Told {
            id: Some(id),
            topic,
            count: gap.count,
            at: Instant::now(),
        });
    }
}
