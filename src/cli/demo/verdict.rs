//! Did every message arrive, and once? The publisher's list against the devices' lists; nothing else is asked.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use petrel_client::MessageId;

use super::fleet::Receipt;
use super::publisher::{Outcome, Publication, Target};

/// When the broker was gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    /// Before the kill was sent.
    pub(super) from: Instant,
    /// Before the next broker was started.
    pub(super) to: Instant,
}

/// What the lists say. Publishes are counted by message, the rest by message and device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    /// Publishes that left for the broker.
    pub(super) published: u64,
    /// Of these: answered 200.
    pub(super) answered: u64,
    /// Of these: no answer that says whether.
    pub(super) unanswered: u64,
    /// Unanswered, and arrived at somebody.
    pub(super) unanswered_arrived: u64,
    /// Answered with an error.
    pub(super) refused: u64,
    /// Never left, although no outage was in the way.
    pub(super) unsent: u64,
    /// Deliveries that the answers promise.
    pub(super) promised: u64,
    /// Promised and never handed to the device's app under that id.
    pub(super) lost: u64,
    /// Handed to the same app again.
    pub(super) doubled: u64,
    /// Handed to a device that it was not for, or never sent.
    pub(super) foreign: u64,
    /// Published before the outage and handed over after it.
    pub(super) replayed: u64,
}

/// Compares the lists. `receipts` has one list for each device, by index.
pub(super) fn judge(
    list: &[Publication],
    receipts: &[Vec<Receipt>],
    outage: Option<Outage>,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut arrived = HashSet::new();
    let mut got: Vec<HashMap<u64, MessageId>> = Vec::with_capacity(receipts.len());
    for (device, receipts) in receipts.iter().enumerate() {
        let mut first = HashMap::with_capacity(receipts.len());
        let mut ids = HashSet::with_capacity(receipts.len());
        for receipt in receipts {
            let entry = receipt
                .number
                .and_then(|n| Some((n, list.get(usize::try_from(n).ok()?)?)));
            let Some((number, publication)) = entry.filter(|(_, p)| may_arrive(p, device)) else {
                verdict.foreign += 1;
                continue;
            };
            let is_new_id = ids.insert(receipt.id);
            if first.contains_key(&number) || !is_new_id {
                verdict.doubled += 1;
                continue;
            }
            first.insert(number, receipt.id);
            arrived.insert(number);
            let is_replay =
                |outage: Outage| publication.intended < outage.from && receipt.at > outage.to;
            verdict.replayed += u64::from(outage.is_some_and(is_replay));
        }
        got.push(first);
    }
    for (number, publication) in (0..).zip(list) {
        match publication.outcome {
            Outcome::NotSent => {
                let hindered = |o: Outage| (o.from..=o.to).contains(&publication.intended);
                verdict.unsent += u64::from(!outage.is_some_and(hindered));
                continue;
            }
            Outcome::Answered(id) => {
                verdict.answered += 1;
                let has = |device: &HashMap<u64, MessageId>| device.get(&number) == Some(&id);
                let (promised, kept) = match publication.target {
                    Target::Device(index) => (1, usize::from(got.get(index).is_some_and(has))),
                    Target::Everyone => {
                        (got.len(), got.iter().filter(|device| has(device)).count())
                    }
                };
                verdict.promised += promised as u64;
                verdict.lost += (promised - kept) as u64;
            }
            Outcome::Unanswered => {
                verdict.unanswered += 1;
                verdict.unanswered_arrived += u64::from(arrived.contains(&number));
            }
            Outcome::Refused(_) => verdict.refused += 1,
        }
        verdict.published += 1;
    }
    verdict
}

