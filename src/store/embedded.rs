//! [`Store`] over an ordered map of bytes.

mod history;
mod load;
mod queue;
pub(super) mod sets;
mod summaries;
pub(super) mod waiting;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use petrel_core::queue::Limits;
use petrel_core::{Day, DropReason, Message, UnixMillis, decode_message, encode_message};
use petrel_protocol::session::Attributes;
use petrel_protocol::{CollapseKey, MessageId, Ordinal, Platform, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::ordered::{Durability, OrderedMap};
use super::records::{self, BroadcastRecord, RegistrationRecord};
use super::staged::Staged;
use super::{
    Backup, DiskUse, Enqueued, Expired, GAP_BIT, GapRecord, Loaded, NewRegistration, Registration,
    Scan, ScanTerms, SecretHash, Stepped, Store, StoreError, StoreStats, Subscribed, TopicGap,
    TopicId, Unregistered, layout,
};

use self::history::History;
use self::summaries::Summaries;
use self::waiting::Queues;

/// A store on one machine: sled, or memory.
pub struct Embedded<M> {
    map: Staged<M>,
    next_ordinal: u32,
    next_topic: u32,
    next_project: u32,
    queues: Queues,
    summaries: Summaries,
    /// Keys of what topic gaps stand for.
    told: Vec<Vec<u8>>,
    history: History,
    bodies_written: u64,
    body_bytes_written: u64,
    /// The gap of each device that may still grow: not yet read by any session since this process started.
    open_gaps: HashMap<Ordinal, MessageId>,
    new_epoch: u32,
    durability: Durability,
    /// Pairs that the load has read.
    read: Arc<AtomicU64>,
}

impl<M: OrderedMap> Embedded<M> {
    /// Takes an open map. A store without an epoch gets `new_epoch`: choose one that no earlier store of this broker
    /// had, such as the time in seconds.
    pub fn new(map: M, new_epoch: u32) -> Self {
        Self {
            map: Staged::new(map),
            next_ordinal: 0,
            next_topic: 0,
            next_project: 0,
            queues: Queues::default(),
            summaries: Summaries::default(),
            told: Vec::new(),
            history: History::default(),
            bodies_written: 0,
            body_bytes_written: 0,
            open_gaps: HashMap::new(),
            new_epoch: new_epoch.max(1),
            durability: Durability::Durable,
            read: Arc::default(),
        }
    }

    /// The same, counting the pairs that [`Store::load`] has read, for whoever waits.
    #[must_use]
    pub fn counting(self, read: Arc<AtomicU64>) -> Self {
        Self { read, ..self }
    }

    /// The same with commits that survive what the level says; [`Durability::Durable`] otherwise.
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    fn number(&self, key: &[u8], what: &'static str) -> Result<Option<u64>, StoreError> {
        let Some(value) = self.map.get(key)? else {
            return Ok(None);
        };
        let number = layout::open(&value)
            .and_then(|payload| payload.try_into().ok())
            .map(u64::from_be_bytes);
        number.map(Some).ok_or_else(|| StoreError::Unreadable {
            what,
            problem: "wrong checksum or length".into(),
        })
    }

    fn put_number(&mut self, key: Vec<u8>, number: u64) {
        self.map.put(key, layout::seal(&number.to_be_bytes()));
    }

    /// Stages a counter, so that no number below is used again.
    fn put_counter(&mut self, name: &str, next: u32) {
        self.put_number(layout::meta(name), u64::from(next));
    }

    fn registration_record(
        &self,
        device: Ordinal,
    ) -> Result<Option<RegistrationRecord>, StoreError> {
        let value = self.map.get(&layout::registration(device))?;
        match value.as_deref().map(RegistrationRecord::read) {
            None => Ok(None),
            Some(Some(record)) => Ok(Some(record)),
            Some(None) => Err(StoreError::Unreadable {
                what: "registration",
                problem: "wrong checksum or shape".into(),
            }),
        }
    }

    fn count_body(&mut self, bytes: u64) {
        self.bodies_written += 1;
        self.body_bytes_written += bytes;
    }

    /// For tests: registrations of these ordinals, all alike.
    #[cfg(test)]
    pub(super) fn put_registrations(&mut self, devices: &RoaringBitmap, new: &NewRegistration) {
        for device in devices.iter().map(Ordinal) {
            let record = RegistrationRecord::new(new);
            self.map.put(layout::registration(device), record.write());
        }
    }

    fn keys_of(&self, kind: u8, device: Ordinal) -> Result<Vec<Vec<u8>>, StoreError> {
        let (from, to) = layout::device_range(kind, device);
        let mut keys = Vec::new();
        self.map.visit(&from, &to, |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(keys)
    }
}

impl<M: OrderedMap> Store for Embedded<M> {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.load_all()
    }

    fn project(&mut self, name: &str) -> Result<ProjectId, StoreError> {
        let key = layout::project(name);
        if let Some(number) = self.number(&key, "project")? {
            return Ok(ProjectId(u32::try_from(number).unwrap_or(u32::MAX)));
        }
        let id = ProjectId(self.next_project);
        self.next_project += 1;
        self.put_number(key, u64::from(id.0));
        Ok(id)
    }

    fn register(&mut self, new: &NewRegistration) -> Result<Registration, StoreError> {
        let secret_key = layout::secret(new.project, &new.secret_hash);
        if let Some(number) = self.number(&secret_key, "secret")? {
            let ordinal = Ordinal(u32::try_from(number).unwrap_or(u32::MAX));
            let found = self
                .registration_record(ordinal)?
                .and_then(|record| record.registration(ordinal));
            if let Some(registration) = found {
                return Ok(registration);
            }
        }
        let ordinal = Ordinal(self.next_ordinal);
        self.next_ordinal += 1;
        self.put_counter("next_ordinal", self.next_ordinal);
        self.put_number(secret_key, u64::from(ordinal.0));
        let record = RegistrationRecord::new(new);
        self.map.put(layout::registration(ordinal), record.write());
        Ok(Registration {
            ordinal,
            project: new.project,
            secret_hash: new.secret_hash,
            platform: new.platform,
            seen: Day::of(new.at),
        })
    }

    fn rotate(&mut self, device: Ordinal, secret_hash: SecretHash) -> Result<(), StoreError> {
        let Some(mut record) = self.registration_record(device)? else {
            return Ok(());
        };
        let project = ProjectId(record.project);
        if let Ok(old) = SecretHash::try_from(record.secret_hash.as_slice()) {
            self.map.remove(layout::secret(project, &old));
        }
        record.secret_hash = secret_hash.to_vec();
        self.put_number(layout::secret(project, &secret_hash), u64::from(device.0));
        self.map.put(layout::registration(device), record.write());
        Ok(())
    }

    fn set_attributes(&mut self, device: Ordinal, new: &Attributes) -> Result<(), StoreError> {
        if let Some(mut record) = self.registration_record(device)? {
            record.set_attributes(new);
            self.map.put(layout::registration(device), record.write());
        }
        Ok(())
    }

    fn save_seen(&mut self, device: Ordinal, day: Day) -> Result<(), StoreError> {
        if let Some(mut record) = self.registration_record(device)? {
            record.seen = day.0.into();
            self.map.put(layout::registration(device), record.write());
        }
        Ok(())
    }

    fn unregister(&mut self, device: Ordinal) -> Result<Unregistered, StoreError> {
        if let Some(record) = self.registration_record(device)?
            && let Ok(hash) = SecretHash::try_from(record.secret_hash.as_slice())
        {
            self.map
                .remove(layout::secret(ProjectId(record.project), &hash));
        }
        self.map.remove(layout::registration(device));
        let subscriptions = self.keys_of(layout::SUBSCRIPTION, device)?;
        let topics = subscriptions
            .iter()
            .filter_map(|key| layout::number_at(key, 5).map(TopicId))
            .collect();
        let queued = self.clear_queue(device)?;
        self.erase_history(device)?;
        for key in subscriptions {
            self.map.remove(key);
        }
        Ok(Unregistered { topics, queued })
    }

    fn subscribe(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        topic: &TopicName,
        topics_max: usize,
    ) -> Result<Subscribed, StoreError> {
        let key = layout::topic(project, topic);
        let known = self.number(&key, "topic")?;
        let id = TopicId(known.map_or(self.next_topic, |n| u32::try_from(n).unwrap_or(u32::MAX)));
        let subscription = layout::subscription(device, id);
        if self.map.get(&subscription)?.is_some() {
            return Ok(Subscribed::Done(id));
        }
        if self.keys_of(layout::SUBSCRIPTION, device)?.len() >= topics_max {
            return Ok(Subscribed::TooMany);
        }
        if known.is_none() {
            self.next_topic += 1;
            self.put_counter("next_topic", self.next_topic);
            self.put_number(key, u64::from(id.0));
        }
        self.put_number(subscription, 0);
        Ok(Subscribed::Done(id))
    }

    fn unsubscribe(
        &mut self,
        device: Ordinal,
        project: ProjectId,
        topic: &TopicName,
    ) -> Result<Option<TopicId>, StoreError> {
        let Some(number) = self.number(&layout::topic(project, topic), "topic")? else {
            return Ok(None);
        };
        let id = TopicId(u32::try_from(number).unwrap_or(u32::MAX));
        let key = layout::subscription(device, id);
        if self.map.get(&key)?.is_none() {
            return Ok(None);
        }
        self.map.remove(key);
        Ok(Some(id))
    }

    fn enqueue(
        &mut self,
        device: Ordinal,
        message: &Message,
        platform: Platform,
        limits: Limits,
        now: UnixMillis,
    ) -> Result<Enqueued, StoreError> {
        self.enqueue_message(device, message, platform, limits, now)
    }

    fn collapse(
        &mut self,
        device: Ordinal,
        key: &CollapseKey,
        before: MessageId,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.collapse_older(device, key, before)
    }

    fn settle(&mut self, device: Ordinal, id: MessageId) -> Result<bool, StoreError> {
        self.settle_queued(device, id)
    }

    fn has_queue(&self, device: Ordinal) -> bool {
        self.queues.has(device)
    }

    fn expire(&mut self, now: UnixMillis, messages_max: usize) -> Result<Vec<Expired>, StoreError> {
        self.expire_queues(now, messages_max)
    }

    fn scan(&mut self, device: Ordinal, terms: ScanTerms) -> Result<Scan, StoreError> {
        self.scan_queue(device, terms)
    }

    fn put_topic_gap(&mut self, device: Ordinal, gap: &TopicGap) -> Result<(), StoreError> {
        let id = MessageId {
            sequence: gap.newest.sequence | GAP_BIT,
            ..gap.newest
        };
        let reason = DropReason::Trimmed.as_str();
        let record = GapRecord {
            topic: gap.topic.as_str().into(),
            counts: [(reason.into(), gap.count)].into(),
        };
        // No other gap has its name: what it stands for is owed no more.
        self.queues.change_gaps(device, gap.project, 1);
        self.map
            .put(layout::queue(device, id), records::queued_gap(&record));
        let told = layout::told(device, gap.project, &gap.topic);
        self.map.put(told.clone(), records::write_id(gap.newest));
        self.told.push(told);
        Ok(())
    }

    fn forget_told(&mut self) -> Result<(), StoreError> {
        for key in self.told.drain(..) {
            self.map.remove(key);
        }
        Ok(())
    }

    fn append(&mut self, message: &Message, targeted: &RoaringBitmap) -> Result<u64, StoreError> {
        let record = encode_message(message);
        let bytes = record.len() as u64;
        self.count_body(bytes);
        let value = BroadcastRecord::new(record).write();
        sets::put(&mut self.map, layout::TARGETED, message.id, targeted)?;
        self.map.put(layout::broadcast(message.id), value);
        Ok(bytes)
    }

    fn save_settled(&mut self, id: MessageId, settled: &RoaringBitmap) -> Result<(), StoreError> {
        sets::put(&mut self.map, layout::SETTLED, id, settled)
    }

    fn trim(&mut self, id: MessageId) -> Result<(), StoreError> {
        let key = layout::broadcast(id);
        let value = self.map.get(&key)?;
        if let Some(mut record) = value.as_deref().and_then(BroadcastRecord::read) {
            if let Ok(message) = decode_message(&record.message) {
                record.message = encode_message(&message.without_content());
            }
            record.is_trimmed = true;
            self.map.put(key, record.write());
        }
        Ok(())
    }

    fn remove_broadcast(&mut self, id: MessageId) -> Result<(), StoreError> {
        self.map.remove(layout::broadcast(id));
        sets::remove(&mut self.map, layout::TARGETED, id)?;
        sets::remove(&mut self.map, layout::SETTLED, id)
    }

    fn reserve(&mut self, end: u64) -> Result<(), StoreError> {
        self.put_number(layout::meta("reserved_end"), end);
        Ok(())
    }

    fn save_time(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        self.put_number(layout::meta("last_time"), now.0);
        Ok(())
    }

    fn save_patience(&mut self, until: UnixMillis) -> Result<(), StoreError> {
        self.put_number(layout::meta("patient_until"), until.0);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.summaries.stage(&mut self.map, &mut self.queues);
        if let Some(bytes) = self.history.take_changed() {
            self.put_number(layout::meta("history_bytes"), bytes);
        }
        self.map.commit(self.durability)
    }

    fn queued_bytes(&self) -> Vec<(ProjectId, u64)> {
        self.queues.projects().collect()
    }

    fn disk_use(&self) -> DiskUse {
        DiskUse {
            occupied: self.map.disk_bytes(),
            free: self.map.disk_free(),
        }
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            queued_messages: self.queues.messages(),
            queued_bytes: self.queues.projects().map(|(_, bytes)| bytes).sum(),
            bytes_written: self.map.bytes_written(),
            bodies_written: self.bodies_written,
            body_bytes_written: self.body_bytes_written,
            memory_bytes: self.queues.memory_bytes(),
            history_bytes: self.history.bytes,
            history_bytes_written: self.history.bytes_written,
        }
    }

    fn begin_backup(&mut self, backup: Backup) {
        self.map.backup = Some(backup);
    }

    fn step_backup(&mut self, keys_max: usize) -> Result<Stepped, StoreError> {
        self.map.step_backup(keys_max)
    }

    fn take_backup(&mut self) -> Option<Backup> {
        self.map.backup.take()
    }
}
