//! What became of a message for one device: the history that people ask for.
//!
//! An [`Event`] is one happening at one moment. Many of them make a *leaf* of history ([`encode_events`]), compact
//! because nothing is said twice: a message that was accepted, sent and acked takes some 12 bytes. All that is known of
//! one message for one device is its [`Timeline`].
//!
//! History explains and proves nothing: delivery never reads it, and it may be short by what was not written yet.

use std::fmt;

use petrel_protocol::{MessageId, Ordinal};
use prost::Message as _;

use crate::{DropReason, UnixMillis};

/// One thing that happens to a message for a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Happening {
    /// It got its id.
    Accepted,
    /// It is durable in the device's queue.
    Queued,
    /// It was handed to the device's connection.
    Sent,
    /// The device has it.
    Acked,
    /// The app has shown it.
    Displayed,
    /// The user has opened it.
    Opened,
    /// The user has dismissed it.
    Dismissed,
    /// The device's queue was full and refused it; its publisher was told.
    Refused,
    /// It will not be delivered any more.
    Dropped(DropReason),
}

impl Happening {
    /// Every one.
    pub const ALL: [Self; 16] = [
        Self::Accepted,
        Self::Queued,
        Self::Sent,
        Self::Acked,
        Self::Displayed,
        Self::Opened,
        Self::Dismissed,
        Self::Refused,
        Self::Dropped(DropReason::Expired),
        Self::Dropped(DropReason::Collapsed),
        Self::Dropped(DropReason::Evicted),
        Self::Dropped(DropReason::Trimmed),
        Self::Dropped(DropReason::Recalled),
        Self::Dropped(DropReason::Unregistered),
        Self::Dropped(DropReason::OptedOut),
        Self::Dropped(DropReason::Unreadable),
    ];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Displayed => "displayed",
            Self::Opened => "opened",
            Self::Dismissed => "dismissed",
            Self::Refused => "refused",
            Self::Dropped(reason) => reason.as_str(),
        }
    }

    /// Its place in [`Happening::ALL`]: how it is stored.
    const fn number(self) -> u64 {
        match self {
            Self::Accepted => 0,
            Self::Queued => 1,
            Self::Sent => 2,
            Self::Acked => 3,
            Self::Displayed => 4,
            Self::Opened => 5,
            Self::Dismissed => 6,
            Self::Refused => 7,
            Self::Dropped(reason) => 8 + reason.index() as u64,
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One happening at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// For whom the message is.
    pub device: Ordinal,
    /// Which message.
    pub id: MessageId,
    /// What happened.
    pub happening: Happening,
    /// When.
    pub at: UnixMillis,
}

/// What is known of one message for one device, in order of time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    /// The message.
    pub id: MessageId,
    steps: Vec<(Happening, UnixMillis)>,
}

impl Timeline {
    /// Most steps. A longer one loses all but the first and the last times that the message was sent: that is what
    /// repeats, for a device that comes again and again and never acks.
    pub const STEPS_MAX: usize = 32;

    /// Nothing known yet.
    #[must_use]
    pub const fn new(id: MessageId) -> Self {
        Self {
            id,
            steps: Vec::new(),
        }
    }

    /// Adds a step where its time puts it; of one moment, behind what is there.
    pub fn add(&mut self, happening: Happening, at: UnixMillis) {
        let place = self.steps.partition_point(|&(_, before)| before <= at);
        if self.steps.get(place.wrapping_sub(1)) == Some(&(happening, at)) {
            return;
        }
        self.steps.insert(place, (happening, at));
        if self.steps.len() > Self::STEPS_MAX {
            let repeats = self.steps[1..Self::STEPS_MAX].iter();
            let repeated = repeats.rev().position(|(h, _)| *h == Happening::Sent);
            let back = repeated.unwrap_or(0);
            self.steps.remove(Self::STEPS_MAX - 1 - back);
        }
    }

    /// What happened, and when, in order.
    #[must_use]
    pub fn steps(&self) -> &[(Happening, UnixMillis)] {
        &self.steps
    }

