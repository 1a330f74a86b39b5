//! Reading everything that serving keeps in memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use petrel_core::{DropReason, UnixMillis, decode_message};
use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::super::ordered::OrderedMap;
use super::super::records::{self, BroadcastRecord, RegistrationRecord};
use super::super::{
    HistoryStore as _, Loaded, Store as _, StoreError, StoredBroadcast, TopicId, layout,
};
use super::Embedded;
use super::sets::{self, Pieces};
use super::waiting::Waiting;

impl<M: OrderedMap> Embedded<M> {
    pub(super) fn load_all(&mut self) -> Result<Loaded, StoreError> {
        let schema = self.number(&layout::meta("schema"), "schema version")?;
        let schema = schema.map_or(0, |s| u32::try_from(s).unwrap_or(u32::MAX));
        layout::migrate(&mut self.map, schema)?;
        if schema == 0 {
            self.put_number(layout::meta("epoch"), u64::from(self.new_epoch));
        }
        let meta = |name, what| -> Result<u64, StoreError> {
            Ok(self.number(&layout::meta(name), what)?.unwrap_or(0))
        };
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut loaded = Loaded {
            epoch: small(meta("epoch", "epoch")?),
            reserved_end: meta("reserved_end", "end of the sequence")?,
            last_time: UnixMillis(meta("last_time", "time")?),
            patient_until: UnixMillis(meta("patient_until", "end of patience")?),
            ..Loaded::default()
        };
        let must_summarize = meta(layout::SUMMARIZE, "mark of an import")? > 0;
        let next_ordinal = small(meta("next_ordinal", "next ordinal")?);
        let next_topic = small(meta("next_topic", "next topic")?);
        self.next_ordinal = next_ordinal;
        self.next_topic = next_topic;
        self.load_projects(&mut loaded)?;
        self.load_registrations(&mut loaded)?;
        self.load_topics(&mut loaded)?;
        if schema == 1 {
            self.summarize_all()?;
        } else {
            self.load_summaries(&mut loaded)?;
        }
        if must_summarize {
            self.summarize_all()?;
            self.map.remove(layout::meta(layout::SUMMARIZE));
        }
        self.load_broadcasts(&mut loaded)?;
        self.load_told(&mut loaded)?;
        self.load_history()?;
        for broadcast in &mut loaded.broadcasts {
            broadcast.history = self.history_of_broadcast(broadcast.message.id)?;
        }
        loaded.queued = self.queues.devices();
        loaded.queued_messages = self.queues.messages();
        if schema != layout::SCHEMA {
            self.commit()?;
        }
        self.next_project = loaded
            .projects
            .iter()
            .map(|(id, _)| id.0 + 1)
            .max()
            .unwrap_or(0);
        Ok(loaded)
    }

    /// Visits all pairs of a kind; the visitor says whether it could read the pair.
    fn each(
        &self,
        kind: u8,
        unreadable: &mut u64,
        mut visitor: impl FnMut(&[u8], &[u8]) -> Option<()>,
    ) -> Result<(), StoreError> {
        let (from, to) = layout::kind_range(kind);
        self.map.visit(&from, &to, |key, value| {
            self.read.fetch_add(1, Ordering::Relaxed);
            if visitor(key, value).is_none() {
                tracing::warn!(kind = %char::from(kind), "a stored value is unreadable and is left out");
                *unreadable += 1;
            }
            ControlFlow::Continue(())
        })
    }

    fn load_projects(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Loaded {
            projects,
            unreadable,
            ..
        } = loaded;
        self.each(layout::PROJECT, unreadable, |key, value| {
            let name = layout::name_at(key, 1)?;
            projects.push((ProjectId(sealed_number(value)?), name.to_owned()));
            Some(())
        })
    }

    fn load_registrations(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Loaded {
            registrations,
            unreadable,
            ..
        } = loaded;
        self.each(layout::REGISTRATION, unreadable, |key, value| {
            let ordinal = Ordinal(layout::number_at(key, 1)?);
            registrations.push(RegistrationRecord::read(value)?.registration(ordinal)?);
            Some(())
        })
    }

    fn load_topics(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Loaded {
            topics,
            subscriptions,
            unreadable,
            ..
        } = loaded;
        self.each(layout::TOPIC, unreadable, |key, value| {
            let project = ProjectId(layout::number_at(key, 1)?);
            let name = TopicName::parse(layout::name_at(key, 5)?).ok()?;
            topics.push((TopicId(sealed_number(value)?), project, name));
            Some(())
        })?;
        self.each(layout::SUBSCRIPTION, unreadable, |key, _| {
            let device = Ordinal(layout::number_at(key, 1)?);
            subscriptions.push((device, TopicId(layout::number_at(key, 5)?)));
            Some(())
        })
    }

