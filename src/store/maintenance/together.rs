//! Whether values fit together: pieces make whole sets, summaries say what is in their queues. Pairs come in order of
//! their keys, so that one set and one queue are held at a time.

use std::collections::BTreeMap;

use petrel_core::queue::Summary;
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

/// What is said of queues, and what was counted in the one that is coming by.
#[derive(Default)]
pub(super) struct Queues {
    /// What the summaries say of queues that have not come by yet; `None` where that cannot be read: then the next start
    /// makes it anew.
    said: Option<BTreeMap<Ordinal, Summary>>,
    current: Option<Ordinal>,
    messages: u32,
    gaps: u16,
    bytes: u32,
    has_unreadable: bool,
}

impl Queues {
    /// Reads all summaries: some 40 bytes of memory for each queue.
    pub(super) fn new(map: &dyn OrderedMap, schema: u32) -> Result<Self, StoreError> {
        let mut said = (schema == layout::SCHEMA).then(BTreeMap::new);
        for kind in [layout::SUMMARIES, layout::JOURNAL] {
            let (from, to) = layout::kind_range(kind);
            for pair in map.range(&from, &to) {
                let (_, value) = pair?;
                let Some(summaries) = records::read_summaries(&value) else {
                    said = None;
                    break;
                };
                for (device, waiting) in summaries {
                    let Some(said) = &mut said else { break };
                    match waiting {
                        Some(waiting) => said.insert(device, waiting.summary),
                        None => said.remove(&device),
                    };
                }
            }
        }
        Ok(Self {
            said,
            ..Self::default()
        })
    }

    pub(super) fn entry(&mut self, key: &[u8], value: &[u8], report: &mut CheckReport) {
        let (Some(device), Some(id)) = (layout::number_at(key, 1), layout::id_of(key)) else {
            return;
        };
        if self.current != Some(Ordinal(device)) {
            self.compare(report);
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
    }

    pub(super) fn end(&mut self, report: &mut CheckReport) {
        self.compare(report);
        let left = self.said.take().unwrap_or_default();
        if !left.is_empty() {
            let count = left.len();
            report.problem(format!(
                "{count} summaries speak of queues that are not there"
            ));
        }
    }

    fn compare(&mut self, report: &mut CheckReport) {
        let (Some(device), Some(said)) = (self.current.take(), &mut self.said) else {
            return;
        };
        let Some(summary) = said.remove(&device) else {
            report.problem(format!(
                "the queue of device {} has no summary: its messages would not be delivered",
                device.0
            ));
            return;
        };
        let said = (summary.messages, summary.bytes, summary.gaps);
        let counted = (self.messages, self.bytes, self.gaps);
        // One that cannot be read was counted when it could be.
        if said != counted && !self.has_unreadable {
            report.problem(format!(
                "the summary of device {} says {} messages of {} bytes and {} gaps; there are {}, {} and {}",
                device.0, said.0, said.1, said.2, counted.0, counted.1, counted.2
            ));
        }
    }
}
