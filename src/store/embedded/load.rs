//! Reading everything that serving keeps in memory.

use std::ops::ControlFlow;

use petrel_core::{UnixMillis, decode_message};
use petrel_protocol::{Ordinal, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::super::ordered::OrderedMap;
use super::super::records::{self, BroadcastRecord, QueueValue, RegistrationRecord};
use super::super::{Loaded, StoreError, StoredBroadcast, TopicId, layout};
use super::Embedded;

impl<M: OrderedMap> Embedded<M> {
    pub(super) fn load_all(&mut self) -> Result<Loaded, StoreError> {
        let schema = self.number(&layout::meta("schema"), "schema version")?;
        layout::migrate(schema.map_or(0, |s| u32::try_from(s).unwrap_or(u32::MAX)))?;
        if schema.is_none() {
            self.put_number(layout::meta("schema"), u64::from(layout::SCHEMA));
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
            ..Loaded::default()
        };
        let next_ordinal = small(meta("next_ordinal", "next ordinal")?);
        let next_topic = small(meta("next_topic", "next topic")?);
        self.next_ordinal = next_ordinal;
        self.next_topic = next_topic;
        self.load_projects(&mut loaded)?;
        self.load_registrations(&mut loaded)?;
        self.load_topics(&mut loaded)?;
        self.load_broadcasts(&mut loaded)?;
        self.load_queues(&mut loaded)?;
        self.next_project = loaded
            .projects
            .iter()
            .map(|(id, _)| id.0 + 1)
            .max()
            .unwrap_or(0);
        self.queued_messages = loaded.queued_messages;
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

    fn load_broadcasts(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let mut settled = std::collections::HashMap::new();
        self.each(layout::SETTLED, &mut loaded.unreadable, |key, value| {
            settled.insert(layout::id_of(key)?, records::read_bitmap(value)?);
            Some(())
        })?;
        let Loaded {
            broadcasts,
            unreadable,
            ..
        } = loaded;
        self.each(layout::BROADCAST, unreadable, |key, value| {
            let record = BroadcastRecord::read(value)?;
            let id = layout::id_of(key)?;
            broadcasts.push(StoredBroadcast {
                message: decode_message(&record.message).ok()?,
                bytes: record.message.len() as u64,
                targeted: record.targeted()?,
                settled: settled.remove(&id).unwrap_or_else(RoaringBitmap::new),
                is_trimmed: record.is_trimmed,
            });
            Some(())
        })
    }

    /// Only counts: queues stay on disk. An unreadable entry is counted when its device scans it.
    fn load_queues(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let (from, to) = layout::kind_range(layout::QUEUE);
        self.map.visit(&from, &to, |key, value| {
            let (Some(device), Some(id)) = (layout::number_at(key, 1), layout::id_of(key)) else {
                return ControlFlow::Continue(());
            };
            loaded.queued.insert(device);
            let is_gap = matches!(records::read_queued(id, value), Some(QueueValue::Gap(_)));
            loaded.queued_messages += u64::from(!is_gap);
            ControlFlow::Continue(())
        })
    }
}

fn sealed_number(value: &[u8]) -> Option<u32> {
    let payload = layout::open(value)?.try_into().ok()?;
    u32::try_from(u64::from_be_bytes(payload)).ok()
}