    fn load_broadcasts(&mut self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let mut targeted = self.load_sets(layout::TARGETED, &mut loaded.unreadable)?;
        let mut settled = self.load_sets(layout::SETTLED, &mut loaded.unreadable)?;
        let Loaded {
            broadcasts,
            unreadable,
            registrations,
            ..
        } = loaded;
        let alive: RoaringBitmap = registrations.iter().map(|r| r.ordinal.0).collect();
        let mut forgotten = Vec::new();
        self.each(layout::BROADCAST, unreadable, |key, value| {
            let record = BroadcastRecord::read(value)?;
            let id = layout::id_of(key)?;
            let message = decode_message(&record.message).ok()?;
            let (mut targeted, mut settled) = (
                targeted.remove(&id)?,
                settled.remove(&id).unwrap_or_default(),
            );
            if !targeted.is_subset(&alive) {
                targeted &= &alive;
                settled &= &alive;
                forgotten.push(broadcasts.len());
            }
            broadcasts.push(StoredBroadcast {
                message,
                bytes: record.message.len() as u64,
                targeted,
                settled,
                is_trimmed: record.is_trimmed,
                history: None,
            });
            Some(())
        })?;
        // Whose registration has ended is in no set from now on.
        for broadcast in forgotten.into_iter().filter_map(|at| broadcasts.get(at)) {
            let (map, id) = (&mut self.map, broadcast.message.id);
            sets::put(map, layout::TARGETED, id, &broadcast.targeted)?;
            sets::put(map, layout::SETTLED, id, &broadcast.settled)?;
        }
        // Sets are left over where a message cannot be read: its devices are told.
        for (id, targeted) in targeted {
            let owed = targeted - settled.remove(&id).unwrap_or_default();
            self.lose_broadcast(id, &owed)?;
        }
        Ok(())
    }

    fn load_told(&mut self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Loaded {
            told, unreadable, ..
        } = loaded;
        let mut keys = Vec::new();
        self.each(layout::TOLD, unreadable, |key, value| {
            keys.push(key.to_vec());
            let device = Ordinal(layout::number_at(key, 1)?);
            let project = ProjectId(layout::number_at(key, 5)?);
            let topic = TopicName::parse(layout::name_at(key, 9)?).ok()?;
            told.push((device, project, topic, records::read_id(value)?));
            Some(())
        })?;
        self.told = keys;
        Ok(())
    }

    fn load_sets(
        &self,
        kind: u8,
        unreadable: &mut u64,
    ) -> Result<BTreeMap<MessageId, RoaringBitmap>, StoreError> {
        let mut pieces = Pieces::default();
        self.each(kind, unreadable, |key, value| pieces.take(key, value))?;
        Ok(pieces.finish())
    }

    /// Puts a gap into the queue of everybody who is owed a broadcast that cannot be read.
    fn lose_broadcast(&mut self, id: MessageId, owed: &RoaringBitmap) -> Result<(), StoreError> {
        tracing::error!(
            message = %id,
            devices = owed.len(),
            "a broadcast cannot be read: those who were still owed it are told of a gap"
        );
        for device in owed.iter().map(Ordinal) {
            if let Ok(Some(record)) = self.registration_record(device) {
                let project = ProjectId(record.project);
                self.count_into_gap(device, project, id, DropReason::Unreadable)?;
            }
        }
        self.remove_broadcast(id)
    }

    /// Reads what is known of each queue; the queues stay where they are. What they hold is checked when it is scanned.
    fn load_summaries(&mut self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let mut known = Vec::new();
        let mut lost_chunks = Vec::new();
        self.each(layout::SUMMARIES, &mut loaded.unreadable, |key, value| {
            let chunk = layout::number_at(key, 1)?;
            match records::read_summaries(value) {
                Some(summaries) => {
                    known.extend(summaries);
                    Some(())
                }
                None => {
                    lost_chunks.push(chunk);
                    None
                }
            }
        })?;
        for (device, waiting) in known {
            self.queues.load(device, waiting);
        }
        for chunk in lost_chunks {
            self.summarize_anew(layout::devices_of(chunk))?;
        }
        let mut journal = Vec::new();
        let unreadable = loaded.unreadable;
        self.each(layout::JOURNAL, &mut loaded.unreadable, |key, value| {
            journal.push((layout::record_of(key)?, records::read_summaries(value)?));
            Some(())
        })?;
        let is_whole = loaded.unreadable == unreadable;
        for (record, summaries) in journal {
            let devices = summaries.iter().map(|(device, _)| *device);
            self.summaries.load(record, devices);
            for (device, waiting) in summaries {
                self.queues.load(device, waiting);
            }
        }
        if !is_whole {
            tracing::warn!("what is known of the queues cannot be read: all of them are read");
            self.remove_unreadable_journal()?;
            self.summarize_all()?;
        }
        Ok(())
    }

    fn remove_unreadable_journal(&mut self) -> Result<(), StoreError> {
        let mut bad = Vec::new();
        let (from, to) = layout::kind_range(layout::JOURNAL);
        self.map.visit(&from, &to, |key, value| {
            if layout::record_of(key).is_none() || records::read_summaries(value).is_none() {
                bad.push(key.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        for key in bad {
            self.map.remove(key);
        }
        Ok(())
    }

    /// Makes the summaries of all queues by reading them all.
    fn summarize_all(&mut self) -> Result<(), StoreError> {
        let mut devices = RoaringBitmap::new();
        let (from, to) = layout::kind_range(layout::QUEUE);
        self.map.visit(&from, &to, |key, _| {
            devices.extend(layout::number_at(key, 1));
            ControlFlow::Continue(())
        })?;
        devices |= self.queues.devices();
        self.summarize_anew(devices.into_iter().map(Ordinal))
    }

    fn summarize_anew(&mut self, devices: impl Iterator<Item = Ordinal>) -> Result<(), StoreError> {
        for device in devices {
            let summary = self.summarize(device)?;
            if summary.is_empty() && !self.queues.has(device) {
                continue;
            }
            let registration = self.registration_record(device).ok().flatten();
            let project = ProjectId(registration.map_or(0, |r| r.project));
            self.queues.set(device, Waiting { project, summary });
        }
        Ok(())
    }
}

fn sealed_number(value: &[u8]) -> Option<u32> {
    let payload = layout::open(value)?.try_into().ok()?;
    u32::try_from(u64::from_be_bytes(payload)).ok()
}
