//! What a device's queue lets in, and what it throws out for it.
//!
//! Decides, for one new message, over the entries that wait already. The store applies the decision in the same
//! atomic step that adds the message, so the limits hold at every moment and over every crash.

use petrel_protocol::{CollapseKey, MessageId, Urgency};

use crate::{DropReason, UnixMillis};

/// What the rules need to know of a queued message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Which message; the queue is in this order.
    pub id: MessageId,
    /// Bytes that it takes in the queue.
    pub bytes: u32,
    /// As fixed for this device's platform.
    pub urgency: Urgency,
    /// As fixed for this device's platform.
    pub deadline: UnixMillis,
    /// As fixed for this device's platform.
    pub collapse_key: Option<CollapseKey>,
}

/// What happens when a queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FullPolicy {
    /// The least urgent goes, of those the one that expires first. The device is told by a `Gap`.
    #[default]
    Evict,
    /// The publisher is refused.
    Refuse,
}

/// Bounds of one device's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most messages.
    pub messages_max: usize,
    /// Most bytes that messages take.
    pub bytes_max: u64,
    /// Most messages with a collapse key; each has a key of its own, because the newer of two replaces the older.
    pub collapse_keys_max: usize,
    /// What happens past a bound.
    pub policy: FullPolicy,
}

/// What is known of a queue without reading it: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Messages in it.
    pub messages: u32,
    /// Bytes that they take.
    pub bytes: u32,
    /// Those of them that have a collapse key.
    pub keyed: u16,
    /// Gaps that the device has not acked.
    pub gaps: u16,
    /// No message of it expires in an earlier [`Span`].
    pub earliest: Span,
}

/// A stretch of 2^20 ms (17.5 minutes) of wall time, by number: how exactly a queue's next deadline is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Span(pub u32);

impl Span {
    /// Later than everything.
    pub const NEVER: Self = Self(u32::MAX);

    /// The one that a moment is in.
    #[must_use]
    pub fn of(moment: UnixMillis) -> Self {
        Self(u32::try_from(moment.0 >> 20).unwrap_or(u32::MAX))
    }
}

impl Default for Span {
    fn default() -> Self {
        Self::NEVER
    }
}

impl Summary {
    /// Takes one more message into account.
    pub fn add(&mut self, entry: &Entry) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(entry.bytes);
        self.keyed = self
            .keyed
            .saturating_add(u16::from(entry.collapse_key.is_some()));
        self.earliest = self.earliest.min(Span::of(entry.deadline));
    }

    /// Takes a message out. What the next deadline is now, nobody has looked: it is no earlier.
    pub fn remove(&mut self, bytes: u32, is_keyed: bool) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.keyed = self.keyed.saturating_sub(u16::from(is_keyed));
    }

    /// Whether there is neither message nor gap.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0 && self.gaps == 0
    }

    /// Whether a message fits in without any other going for it, so that [`admit`] need not be asked.
    #[must_use]
    pub fn has_room_for(&self, new: &Entry, limits: Limits) -> bool {
        (new.collapse_key.is_none() || self.keyed == 0 && limits.collapse_keys_max > 0)
            && (self.messages as usize) < limits.messages_max
            && u64::from(self.bytes) + u64::from(new.bytes) <= limits.bytes_max
    }
}

/// What becomes of a new message and of those before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is queued, unless it is itself among the dropped.
    Queued {
        /// What goes for it, the new one included if it is the least worth keeping.
        dropped: Vec<(MessageId, DropReason)>,
    },
    /// The queue is full and its policy is to refuse. Nothing changes.
    Refused,
}

