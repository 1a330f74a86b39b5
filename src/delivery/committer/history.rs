//! Writing the history behind, keeping it within its bounds, reading it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use petrel_core::{Event, Timeline};
use petrel_protocol::{MessageId, Ordinal};

use super::super::broadcasts::Broadcast;
use super::{Committer, count};
use crate::store::StoreError;
use crate::telemetry::{self, Metric};

/// How often events are taken to be written: with the commit, what a crash forgets.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait between two slices, so that others get at the store.
const PAUSE: Duration = Duration::from_millis(10);

/// Most keys of one slice.
const KEYS_MAX: usize = 64;

/// Most keys that one slice of retention or erasure looks at.
const TRIM_KEYS_MAX: usize = 128;

/// What is under way.
pub(super) struct Writing {
    /// Taken and not staged yet.
    batch: Vec<Event>,
    taken_at: Instant,
    trim_at: Instant,
}

impl Writing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            batch: Vec::new(),
            taken_at: now,
            trim_at: now,
        }
    }

    /// A registration has ended: nothing of its device is written any more.
    pub(super) fn forget(&mut self, device: Ordinal) {
        self.batch.retain(|event| event.device != device);
    }
}

impl Committer {
    /// Stages the next slice of the history, and drops one of what is beyond its bounds; when to come back. At the end
    /// everything is staged. While the store cannot be written events wait where they are, and are dropped when they are
    /// too many.
    pub(super) fn write_history(&mut self, now: Instant, is_stopped: bool) -> Instant {
        let is_closed = self.retry_at.is_some() || self.delivery.gate.closed().is_some();
        if !is_closed || is_stopped {
            self.take_history(now, is_stopped);
            self.stage_history(is_stopped);
        }
        if self.writing.trim_at <= now && self.retry_at.is_none() {
            let limits = self.delivery.settings.history.limits;
            let trimmed = self
                .store
                .trim_history(self.delivery.now(), limits, TRIM_KEYS_MAX);
            let is_more = trimmed.unwrap_or_else(|error| {
                tracing::error!(%error, "old history could not be dropped");
                false
            });
            self.writing.trim_at = now + if is_more { PAUSE } else { INTERVAL };
        }
        let next = self.writing.trim_at.max(now + PAUSE);
        if self.writing.batch.is_empty() || is_closed {
            next
        } else {
            now + PAUSE
        }
    }

    fn take_history(&mut self, now: Instant, is_stopped: bool) {
        let recorder = &self.delivery.recorder;
        let writing = &mut self.writing;
        let since = now.saturating_duration_since(writing.taken_at);
        let is_due = since >= INTERVAL || recorder.is_pressed() || is_stopped;
        if !is_due || !writing.batch.is_empty() && !is_stopped {
            return;
        }
        writing.taken_at = now;
        recorder.take(&mut writing.batch);
        telemetry::counter(Metric::HistoryRecorded, writing.batch.len() as u64);
        let (directory, ending) = (&self.delivery.directory, &self.ending);
        // What comes late of a registration that has ended must not outlive its erasure.
        writing
            .batch
            .retain(|e| !ending.contains(e.device.0) && directory.device(e.device).is_some());
    }

    fn stage_history(&mut self, is_stopped: bool) {
        let batch = &mut self.writing.batch;
        if batch.is_empty() {
            return;
        }
        let keys_max = if is_stopped { usize::MAX } else { KEYS_MAX };
        let recorded = self
            .store
            .record_history(batch, self.delivery.now(), keys_max);
        match recorded {
            Ok(()) => count("history"),
            Err(error) => {
                tracing::error!(%error, "history could not be written");
                telemetry::counter(Metric::HistoryDropped, batch.len() as u64);
                batch.clear();
            }
        }
    }

    /// Stages what became of a broadcast so far.
    pub(super) fn save_broadcast_history(
        &mut self,
        broadcast: &Broadcast,
    ) -> Result<(), StoreError> {
        if self.delivery.settings.history.is_recorded {
            let history = broadcast.history(self.delivery.now());
            self.store.record_broadcast(&history)?;
            count("history");
        }
        Ok(())
    }

    /// Reads what became of a device's messages, what is not written yet included.
    pub(super) fn read_history(
        &mut self,
        device: Ordinal,
        before: MessageId,
        limit: usize,
        reply: Box<dyn FnOnce(Option<Vec<Timeline>>) + Send>,
    ) -> Result<(), StoreError> {
        let stored = match self.store.history_of_device(device, before, limit) {
            Ok(stored) => stored,
            Err(error) => {
                reply(None);
                return Err(error);
            }
        };
        let mut timelines: BTreeMap<MessageId, Timeline> =
            stored.into_iter().map(|t| (t.id, t)).collect();
        let taken = self.writing.batch.iter().copied();
        let taken = taken.filter(|e| e.device == device);
        for event in taken.chain(self.delivery.recorder.of(device)) {
            if event.id < before {
                let timeline = timelines.entry(event.id);
                let timeline = timeline.or_insert_with(|| Timeline::new(event.id));
                timeline.add(event.happening, event.at);
            }
        }
        reply(Some(timelines.into_values().rev().take(limit).collect()));
        Ok(())
    }
}
