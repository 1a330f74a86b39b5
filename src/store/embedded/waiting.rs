//! What is known of all queues without reading them: a summary for each device that has one, kept in memory (how it gets to
//! the disk is said in `summaries`); which queues have something to expire; and the entries of the few
//! queues that rules had to be asked about.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use petrel_core::UnixMillis;
use petrel_core::queue::{Entry, Span, Summary};
use petrel_protocol::{MessageId, Ordinal, ProjectId};
use roaring::RoaringBitmap;

/// Most entries of queues that stay in memory: some 16 MiB.
const ENTRIES_MAX: usize = 1 << 18;

/// A device's queue, in brief.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Waiting {
    pub(in super::super) project: ProjectId,
    pub(in super::super) summary: Summary,
}

/// All queues, in brief.
#[derive(Default)]
pub(super) struct Queues {
    by_device: HashMap<Ordinal, Waiting>,
    /// Devices whose queue may have something that expires in this span or later.
    due: BTreeMap<Span, RoaringBitmap>,
    by_project: HashMap<ProjectId, u64>,
    /// Summaries that changed since they were last written.
    changed: BTreeSet<Ordinal>,
    entries: HashMap<Ordinal, Vec<Entry>>,
    entries_held: usize,
    messages: u64,
}

impl Queues {
    pub(super) fn get(&self, device: Ordinal) -> Option<&Waiting> {
        self.by_device.get(&device)
    }

    pub(super) fn has(&self, device: Ordinal) -> bool {
        self.by_device.contains_key(&device)
    }

    /// All devices that have a queue.
    pub(super) fn devices(&self) -> RoaringBitmap {
        let mut numbers: Vec<u32> = self.by_device.keys().map(|d| d.0).collect();
        numbers.sort_unstable();
        numbers.into_iter().collect()
    }

    /// Messages in all queues.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Projects with something queued, and how many bytes it takes.
    pub(super) fn projects(&self) -> impl Iterator<Item = (ProjectId, u64)> {
        self.by_project
            .iter()
            .map(|(project, bytes)| (*project, *bytes))
    }