    /// Whether its beginning is known: everything later is, too.
    #[must_use]
    pub fn has_beginning(&self) -> bool {
        self.steps.iter().any(|(h, _)| *h == Happening::Accepted)
    }

    /// How it ended, if it did: acked, refused or dropped. An ack counts most: what the device has, it has.
    #[must_use]
    pub fn end(&self) -> Option<Happening> {
        let ends = |h: &Happening| matches!(h, Happening::Refused | Happening::Dropped(_));
        let mut all = self.steps.iter().map(|(h, _)| *h);
        if all.clone().any(|h| h == Happening::Acked) {
            return Some(Happening::Acked);
        }
        all.rfind(ends)
    }
}

/// Bits of a step's number that say what happened; the others are milliseconds since the first.
const KIND_BITS: u32 = 5;

#[derive(Clone, PartialEq, prost::Message)]
struct LeafRecord {
    #[prost(message, repeated, tag = "1")]
    epochs: Vec<EpochRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EpochRecord {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    /// For each message of a device: ordinal, sequence after the one before, number of steps, milliseconds from its first
    /// event to the writing (zigzag), and each step as milliseconds after the first × 32 + happening.
    #[prost(uint64, repeated, tag = "2")]
    numbers: Vec<u64>,
}

/// What is not a leaf of history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unreadable leaf of history")]
pub struct HistoryError;

/// Makes a leaf of events, written at a moment. They are in order of message and device, those of one of them together.
#[must_use]
pub fn encode_events(events: &[Event], written: UnixMillis) -> Vec<u8> {
    let mut leaf = LeafRecord::default();
    let mut before = MessageId::ZERO;
    for one in events.chunk_by(|a, b| (a.id, a.device) == (b.id, b.device)) {
        let Some(&Event { device, id, .. }) = one.first() else {
            continue;
        };
        if leaf.epochs.last().is_none_or(|e| e.epoch != id.epoch) {
            before = MessageId::ZERO;
            leaf.epochs.push(EpochRecord {
                epoch: id.epoch,
                numbers: Vec::new(),
            });
        }
        let Some(EpochRecord { numbers, .. }) = leaf.epochs.last_mut() else {
            continue;
        };
        let first = one.iter().map(|e| e.at).min().unwrap_or_default();
        let age = written.0.wrapping_sub(first.0).cast_signed();
        numbers.push(device.0.into());
        numbers.push(id.sequence.wrapping_sub(before.sequence));
        numbers.push(one.len() as u64);
        numbers.push(((age << 1) ^ (age >> 63)).cast_unsigned());
        for event in one {
            let after = (event.at.0 - first.0).min(u64::MAX >> KIND_BITS);
            numbers.push(after << KIND_BITS | event.happening.number());
        }
        before = id;
    }
    leaf.encode_to_vec()
}

/// Reads a leaf that was written at a moment: its events in the order in which they were put in.
///
/// # Errors
/// [`HistoryError`] for anything that [`encode_events`] did not make.
pub fn decode_events(leaf: &[u8], written: UnixMillis) -> Result<Vec<Event>, HistoryError> {
    let leaf = LeafRecord::decode(leaf).map_err(|_| HistoryError)?;
    let mut events = Vec::new();
    for EpochRecord { epoch, numbers } in leaf.epochs {
        let mut numbers = numbers.into_iter();
        let mut sequence = 0_u64;
        while let Some(ordinal) = numbers.next() {
            let mut next = || numbers.next().ok_or(HistoryError);
            let device = Ordinal(u32::try_from(ordinal).map_err(|_| HistoryError)?);
            sequence = sequence.wrapping_add(next()?);
            let (steps, age) = (next()?, next()?);
            let age = (age >> 1).cast_signed() ^ -(age & 1).cast_signed();
            let first = written.0.wrapping_sub(age.cast_unsigned());
            for _ in 0..steps {
                let step = next()?;
                let kind = usize::try_from(step & ((1 << KIND_BITS) - 1)).unwrap_or(usize::MAX);
                events.push(Event {
                    device,
                    id: MessageId { epoch, sequence },
                    happening: *Happening::ALL.get(kind).ok_or(HistoryError)?,
                    at: UnixMillis(first.wrapping_add(step >> KIND_BITS)),
                });
            }
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(sequence: u64) -> MessageId {
        MessageId { epoch: 7, sequence }
    }

    #[test]
    fn names_are_unique_and_places_are_numbers() {
        let mut names = Happening::ALL.map(Happening::as_str).to_vec();
        for (place, happening) in Happening::ALL.iter().enumerate() {
            assert_eq!(happening.number(), place as u64);
        }
        for reason in DropReason::ALL {
            assert!(Happening::ALL.contains(&Happening::Dropped(reason)));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Happening::ALL.len());
        assert!(Happening::ALL.len() <= 1 << KIND_BITS);
    }

    #[test]
    fn an_online_message_takes_little() {
        let written = UnixMillis(1_800_000_000_400);
        let mut events = Vec::new();
        for n in 0..30 {
            let device = Ordinal(900_000 + 256 * n);
            let steps = [Happening::Accepted, Happening::Sent, Happening::Acked];
            for (happening, after) in steps.into_iter().zip(0_u64..) {
                let at = UnixMillis(1_800_000_000_000 + u64::from(n) + after);
                let id = id(1_000_000 + u64::from(n) * 100);
                events.push(Event {
                    device,
                    id,
                    happening,
                    at,
                });
            }
        }
        let leaf = encode_events(&events, written);
        assert!(leaf.len() <= 30 * 12 + 10, "{} bytes", leaf.len());
        assert_eq!(decode_events(&leaf, written), Ok(events));
    }

    #[test]
    fn a_timeline_is_in_order_and_keeps_its_ends() {
        let mut timeline = Timeline::new(id(1));
        timeline.add(Happening::Sent, UnixMillis(12));
        timeline.add(Happening::Accepted, UnixMillis(10));
        timeline.add(Happening::Queued, UnixMillis(12));
        timeline.add(Happening::Queued, UnixMillis(12));
        let names: Vec<_> = timeline.steps().iter().map(|(h, _)| h.as_str()).collect();
        assert_eq!(names, ["accepted", "sent", "queued"]);
        assert_eq!((timeline.has_beginning(), timeline.end()), (true, None));
        for at in 13..100 {
            timeline.add(Happening::Sent, UnixMillis(at));
        }
        assert_eq!(timeline.steps().len(), Timeline::STEPS_MAX);
        assert_eq!(timeline.steps()[0].0, Happening::Accepted);
        assert_eq!(timeline.steps().last().unwrap().1, UnixMillis(99));
        timeline.add(Happening::Acked, UnixMillis(100));
        let expired = Happening::Dropped(DropReason::Expired);
        timeline.add(expired, UnixMillis(101));
        assert_eq!(timeline.end(), Some(Happening::Acked));
        let mut dropped = Timeline::new(id(2));
        dropped.add(expired, UnixMillis(101));
        assert_eq!(
            (dropped.has_beginning(), dropped.end()),
            (false, Some(expired))
        );
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let happening = (0..Happening::ALL.len()).prop_map(|n| Happening::ALL[n]);
        (0_u32..4, 5_u32..7, any::<u64>(), happening, 0_u64..1 << 50).prop_map(
            |(device, epoch, sequence, happening, at)| Event {
                device: Ordinal(device),
                id: MessageId { epoch, sequence },
                happening,
                at: UnixMillis(at),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(
            mut events in proptest::collection::vec(any_event(), 0..40),
            written in any::<u64>(),
        ) {
            events.sort_by_key(|e| (e.id, e.device));
            let leaf = encode_events(&events, UnixMillis(written));
            prop_assert_eq!(decode_events(&leaf, UnixMillis(written)), Ok(events));
        }

        #[test]
        fn rubbish_is_an_error_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            numbers in proptest::collection::vec(any::<u64>(), 0..20),
        ) {
            let _ = decode_events(&bytes, UnixMillis(9));
            let epochs = vec![EpochRecord { epoch: 1, numbers }];
            let _ = decode_events(&LeafRecord { epochs }.encode_to_vec(), UnixMillis(9));
        }
    }
}