/// Decides about `new` over `waiting`, which is in the order of ids.
///
/// A newer message with the collapse key of an older one replaces it; a message that was replaced before it got here
/// (its successor is already waiting) is dropped itself. One collapse key too many costs the oldest message that has
/// one, whatever the policy: keys are for what is outdated by the next message, and nobody could resend it better.
#[must_use]
pub fn admit(waiting: &[Entry], new: &Entry, limits: Limits, now: UnixMillis) -> Admission {
    let mut dropped = Vec::new();
    let mut kept: Vec<&Entry> = Vec::with_capacity(waiting.len() + 1);
    let shares_key =
        |entry: &Entry| entry.collapse_key.is_some() && entry.collapse_key == new.collapse_key;
    for entry in waiting {
        if shares_key(entry) && entry.id > new.id {
            return Admission::Queued {
                dropped: vec![(new.id, DropReason::Collapsed)],
            };
        }
        if shares_key(entry) {
            dropped.push((entry.id, DropReason::Collapsed));
        } else if entry.deadline <= now {
            dropped.push((entry.id, DropReason::Expired));
        } else {
            kept.push(entry);
        }
    }
    kept.push(new);
    let mut evict = |kept: &mut Vec<&Entry>, at: usize| -> u64 {
        let entry = kept.swap_remove(at);
        dropped.push((entry.id, DropReason::Evicted));
        u64::from(entry.bytes)
    };
    while new.collapse_key.is_some()
        && kept.iter().filter(|e| e.collapse_key.is_some()).count() > limits.collapse_keys_max
    {
        let keyed = |(_, e): &(usize, &&Entry)| e.collapse_key.is_some();
        let oldest = kept
            .iter()
            .enumerate()
            .filter(keyed)
            .min_by_key(|(_, e)| e.id);
        let Some((at, _)) = oldest else { break };
        evict(&mut kept, at);
    }
    let mut bytes: u64 = kept.iter().map(|e| u64::from(e.bytes)).sum();
    while kept.len() > limits.messages_max || bytes > limits.bytes_max {
        if limits.policy == FullPolicy::Refuse {
            return Admission::Refused;
        }
        let worst = |(_, e): &(usize, &&Entry)| (e.urgency, e.deadline, e.id);
        let Some((at, _)) = kept.iter().enumerate().min_by_key(worst) else {
            break;
        };
        bytes -= evict(&mut kept, at);
    }
    Admission::Queued { dropped }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);
    const LIMITS: Limits = Limits {
        messages_max: 3,
        bytes_max: 300,
        collapse_keys_max: 2,
        policy: FullPolicy::Evict,
    };

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 1, sequence }
    }

    fn entry(sequence: u64) -> Entry {
        Entry {
            id: id(sequence),
            bytes: 100,
            urgency: Urgency::Normal,
            deadline: UnixMillis(10_000 + sequence),
            collapse_key: None,
        }
    }

    fn keyed(sequence: u64, key: &str) -> Entry {
        Entry {
            collapse_key: Some(CollapseKey::parse(key).unwrap()),
            ..entry(sequence)
        }
    }

    fn check(waiting: &[Entry], new: &Entry, expect: &[(u64, DropReason)]) {
        let dropped = expect.iter().map(|&(s, r)| (id(s), r)).collect();
        assert_eq!(
            admit(waiting, new, LIMITS, NOW),
            Admission::Queued { dropped }
        );
    }

    fn summary(waiting: &[Entry]) -> Summary {
        let mut summary = Summary::default();
        waiting.iter().for_each(|entry| summary.add(entry));
        summary
    }

    #[test]
    fn a_summary_says_room_only_where_nothing_would_go() {
        let all = [entry(1), keyed(2, "a"), keyed(3, "b"), entry(4)];
        for waiting in [&all[..0], &all[..1], &all[..2], &all[..3], &all] {
            for new in [entry(9), keyed(9, "a"), keyed(9, "c")] {
                let nothing_goes =
                    admit(waiting, &new, LIMITS, NOW) == Admission::Queued { dropped: vec![] };
                let has_room = summary(waiting).has_room_for(&new, LIMITS);
                assert!(nothing_goes || !has_room, "{waiting:?} {new:?}");
                assert!(has_room || new.collapse_key.is_some() || !nothing_goes);
            }
        }
        let mut two = summary(&all[..2]);
        two.remove(100, true);
        assert_eq!(two, summary(&all[..1]));
        two.remove(100, false);
        assert!(two.is_empty());
        assert_eq!(size_of::<Summary>(), 16);
    }

    #[test]
    fn up_to_the_limit_nothing_goes() {
        check(&[], &entry(1), &[]);
        check(&[entry(1), entry(2)], &entry(3), &[]);
    }

    #[test]
    fn one_past_the_limit_the_first_to_expire_goes() {
        let waiting = [entry(1), entry(2), entry(3)];
        check(&waiting, &entry(4), &[(1, DropReason::Evicted)]);
    }

    #[test]
    fn one_byte_past_the_limit_counts_too() {
        let big = Entry {
            bytes: 101,
            ..entry(3)
        };
        check(&[entry(1), entry(2)], &big, &[(1, DropReason::Evicted)]);
    }

    #[test]
    fn urgency_comes_before_the_deadline() {
        let low = Entry {
            urgency: Urgency::Low,
            ..entry(3)
        };
        check(
            &[entry(1), entry(2), low.clone()],
            &entry(4),
            &[(3, DropReason::Evicted)],
        );
        // The new one may be the least worth keeping itself.
        check(
            &[entry(1), entry(2), entry(4)],
            &Entry { id: id(5), ..low },
            &[(5, DropReason::Evicted)],
        );
    }

    #[test]
    fn expired_and_collapsed_make_room_first() {
        let expired = Entry {
            deadline: NOW,
            ..entry(1)
        };
        check(
            &[expired, keyed(2, "k"), keyed(3, "other")],
            &keyed(4, "k"),
            &[(1, DropReason::Expired), (2, DropReason::Collapsed)],
        );
    }

    #[test]
    fn a_message_that_comes_after_its_successor_is_dropped_itself() {
        check(
            &[keyed(5, "k")],
            &keyed(4, "k"),
            &[(4, DropReason::Collapsed)],
        );
    }

    #[test]
    fn one_collapse_key_too_many_costs_the_oldest_message_that_has_one() {
        check(
            &[keyed(1, "a"), keyed(2, "b")],
            &keyed(3, "c"),
            &[(1, DropReason::Evicted)],
        );
        check(
            &[keyed(1, "a"), keyed(2, "b")],
            &keyed(3, "a"),
            &[(1, DropReason::Collapsed)],
        );
        check(&[keyed(1, "a"), keyed(2, "b")], &entry(3), &[]);
        // It comes late, and is the oldest itself.
        check(
            &[keyed(2, "a"), keyed(3, "b")],
            &keyed(1, "c"),
            &[(1, DropReason::Evicted)],
        );
    }

    #[test]
    fn a_queue_that_refuses_changes_nothing() {
        let limits = Limits {
            policy: FullPolicy::Refuse,
            ..LIMITS
        };
        let waiting = [entry(1), entry(2), entry(3)];
        assert_eq!(admit(&waiting, &entry(4), limits, NOW), Admission::Refused);
        assert_eq!(
            admit(&waiting[..2], &entry(4), limits, NOW),
            Admission::Queued { dropped: vec![] }
        );
    }
}
