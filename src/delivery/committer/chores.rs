//! What nobody asked for: settled sets written behind, deadlines, retention, the time, room on the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petrel_core::{Day, DropReason, UnixMillis};
use petrel_protocol::{Ordinal, ProjectId};

use super::super::broadcasts::{Broadcast, Stage};
use super::super::durable::trimmed;
use super::super::gate::{Closed, Room};
use super::super::operation::Change;
use super::{Committer, count};
use crate::store::{DiskUse, StoreError};
use crate::telemetry::{self, Metric};

/// How often settled sets are written behind, deadlines of broadcasts and the room on the disk are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// How often the wall time is written, so that no later start is earlier by more than this.
const TIME_INTERVAL: Duration = Duration::from_secs(60);

/// How long to wait between two slices of what expired in queues, so that others get at the store.
const EXPIRY_PAUSE: Duration = Duration::from_millis(20);

/// Most messages that expire in one slice, but for those of the queue that goes past it.
const EXPIRY_MESSAGES_MAX: usize = 512;

/// Most devices whose last day is written in one go.
const SEEN_MAX: usize = 256;

/// How long between two looks at who was not seen for long. The first is so long after the start: who is back by then
/// was seen.
const ABSENCE_INTERVAL: Duration = Duration::from_secs(3600);

/// Most registrations that are looked at in one go.
const ABSENCE_LOOKS_MAX: usize = 4096;

/// Most registrations that end in one go.
const ABSENCE_ENDS_MAX: usize = 32;

/// When what was last done.
pub(super) struct Chores {
    housekept_at: Instant,
    /// When to look for devices that were not seen for long.
    absence_at: Instant,
    /// How far the look that is under way has come.
    absence_from: Ordinal,
    time_saved_at: Instant,
    /// When the next slice of expired messages is due.
    expiry_at: Instant,
}

impl Chores {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            housekept_at: now,
            absence_at: now + ABSENCE_INTERVAL,
            absence_from: Ordinal(0),
            time_saved_at: now,
            expiry_at: now,
        }
    }

    fn next_at(&self) -> Instant {
        (self.housekept_at + HOUSEKEEPING).min(self.expiry_at)
    }
}

impl Committer {
    /// Does what is due, or what must be done before the end; when to come back.
    pub(super) fn do_chores(&mut self, now: Instant, is_stopped: bool) -> Instant {
        let since = now.saturating_duration_since(self.chores.housekept_at);
        if since >= HOUSEKEEPING || is_stopped {
            self.chores.housekept_at = now;
            self.save_time(now);
            self.save_seen();
            self.look_for_absent(now);
            self.look_at_room();
            if let Err(error) = self.look_at_broadcasts() {
                tracing::error!(%error, "housekeeping of the store failed");
            }
        }
        if self.chores.expiry_at <= now {
            // While commits fail, nothing is staged that can wait.
            let is_failing = self.retry_at.is_some();
            let expired = if is_failing { Ok(false) } else { self.expire() };
            let more = expired.unwrap_or_else(|error| {
                tracing::error!(%error, "expired messages could not be dropped");
                false
            });
            let pause = if more { EXPIRY_PAUSE } else { HOUSEKEEPING };
            self.chores.expiry_at = now + pause;
        }
        self.chores.next_at()
    }

    fn save_time(&mut self, now: Instant) {
        if now.saturating_duration_since(self.chores.time_saved_at) >= TIME_INTERVAL {
            self.chores.time_saved_at = now;
            match self.store.save_time(self.delivery.now()) {
                Ok(()) => count("meta"),
                Err(error) => tracing::error!(%error, "the time could not be saved"),
            }
        }
    }

    fn save_seen(&mut self) {
        for device in self.delivery.take_seen(SEEN_MAX) {
            let Some(day) = self.delivery.directory.seen(device) else {
                continue;
            };
            match self.store.save_seen(device, day) {
                Ok(()) => count("seen"),
                Err(error) => tracing::error!(%error, "when a device was seen could not be saved"),
            }
        }
    }

    /// Ends some of the registrations whose device was not seen for as long as is configured. Who is connected counts as
    /// seen today.
    fn look_for_absent(&mut self, now: Instant) {
        if now < self.chores.absence_at || self.retry_at.is_some() {
            return;
        }
        let delivery = Arc::clone(&self.delivery);
        let today = Day::of(delivery.now());
        let days = delivery
            .settings
            .registration_expiry
            .as_secs()
            .div_ceil(86_400);
        let last = today
            .0
            .saturating_sub(u16::try_from(days).unwrap_or(u16::MAX));
        let (unseen, mut next) =
            delivery
                .directory
                .unseen_since(today, self.chores.absence_from, ABSENCE_LOOKS_MAX);
        let mut ended = 0;
        for device in unseen {
            if ended == ABSENCE_ENDS_MAX {
                next = Some(device);
                break;
            }
            if delivery.presence.find(device).is_some() {
                delivery.saw(device);
            } else if delivery.now() >= delivery.patient_until.0
                && delivery
                    .directory
                    .seen(device)
                    .is_some_and(|day| day < Day(last))
            {
                ended += 1;
                let ending = Arc::clone(&delivery);
                let reply = move |result| {
                    telemetry::counter(Metric::DeliveryRegistrationsExpired, 1);
                    ending.end_session(device, &result);
                };
                if let Err(error) = self.change(device, Change::Unregister, Box::new(reply)) {
                    tracing::error!(%error, "a registration could not be ended");
                }
            }
        }
        self.chores.absence_from = next.unwrap_or(Ordinal(0));
        if next.is_none() {
            self.chores.absence_at = now + ABSENCE_INTERVAL;
        }
    }

