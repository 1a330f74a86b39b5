//! Gaps in topics that devices were told of and have not acked.
//!
//! A gap stands for all broadcasts of a topic that a device is owed and the log has let go of, and is named by the newest
//! of them. What was told once keeps its name and its extent until it is acked: what is trimmed later makes a gap of its
//! own. So the counts add up over lost acks, because a device drops a gap that it has by its id. A restart forgets what
//! was told; then a gap whose ack was lost with it may be told again within a larger one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};

use super::broadcasts::Broadcast;

type Log = (ProjectId, TopicName);

/// By device, the newest broadcast of each gap. Bounded by the devices that were told and never came back to ack.
#[derive(Default)]
pub(super) struct Gaps {
    told: Mutex<HashMap<Ordinal, BTreeMap<MessageId, Log>>>,
}

/// One gap to tell.
pub(super) struct TopicGap {
    pub(super) newest: MessageId,
    pub(super) topic: TopicName,
    pub(super) count: u64,
}

impl Gaps {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ordinal, BTreeMap<MessageId, Log>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes gaps of the trimmed broadcasts that a device is owed, given in order.
    pub(super) fn tell(&self, device: Ordinal, trimmed: &[Arc<Broadcast>]) -> Vec<TopicGap> {
        let mut told = self.lock();
        if trimmed.is_empty() {
            told.remove(&device);
            return Vec::new();
        }
        let known = told.remove(&device).unwrap_or_default();
        let mut counts: BTreeMap<(Log, Option<MessageId>), (MessageId, u64)> = BTreeMap::new();
        for broadcast in trimmed {
            let (Some(topic), id) = (broadcast.topic(), broadcast.message.id) else {
                continue;
            };
            let log = (broadcast.message.project, topic.clone());
            let gap = known
                .range(id..)
                .find(|(_, of)| **of == log)
                .map(|(gap, _)| *gap);
            let (newest, count) = counts.entry((log, gap)).or_insert((id, 0));
            *newest = gap.unwrap_or(id);
            *count += 1;
        }
        let gaps = counts
            .into_iter()
            .map(|((log, _), (newest, count))| (newest, log, count));
        let gaps: Vec<_> = gaps.collect();
        let told_now = gaps.iter().map(|(newest, log, _)| (*newest, log.clone()));
        told.insert(device, told_now.collect());
        gaps.into_iter()
            .map(|(newest, (_, topic), count)| TopicGap {
                newest,
                topic,
                count,
            })
            .collect()
    }

    /// A device acks the gap of this name: its log, and after which message it begins. `None` if it was not told.
    pub(super) fn ack(&self, device: Ordinal, newest: MessageId) -> Option<(Log, MessageId)> {
        let mut told = self.lock();
        let gaps = told.get_mut(&device)?;
        let log = gaps.remove(&newest)?;
        let before = gaps.range(..newest).rev().find(|(_, of)| **of == log);
        let after = before.map_or(MessageId::ZERO, |(id, _)| *id);
        if gaps.is_empty() {
            told.remove(&device);
        }
        Some((log, after))
    }

    /// Whether a device was told of anything since the start.
    pub(super) fn knows(&self, device: Ordinal) -> bool {
        self.lock().contains_key(&device)
    }

    /// Forgets a device whose registration has ended.
    pub(super) fn forget(&self, device: Ordinal) {
        self.lock().remove(&device);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}
