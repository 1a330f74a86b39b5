//! Whether values fit together: pieces make whole sets, summaries say what is in their queues. Pairs come in order of
//! their keys, so that one set and one queue are held at a time.

use petrel_protocol::{MessageId, Ordinal};

use super::super::records::{self, QueueValue};
use super::check::CheckReport;
use super::kinds::is_set;
use crate::store::{OrderedMap, StoreError, layout};

/// The set whose pieces are coming by.
#[derive(Default)]
pub(super) struct Sets {
    current: Option<(u8, MessageId)>,
    next: u16,
    bytes: Vec<u8>,
    is_whole: bool,
}

impl Sets {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8], report: &mut CheckReport) {
        // Sets of version 1 are whole in one value.
        let Some((id, number)) = layout::piece_of(key) else {
            return;
        };
        if self.current != Some((key[0], id)) {
            self.end(report);
            *self = Self {
                current: Some((key[0], id)),
                is_whole: true,
                ..Self::default()
            };
        }
        match layout::open(value) {
            Some(piece) if number == self.next => {
                self.bytes.extend_from_slice(piece);
                self.next = self.next.saturating_add(1);
            }
            _ => self.is_whole = false,
        }
    }

    pub(super) fn end(&mut self, report: &mut CheckReport) {
        let Some((kind, id)) = self.current.take() else {
            return;
        };
        if !self.is_whole || !is_set(&self.bytes) {
            let which = match kind {
                layout::TARGETED => "target set",
                _ => "settled set",
            };
            report.problem(format!("the {which} of broadcast {id} is not whole"));
        }
    }
}

/// What was counted in the queue that is coming by, and in all of them.
#[derive(Default)]
pub(super) struct Queues {
    current: Option<Ordinal>,
    messages: u32,
    gaps: u16,
    bytes: u32,
    has_unreadable: bool,
    /// Summaries that speak of something, and queues that have one.
    summaries: u64,
    found: u64,
}

impl Queues {
    pub(super) fn summary(&mut self, value: &[u8]) {
        self.summaries += u64::from(records::read_summary(value).is_some());
    }

    pub(super) fn entry(
        &mut self,
        key: &[u8],
        value: &[u8],
        schema: u32,
        map: &dyn OrderedMap,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let (Some(device), Some(id)) = (layout::number_at(key, 1), layout::id_of(key)) else {
            return Ok(());
        };
        if self.current != Some(Ordinal(device)) {
            if schema == layout::SCHEMA {
                self.compare(map, report)?;
            }
            self.current = Some(Ordinal(device));
            (self.messages, self.gaps, self.bytes) = (0, 0, 0);
            self.has_unreadable = false;
        }
        match records::read_queued(id, value) {
            Some(QueueValue::Message(entry, _)) => {
                self.messages += 1;
                self.bytes = self.bytes.saturating_add(entry.bytes);
            }
            Some(QueueValue::Gap(_)) => self.gaps += 1,
            None => self.has_unreadable = true,
        }
        Ok(())
    }

    pub(super) fn end(
        &mut self,
        map: &dyn OrderedMap,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        self.compare(map, report)?;
        if self.summaries > self.found {
            let lone = self.summaries - self.found;
            report.problem(format!(
                "{lone} summaries speak of queues that are not there"
            ));
        }
        Ok(())
    }

    fn compare(
        &mut self,
        map: &dyn OrderedMap,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let Some(device) = self.current.take() else {
            return Ok(());
        };
        let Some(value) = map.get(&layout::summary(device))? else {
            report.problem(format!(
                "the queue of device {} has no summary: its messages would not be delivered",
                device.0
            ));
            return Ok(());
        };
        // An unreadable summary is a bad value, and made anew at the next start.
        let Some((_, summary)) = records::read_summary(&value) else {
            return Ok(());
        };
        self.found += 1;
        let said = (summary.messages, summary.bytes, summary.gaps);
        let counted = (self.messages, self.bytes, self.gaps);
        // One that cannot be read was counted when it could be.
        if said != counted && !self.has_unreadable {
            report.problem(format!(
                "the summary of device {} says {} messages of {} bytes and {} gaps; there are {}, {} and {}",
                device.0, said.0, said.1, said.2, counted.0, counted.1, counted.2
            ));
        }
        Ok(())
    }
}