fn may_arrive(publication: &Publication, device: usize) -> bool {
    let is_target = match publication.target {
        Target::Device(index) => index == device,
        Target::Everyone => true,
    };
    is_target
        && matches!(
            publication.outcome,
            Outcome::Answered(_) | Outcome::Unanswered
        )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 1, sequence }
    }

    struct Case {
        start: Instant,
        list: Vec<Publication>,
        receipts: Vec<Vec<Receipt>>,
    }

    impl Case {
        /// Three devices. 0 and 1 are answered and arrived; 2 is unanswered; 3 was refused; 4 never left.
        fn good() -> Self {
            let start = Instant::now();
            let published = |target, outcome| Publication {
                target,
                intended: start,
                outcome,
            };
            let list = vec![
                published(Target::Everyone, Outcome::Answered(id(10))),
                published(Target::Device(1), Outcome::Answered(id(11))),
                published(Target::Device(2), Outcome::Unanswered),
                published(Target::Device(0), Outcome::Refused("no".into())),
                published(Target::Device(0), Outcome::NotSent),
            ];
            let mut case = Self {
                start,
                list,
                receipts: vec![Vec::new(); 3],
            };
            case.arrive(0, 0, 10);
            case.arrive(1, 0, 10);
            case.arrive(2, 0, 10);
            case.arrive(1, 1, 11);
            case
        }

        fn arrive(&mut self, device: usize, number: u64, sequence: u64) {
            let at = self.start + Duration::from_millis(5);
            self.receipts[device].push(Receipt {
                id: id(sequence),
                number: Some(number),
                at,
            });
        }

        fn judge(&self) -> Verdict {
            judge(&self.list, &self.receipts, None)
        }
    }

    #[test]
    fn all_arrived_once() {
        assert_eq!(
            Case::good().judge(),
            Verdict {
                published: 4,
                answered: 2,
                unanswered: 1,
                refused: 1,
                unsent: 1,
                promised: 4,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn a_lost_message_is_found() {
        let mut case = Case::good();
        case.receipts[1].pop();
        assert_eq!(case.judge().lost, 1);
        case.receipts[2].clear();
        assert_eq!(case.judge().lost, 2);
    }

    #[test]
    fn a_message_under_another_id_than_the_answer_named_is_lost() {
        let mut case = Case::good();
        case.receipts[1].pop();
        case.arrive(1, 1, 12);
        assert_eq!(case.judge().lost, 1);
    }

    #[test]
    fn a_doubled_message_is_found_under_the_same_id_and_under_another() {
        let mut case = Case::good();
        case.arrive(1, 1, 11);
        assert_eq!(case.judge().doubled, 1);
        case.arrive(1, 1, 12);
        assert_eq!(case.judge().doubled, 2);
        assert_eq!(case.judge().lost, 0);
    }

    #[test]
    fn an_unanswered_message_may_arrive_once() {
        let mut case = Case::good();
        case.arrive(2, 2, 12);
        let verdict = case.judge();
        assert_eq!(
            (verdict.unanswered_arrived, verdict.doubled, verdict.foreign),
            (1, 0, 0)
        );
        case.arrive(2, 2, 13);
        assert_eq!(case.judge().doubled, 1);
    }

    #[test]
    fn what_was_for_others_or_never_sent_is_foreign() {
        let mut case = Case::good();
        case.arrive(0, 1, 11);
        case.arrive(0, 3, 12);
        case.arrive(0, 4, 13);
        case.arrive(0, 99, 14);
        case.receipts[0].push(Receipt {
            id: id(15),
            number: None,
            at: case.start,
        });
        assert_eq!(case.judge().foreign, 5);
    }

    #[test]
    fn only_an_outage_excuses_what_was_not_sent() {
        let case = Case::good();
        let at = |ms| case.start + Duration::from_millis(ms);
        let judge = |from, to| judge(&case.list, &case.receipts, Some(Outage { from, to }));
        assert_eq!(judge(at(0), at(1)).unsent, 0);
        assert_eq!(judge(at(1), at(2)).unsent, 1);
    }

    #[test]
    fn replayed_is_what_was_published_before_the_outage_and_came_after_it() {
        let case = Case::good();
        let outage = |from, to| {
            let at = |ms| case.start + Duration::from_millis(ms);
            Some(Outage {
                from: at(from),
                to: at(to),
            })
        };
        assert_eq!(judge(&case.list, &case.receipts, outage(1, 4)).replayed, 4);
        assert_eq!(judge(&case.list, &case.receipts, outage(1, 6)).replayed, 0);
        assert_eq!(judge(&case.list, &case.receipts, outage(0, 4)).replayed, 0);
    }
}