    /// An estimate of the memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        let summaries = self.by_device.capacity() * (size_of::<(Ordinal, Waiting)>() + 1);
        let due: usize = self.due.values().map(RoaringBitmap::serialized_size).sum();
        (summaries + due + self.entries_held * size_of::<Entry>()) as u64
    }

    /// Takes in what was stored of a queue, or found by reading it.
    pub(super) fn set(&mut self, device: Ordinal, waiting: Waiting) {
        self.forget(device);
        self.messages += u64::from(waiting.summary.messages);
        *self.by_project.entry(waiting.project).or_default() += u64::from(waiting.summary.bytes);
        self.file(device, waiting.summary.earliest);
        if !waiting.summary.is_empty() {
            self.by_device.insert(device, waiting);
        }
        self.changed.insert(device);
    }

    /// Takes in a queue as it was stored, or that it is gone: it need not be written again.
    pub(super) fn load(&mut self, device: Ordinal, waiting: Option<Waiting>) {
        match waiting {
            Some(waiting) => self.set(device, waiting),
            None => self.forget(device),
        }
        self.changed.remove(&device);
    }

    pub(super) fn add(&mut self, device: Ordinal, project: ProjectId, entry: Entry) {
        let waiting = self.by_device.entry(device).or_insert(Waiting {
            project,
            summary: Summary::default(),
        });
        let before = waiting.summary.earliest;
        waiting.summary.add(&entry);
        let earliest = waiting.summary.earliest;
        *self.by_project.entry(waiting.project).or_default() += u64::from(entry.bytes);
        self.messages += 1;
        if earliest < before {
            self.file(device, earliest);
        }
        self.changed.insert(device);
        if let Some(entries) = self.entries.get_mut(&device) {
            let at = entries.partition_point(|e| e.id < entry.id);
            entries.insert(at, entry);
            self.entries_held += 1;
        }
    }

    pub(super) fn remove(&mut self, device: Ordinal, id: MessageId, bytes: u32, is_keyed: bool) {
        if let Some(entries) = self.entries.get_mut(&device)
            && let Ok(at) = entries.binary_search_by_key(&id, |e| e.id)
        {
            entries.remove(at);
            self.entries_held -= 1;
        }
        let Some(waiting) = self.by_device.get_mut(&device) else {
            return;
        };
        waiting.summary.remove(bytes, is_keyed);
        self.messages = self.messages.saturating_sub(1);
        if let Some(held) = self.by_project.get_mut(&waiting.project) {
            *held = held.saturating_sub(u64::from(bytes));
        }
        self.tidy(device);
    }

    /// Counts gaps that a device has not acked.
    pub(super) fn change_gaps(&mut self, device: Ordinal, project: ProjectId, by: i8) {
        let waiting = self.by_device.entry(device).or_insert(Waiting {
            project,
            summary: Summary::default(),
        });
        let gaps = &mut waiting.summary.gaps;
        *gaps = gaps.saturating_add_signed(i16::from(by));
        self.tidy(device);
    }

    fn tidy(&mut self, device: Ordinal) {
        self.changed.insert(device);
        if self
            .by_device
            .get(&device)
            .is_some_and(|w| w.summary.is_empty())
        {
            self.by_device.remove(&device);
            self.forget_entries(device);
        }
    }

    /// Forgets a queue that was cleared.
    pub(super) fn forget(&mut self, device: Ordinal) {
        self.forget_entries(device);
        if let Some(waiting) = self.by_device.remove(&device) {
            self.messages = self
                .messages
                .saturating_sub(u64::from(waiting.summary.messages));
            if let Some(held) = self.by_project.get_mut(&waiting.project) {
                *held = held.saturating_sub(u64::from(waiting.summary.bytes));
            }
            self.changed.insert(device);
        }
    }

    fn forget_entries(&mut self, device: Ordinal) {
        if let Some(entries) = self.entries.remove(&device) {
            self.entries_held -= entries.len();
        }
    }

    /// The entries of a queue, if they were read before.
    pub(super) fn entries(&self, device: Ordinal) -> Option<&[Entry]> {
        self.entries.get(&device).map(Vec::as_slice)
    }

    /// Keeps the entries of a queue that was read. All others go where there would be too many.
    pub(super) fn keep_entries(&mut self, device: Ordinal, entries: Vec<Entry>) -> &[Entry] {
        self.forget_entries(device);
        if self.entries_held + entries.len() > ENTRIES_MAX {
            self.entries.clear();
            self.entries_held = 0;
        }
        self.entries_held += entries.len();
        self.entries.entry(device).or_insert(entries)
    }

    fn file(&mut self, device: Ordinal, earliest: Span) {
        if earliest != Span::NEVER {
            self.due.entry(earliest).or_default().insert(device.0);
        }
    }

    /// Takes out a device whose queue may have something that expired in a span before this moment's.
    pub(super) fn take_due(&mut self, now: UnixMillis) -> Option<Ordinal> {
        loop {
            let mut first = self.due.first_entry()?;
            if *first.key() >= Span::of(now) {
                return None;
            }
            let span = *first.key();
            let Some(device) = first.get().min() else {
                first.remove();
                continue;
            };
            first.get_mut().remove(device);
            // It may have been emptied meanwhile, or filed earlier as well.
            let waits = self.by_device.get(&Ordinal(device));
            if waits.is_some_and(|w| w.summary.earliest <= span) {
                return Some(Ordinal(device));
            }
        }
    }

    /// A queue was read: when it has something to expire next.
    pub(super) fn refile(&mut self, device: Ordinal, earliest: Span) {
        if let Some(waiting) = self.by_device.get_mut(&device) {
            waiting.summary.earliest = earliest;
            self.changed.insert(device);
            self.file(device, earliest);
        }
    }

    /// Takes the summaries that changed, for writing; `None` for a queue that is gone.
    pub(super) fn take_changed(&mut self) -> Vec<(Ordinal, Option<Waiting>)> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|device| (device, self.by_device.get(&device).copied()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use petrel_protocol::Urgency;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn entry(sequence: u64, deadline: u64) -> Entry {
        Entry {
            id: MessageId { epoch: 1, sequence },
            bytes: 100,
            urgency: Urgency::Normal,
            deadline: UnixMillis(deadline),
            collapse_key: None,
        }
    }

    #[test]
    fn a_queue_is_due_once_for_its_earliest_deadline() {
        let mut queues = Queues::default();
        let project = ProjectId(1);
        queues.add(Ordinal(7), project, entry(1, 9 * HOUR));
        queues.add(Ordinal(7), project, entry(2, 2 * HOUR));
        queues.add(Ordinal(8), project, entry(3, 9 * HOUR));
        assert_eq!(queues.take_due(UnixMillis(HOUR)), None);
        assert_eq!(queues.take_due(UnixMillis(3 * HOUR)), Some(Ordinal(7)));
        assert_eq!(queues.take_due(UnixMillis(3 * HOUR)), None);
        queues.refile(Ordinal(7), Span::of(UnixMillis(9 * HOUR)));
        let late = UnixMillis(10 * HOUR);
        assert_eq!(queues.take_due(late), Some(Ordinal(7)));
        assert_eq!(queues.take_due(late), Some(Ordinal(8)));
        assert_eq!(queues.take_due(late), None);
    }

    #[test]
    fn an_emptied_queue_is_forgotten_and_its_bytes_with_it() {
        let mut queues = Queues::default();
        queues.add(Ordinal(7), ProjectId(1), entry(1, HOUR));
        queues.keep_entries(Ordinal(7), vec![entry(1, HOUR)]);
        queues.change_gaps(Ordinal(7), ProjectId(1), 1);
        queues.remove(Ordinal(7), entry(1, 0).id, 100, false);
        assert!(queues.has(Ordinal(7)), "a gap is still to be told");
        assert_eq!(queues.projects().collect::<Vec<_>>(), [(ProjectId(1), 0)]);
        queues.take_changed();
        queues.change_gaps(Ordinal(7), ProjectId(1), -1);
        assert_eq!(queues.take_changed(), [(Ordinal(7), None)]);
        assert_eq!((queues.messages(), queues.entries_held), (0, 0));
        assert_eq!(queues.take_due(UnixMillis(9 * HOUR)), None);
    }

    #[test]
    fn kept_entries_follow_and_are_bounded() {
        let mut queues = Queues::default();
        queues.add(Ordinal(7), ProjectId(1), entry(2, HOUR));
        queues.keep_entries(Ordinal(7), vec![entry(2, HOUR)]);
        queues.add(Ordinal(7), ProjectId(1), entry(1, HOUR));
        let ids = |q: &Queues| -> Vec<u64> {
            let entries = q.entries(Ordinal(7)).unwrap_or_default();
            entries.iter().map(|e| e.id.sequence).collect()
        };
        assert_eq!(ids(&queues), [1, 2]);
        queues.remove(Ordinal(7), entry(2, 0).id, 100, false);
        assert_eq!(ids(&queues), [1]);
        queues.keep_entries(Ordinal(8), vec![entry(3, HOUR); ENTRIES_MAX]);
        assert_eq!(queues.entries(Ordinal(7)), None);
        assert_eq!(queues.entries_held, ENTRIES_MAX);
    }
}
