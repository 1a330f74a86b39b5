//! A store that lets others act between any two of its operations, fails now and then, and may be the last thing that a
//! process did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use petrel_core::queue::Limits;
use petrel_core::{Day, DropReason, Event, Message, Timeline, UnixMillis};
use petrel_protocol::session::Attributes;
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::world::{Fate, World, lock};
use crate::store::{
    Backup, BroadcastHistory, DiskUse, Embedded, Enqueued, Expired, HistoryLimits, HistoryStore,
    Loaded, MemoryMap, NewRegistration, Registration, Scan, ScanTerms, SecretHash, Stepped, Store,
    StoreError, StoreStats, Subscribed, TopicGap, Unregistered,
};

/// The real store over a world that goes on while the store works.
pub(super) struct Hooked {
    pub(super) inner: Embedded<MemoryMap>,
    pub(super) world: Arc<Mutex<World>>,
    /// Evictions and trims that the next commit makes true.
    pub(super) evicted: BTreeMap<Ordinal, u64>,
    pub(super) trimmed: Vec<MessageId>,
}

type Made<T> = Result<T, StoreError>;

impl Hooked {
    fn between(&self) {
        lock(&self.world).go_on();
    }
}

impl HistoryStore for Hooked {
    fn record_history(
        &mut self,
        events: &mut Vec<Event>,
        now: UnixMillis,
        keys_max: usize,
    ) -> Made<()> {
        self.inner.record_history(events, now, keys_max)
    }

    fn record_broadcast(&mut self, history: &BroadcastHistory) -> Made<()> {
        self.inner.record_broadcast(history)
    }

    fn history_of_broadcast(&self, id: MessageId) -> Made<Option<BroadcastHistory>> {
        self.inner.history_of_broadcast(id)
    }

    fn trim_history(
        &mut self,
        now: UnixMillis,
        limits: HistoryLimits,
        keys_max: usize,
    ) -> Made<bool> {
        self.inner.trim_history(now, limits, keys_max)
    }

    fn history_of(&self, device: Ordinal, id: MessageId) -> Made<Option<Timeline>> {
        self.inner.history_of(device, id)
    }

    fn history_of_device(
        &self,
        device: Ordinal,
        before: MessageId,
        limit: usize,
    ) -> Made<Vec<Timeline>> {
        self.inner.history_of_device(device, before, limit)
    }
}

impl Store for Hooked {
    fn load(&mut self) -> Made<Loaded> {
        self.inner.load()
    }

    fn project(&mut self, name: &str) -> Made<ProjectId> {
        self.inner.project(name)
    }

    fn register(&mut self, new: &NewRegistration) -> Made<Registration> {
        self.between();
        self.inner.register(new)
    }

    fn rotate(&mut self, device: Ordinal, secret_hash: SecretHash) -> Made<()> {
        self.inner.rotate(device, secret_hash)
    }

    fn set_attributes(&mut self, device: Ordinal, new: &Attributes) -> Made<()> {
        self.inner.set_attributes(device, new)
    }

    fn save_seen(&mut self, device: Ordinal, day: Day) -> Made<()> {
        self.inner.save_seen(device, day)
    }

    fn unregister(&mut self, device: Ordinal) -> Made<Unregistered> {
        self.between();
        self.inner.unregister(device)
    }

    fn subscribe(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        topic: &TopicName,
        topics_max: usize,
    ) -> Made<Subscribed> {
        self.between();
        self.inner.subscribe(device, project, topic, topics_max)
    }

    fn unsubscribe(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        topic: &TopicName,
    ) -> Made<Option<crate::store::TopicId>> {
        self.between();
        self.inner.unsubscribe(device, project, topic)
    }

    fn enqueue(
        &mut self,
        device: Ordinal,
        message: &Message,
        platform: Platform,
        limits: Limits,
        now: UnixMillis,
    ) -> Made<Enqueued> {
        self.between();
        let enqueued = self.inner.enqueue(device, message, platform, limits, now)?;
        if let Enqueued::Queued { dropped } = &enqueued {
            let evicted = dropped.iter().filter(|(_, r)| *r == DropReason::Evicted);
            *self.evicted.entry(device).or_default() += evicted.count() as u64;
        }
        self.between();
        Ok(enqueued)
    }

    fn collapse(
        &mut self,
        device: Ordinal,
        key: &CollapseKey,
        before: MessageId,
    ) -> Made<Vec<MessageId>> {
        self.between();
        self.inner.collapse(device, key, before)
    }

    fn settle(&mut self, device: Ordinal, id: MessageId) -> Made<bool> {
        self.between();
        self.inner.settle(device, id)
    }

    fn has_queue(&self, device: Ordinal) -> bool {
        self.inner.has_queue(device)
    }

    fn queued_bytes(&self) -> Vec<(ProjectId, u64)> {
        self.inner.queued_bytes()
    }

    fn disk_use(&self) -> DiskUse {
        self.inner.disk_use()
    }

    fn expire(&mut self, now: UnixMillis, messages_max: usize) -> Made<Vec<Expired>> {
        self.between();
        self.inner.expire(now, messages_max)
    }

    fn scan(&mut self, device: Ordinal, terms: ScanTerms) -> Made<Scan> {
        self.between();
        let scan = self.inner.scan(device, terms);
        self.between();
        scan
    }

    fn put_topic_gap(&mut self, device: Ordinal, gap: &TopicGap) -> Made<()> {
        self.between();
        self.inner.put_topic_gap(device, gap)
    }

    fn forget_told(&mut self) -> Made<()> {
        self.inner.forget_told()
    }

    fn append(&mut self, message: &Message, targeted: &RoaringBitmap) -> Made<u64> {
        self.between();
        self.inner.append(message, targeted)
    }

    fn save_settled(&mut self, id: MessageId, settled: &RoaringBitmap) -> Made<()> {
        // Nobody acts here: the committer lends the set, and with it the lock of the broadcast.
        self.inner.save_settled(id, settled)
    }

    fn trim(&mut self, id: MessageId) -> Made<()> {
        self.trimmed.push(id);
        self.inner.trim(id)
    }

    fn remove_broadcast(&mut self, id: MessageId) -> Made<()> {
        self.inner.remove_broadcast(id)
    }

    fn reserve(&mut self, end: u64) -> Made<()> {
        self.inner.reserve(end)
    }

    fn save_time(&mut self, now: UnixMillis) -> Made<()> {
        self.inner.save_time(now)
    }

    fn save_patience(&mut self, until: UnixMillis) -> Made<()> {
        self.inner.save_patience(until)
    }

    fn commit(&mut self) -> Made<()> {
        lock(&self.world).begin_commit();
        let fate = lock(&self.world).fate_of_commit();
        if matches!(fate, Fate::Commit | Fate::CommitAndCrash) {
            self.inner.commit()?;
            let mut world = lock(&self.world);
            for (device, evicted) in std::mem::take(&mut self.evicted) {
                *world.evicted.entry(device).or_default() += evicted;
            }
            world.trimmed.extend(self.trimmed.drain(..));
        }
        self.between();
        match fate {
            Fate::Commit => Ok(()),
            _ => Err(StoreError::Engine {
                path: "simulated".into(),
                source: "no space left".into(),
            }),
        }
    }

    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }

    fn begin_backup(&mut self, backup: Backup) {
        self.inner.begin_backup(backup);
    }

    fn step_backup(&mut self, keys_max: usize) -> Made<Stepped> {
        self.inner.step_backup(keys_max)
    }

    fn take_backup(&mut self) -> Option<Backup> {
        self.inner.take_backup()
    }
}
