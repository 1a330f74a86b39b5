//! What of a state file is alive, and where. Holds ids and offsets, not bodies: those stay on disk.

use std::collections::{BTreeMap, HashMap, VecDeque};

use petrel_protocol::MessageId;

use super::RECENT_IDS;
use super::journal::Line;

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) id: MessageId,
    /// Length of its line in bytes, line break included.
    pub(super) bytes: u32,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) registration: Option<String>,
    /// Records not done, by the offset of their line: in the order of appending.
    pub(super) live_by_offset: BTreeMap<u64, Place>,
    offset_by_id: HashMap<MessageId, u64>,
    pub(super) recent: VecDeque<MessageId>,
    /// Lines that a compaction would leave out.
    pub(super) dead: usize,
}

impl Index {
    /// Takes account of a line that stands at `offset`.
    pub(super) fn apply(&mut self, line: &Line<'_>, offset: u64, bytes: u32) {
        match line {
            Line::Registration(text) => self.register(text.get()),
            Line::Kept(kept) => self.keep(kept.id.0, offset, bytes),
            Line::Done(ids) => self.done(ids.iter().map(|id| id.0)),
            Line::Recent(ids) => ids.iter().for_each(|id| self.remember(id.0)),
        }
    }

    pub(super) fn register(&mut self, text: &str) {
        let former = self.registration.replace(text.to_owned());
        self.dead += usize::from(former.is_some());
    }

    pub(super) fn keep(&mut self, id: MessageId, offset: u64, bytes: u32) {
        if let Some(former) = self.offset_by_id.insert(id, offset) {
            self.live_by_offset.remove(&former);
            self.dead += 1;
        }
        self.live_by_offset.insert(offset, Place { id, bytes });
        self.remember(id);
    }

    /// The record and the line that ends it are dead.
    pub(super) fn done(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        self.dead += 1;
        for id in ids {
            if let Some(offset) = self.offset_by_id.remove(&id) {
                self.live_by_offset.remove(&offset);
                self.dead += 1;
            }
        }
    }

    /// Whether a record is there and not done.
    pub(super) fn is_live(&self, id: MessageId) -> bool {
        self.offset_by_id.contains_key(&id)
    }

    fn remember(&mut self, id: MessageId) {
        self.recent.push_back(id);
        if self.recent.len() > RECENT_IDS {
            self.recent.pop_front();
        }
    }
}