    /// Drops a slice of what expired in the queues of devices that do not come; whether there may be more.
    fn expire(&mut self) -> Result<bool, StoreError> {
        let expired = self
            .store
            .expire(self.delivery.now(), EXPIRY_MESSAGES_MAX)?;
        let mut messages = 0;
        for queue in expired {
            count("expire");
            messages += queue.dropped.len().max(1);
            let delivery = Arc::clone(&self.delivery);
            self.after(move || {
                delivery.drop_unicasts(queue.device, &queue.dropped);
                if queue.is_empty {
                    delivery.set_queue(queue.device, false);
                }
            });
        }
        Ok(messages >= EXPIRY_MESSAGES_MAX)
    }

    /// Opens or closes the gate.
    fn look_at_room(&mut self) {
        let settings = &self.delivery.settings;
        let mut used: HashMap<ProjectId, u64> = self.store.queued_bytes().into_iter().collect();
        for broadcast in self.delivery.broadcasts.all() {
            *used.entry(broadcast.message.project).or_default() += broadcast.bytes();
        }
        let DiskUse { occupied, free } = self.store.disk_use();
        telemetry::gauge(Metric::StoreDiskBytes, occupied);
        let room = Room {
            free,
            reserve: settings.disk_reserve,
            used,
        };
        let (closed, over) = room.judge(|project| self.delivery.limits_of(project).bytes_max);
        telemetry::gauge(Metric::StoreDiskFreeBytes, free.unwrap_or(0));
        self.delivery.gate.set_over(over);
        if self.retry_at.is_some() {
            return;
        }
        let before = self.delivery.gate.closed();
        if before != closed {
            match closed {
                Some(_) => tracing::error!(
                    free,
                    reserve = room.reserve,
                    "the disk is nearly full: publishers are refused until there is room; devices go on"
                ),
                None => tracing::info!("publishers are let in again"),
            }
        }
        let is_full = closed == Some(Closed::DiskFull);
        telemetry::gauge(Metric::StoreDiskFull, u64::from(is_full));
        self.delivery.gate.set_closed(closed);
    }

    /// Writes settled sets behind, lets go of broadcasts that are settled for everybody, worthless or too old by now.
    fn look_at_broadcasts(&mut self) -> Result<(), StoreError> {
        let delivery = Arc::clone(&self.delivery);
        let now = delivery.now();
        for broadcast in delivery.broadcasts.all() {
            let id = broadcast.message.id;
            let stage = broadcast.stage();
            if stage == Stage::Uncommitted {
                continue;
            }
            let is_worthless = broadcast.message.last_deadline() <= now;
            if is_worthless && stage == Stage::Live {
                let owed = broadcast.owed_set();
                let settled = broadcast.settle_all(&owed);
                delivery.ledger.drop(DropReason::Expired, settled);
                broadcast.tally.drop(DropReason::Expired, settled);
            }
            let is_over = is_worthless || broadcast.owed().is_empty();
            if is_over {
                self.save_broadcast_history(&broadcast)?;
                self.store.remove_broadcast(id)?;
                count("trim");
                delivery.broadcasts.unlog(&broadcast);
                delivery.broadcasts.remove(id);
                continue;
            }
            if stage == Stage::Live && self.is_too_old(&broadcast, now) {
                self.store.trim(id)?;
                count("trim");
                delivery.broadcasts.unlog(&broadcast);
                let delivery = Arc::clone(&delivery);
                self.after(move || trimmed(&delivery, id));
            }
            let is_dirty = broadcast.take_dirty();
            if is_dirty {
                self.store.save_settled(id, broadcast.owed().settled())?;
                count("settle");
            }
            if is_dirty || broadcast.tally.is_new() {
                self.save_broadcast_history(&broadcast)?;
            }
        }
        // Every settled set is in this commit.
        self.store.forget_told()
    }

    fn is_too_old(&self, broadcast: &Broadcast, now: UnixMillis) -> bool {
        let age_max = self.delivery.settings.log.age_max;
        broadcast.message.accepted_at.after(age_max) <= now
    }
}
