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
    /// Size of its record.
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
    /// Most bytes of records.
    pub bytes_max: u64,
    /// What happens past a bound.
    pub policy: FullPolicy,
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
/// (its successor is already waiting) is dropped itself.
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
    let mut bytes: u64 = kept.iter().map(|e| u64::from(e.bytes)).sum();
    let mut count = kept.len();
    if count <= limits.messages_max && bytes <= limits.bytes_max {
        return Admission::Queued { dropped };
    }
    if limits.policy == FullPolicy::Refuse {
        return Admission::Refused;
    }
    kept.sort_by_key(|e| (e.urgency, e.deadline, e.id));
    for entry in kept {
        if count <= limits.messages_max && bytes <= limits.bytes_max {
            break;
        }
        dropped.push((entry.id, DropReason::Evicted));
        count -= 1;
        bytes -= u64::from(entry.bytes);
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
