//! The books: every delivery that was accepted is settled once or still owed.
//!
//! `owed at start + accepted = settled + owed now`, counted per delivery. `owed now` is not derived from the other
//! counts but from what is there: queues, broadcasts and what is in flight without being stored. A test checks the sum
//! after every scenario, `/metrics` shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use petrel_core::DropReason;

use crate::telemetry::{self, Metric};

/// Counts of deliveries.
#[derive(Default)]
pub struct Ledger {
    owed_at_start: AtomicU64,
    accepted: AtomicU64,
    acked: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    /// Accepted, nowhere stored, neither acked nor dropped yet: messages that go now or never.
    transient: AtomicU64,
}

/// A snapshot of the books.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Balance {
    /// Deliveries owed when the broker started.
    pub owed_at_start: u64,
    /// Deliveries accepted since.
    pub accepted: u64,
    /// Deliveries settled since, acked or dropped.
    pub settled: u64,
    /// Deliveries owed now, as counted where they are.
    pub owed: u64,
}

impl Balance {
    /// Whether the books balance. True at rest; a snapshot under load may catch a delivery between two counts.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.owed_at_start + self.accepted == self.settled + self.owed
    }
}

impl Ledger {
    pub(super) fn start(&self, owed: u64) {
        self.owed_at_start.store(owed, Ordering::Relaxed);
        telemetry::gauge(Metric::DeliveryOwedAtStart, owed);
    }

    pub(super) fn accept(&self, deliveries: u64) {
        self.accepted.fetch_add(deliveries, Ordering::Relaxed);
        telemetry::counter(Metric::DeliveryAccepted, deliveries);
    }

    pub(super) fn ack(&self, deliveries: u64) {
        self.acked.fetch_add(deliveries, Ordering::Relaxed);
        telemetry::counter_with(Metric::DeliverySettled, "acked", deliveries);
    }

    pub(super) fn drop(&self, reason: DropReason, deliveries: u64) {
        if deliveries > 0 {
            self.dropped[reason.index()].fetch_add(deliveries, Ordering::Relaxed);
            telemetry::counter_with(Metric::DeliverySettled, reason.as_str(), deliveries);
        }
    }

    pub(super) fn begin_transient(&self, deliveries: u64) {
        self.accept(deliveries);
        self.transient.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// A transient delivery was acked.
    pub(super) fn ack_transient(&self) {
        self.transient.fetch_sub(1, Ordering::Relaxed);
        self.ack(1);
    }

    /// Transient deliveries will never happen.
    pub(super) fn drop_transient(&self, deliveries: u64) {
        self.transient.fetch_sub(deliveries, Ordering::Relaxed);
        self.drop(DropReason::Expired, deliveries);
    }

    /// How many deliveries had this end.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()].load(Ordering::Relaxed)
    }

    /// The books, with what queues and broadcasts owe counted by the caller.
    pub(super) fn balance(&self, stored: u64) -> Balance {
        let dropped: u64 = self.dropped.iter().map(|d| d.load(Ordering::Relaxed)).sum();
        Balance {
            owed_at_start: self.owed_at_start.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            settled: self.acked.load(Ordering::Relaxed) + dropped,
            owed: stored + self.transient.load(Ordering::Relaxed),
        }
    }
}
