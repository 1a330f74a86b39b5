//! Keeping the summaries of queues on disk, for less than a key a message.
//!
//! A key beside each message would cost a second leaf of the tree with every enqueue, several times what the message
//! costs. So each commit writes the summaries that it changed into one *journal* record, and now and then one *chunk*:
//! those of 1,024 devices, whichever waited longest. A journal record goes once all chunks that it speaks of were
//! written. What is on disk is exact at every commit: the chunks, overlaid with the journal in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use petrel_protocol::Ordinal;

use super::super::ordered::OrderedMap;
use super::super::staged::Staged;
use super::super::{layout, records};
use super::waiting::{Queues, Waiting};

/// After how many changed summaries a chunk is written. The journal holds at most this many for each chunk.
const CHANGES_PER_CHUNK: usize = 256;

/// What is on disk of the summaries.
#[derive(Default)]
pub(super) struct Summaries {
    /// The journal records that are there, oldest first.
    journal: VecDeque<u64>,
    next: u64,
    /// Chunks that the journal knows better, with the oldest record that does.
    stale: BTreeMap<u32, u64>,
    stale_by_record: BTreeSet<(u64, u32)>,
    /// Changes since a chunk was written.
    changes: usize,
}

impl Summaries {
    /// Takes in a journal record that is on disk, oldest first.
    pub(super) fn load(&mut self, record: u64, devices: impl Iterator<Item = Ordinal>) {
        self.journal.push_back(record);
        self.next = self.next.max(record + 1);
        for device in devices {
            self.note(device, record);
        }
    }

    fn note(&mut self, device: Ordinal, record: u64) {
        let chunk = layout::chunk_of(device);
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.stale.entry(chunk) {
            vacant.insert(record);
            self.stale_by_record.insert((record, chunk));
        }
    }

    /// Stages what changed.
    pub(super) fn stage<M: OrderedMap>(&mut self, map: &mut Staged<M>, queues: &mut Queues) {
        let changed = queues.take_changed();
        if changed.is_empty() {
            return;
        }
        let record = self.next;
        self.next += 1;
        self.journal.push_back(record);
        for (device, _) in &changed {
            self.note(*device, record);
        }
        map.put(layout::journal(record), records::write_summaries(&changed));
        self.changes += changed.len();
        while self.changes >= CHANGES_PER_CHUNK {
            self.changes -= CHANGES_PER_CHUNK;
            self.stage_chunk(map, queues);
        }
        let oldest = self.stale_by_record.first().map_or(self.next, |(r, _)| *r);
        while let Some(done) = self.journal.pop_front_if(|r| *r < oldest) {
            map.remove(layout::journal(done));
        }
    }

    /// Writes the chunk that is stale for longest.
    fn stage_chunk<M: OrderedMap>(&mut self, map: &mut Staged<M>, queues: &Queues) {
        let Some((_, chunk)) = self.stale_by_record.pop_first() else {
            return;
        };
        self.stale.remove(&chunk);
        let summaries: Vec<(Ordinal, Option<Waiting>)> = layout::devices_of(chunk)
            .filter_map(|device| Some((device, Some(*queues.get(device)?))))
            .collect();
        if summaries.is_empty() {
            map.remove(layout::summaries(chunk));
        } else {
            map.put(
                layout::summaries(chunk),
                records::write_summaries(&summaries),
            );
        }
    }
}
