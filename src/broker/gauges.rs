//! Numbers that are read when somebody asks for metrics: gauges, and counters that other rooms keep as totals.

use std::sync::{Arc, Mutex, PoisonError};

use petrel_quic::Stats;
use tokio::sync::Semaphore;

use crate::delivery::Delivery;
use crate::shard::{ShardStats, SharedStats};
use crate::telemetry::{self, Metric};

/// Knows where the numbers are.
pub(super) struct Gauges {
    delivery: Arc<Delivery>,
    shards: Vec<SharedStats>,
    permits: Arc<Semaphore>,
    permits_max: usize,
    reported: Mutex<Reported>,
}

/// What the counters have been told so far.
#[derive(Default)]
struct Reported {
    quic: Stats,
    nudges: u64,
}

impl Gauges {
    pub(super) fn new(
        delivery: Arc<Delivery>,
        shards: Vec<SharedStats>,
        permits: Arc<Semaphore>,
        permits_max: usize,
    ) -> Self {
        Self {
            delivery,
            shards,
            permits,
            permits_max,
            reported: Mutex::default(),
        }
    }

    pub(super) fn refresh(&self) {
        let stats = self.all_shards();
        let quic = stats.quic;
        let mailboxes = self.delivery.mailboxes().iter().map(|m| m.stats());
        let (depth, nudges) = mailboxes.fold((0, 0), |(depth, nudges), m| {
            (depth + m.depth, nudges + m.nudges)
        });
        let (_, directory_bytes) = self.delivery.directory().size();
        let (_, broadcast_bytes) = self.delivery.held();
        let balance = self.delivery.balance();
        let in_use = self.permits_max - self.permits.available_permits();

        telemetry::gauge(Metric::ApiPermitsInUse, in_use as u64);
        telemetry::gauge(Metric::DeliveryOwed, balance.owed);
        telemetry::gauge(Metric::PresenceOnline, self.delivery.presence().online());
        telemetry::gauge(
            Metric::StoreQueueDepth,
            self.delivery.operations_waiting() as u64,
        );
        telemetry::gauge(Metric::ShardSessions, stats.sessions);
        telemetry::gauge(Metric::ShardSessionBytes, stats.session_bytes);
        telemetry::gauge(Metric::ShardMailboxDepth, depth as u64);
        let connections = quic.connections + quic.handshakes;
        telemetry::gauge(Metric::QuicConnections, u64::from(connections));
        telemetry::gauge_with(Metric::MemoryBytes, "sessions", stats.session_bytes);
        telemetry::gauge_with(Metric::MemoryBytes, "broadcasts", broadcast_bytes);
        telemetry::gauge_with(Metric::MemoryBytes, "directory", directory_bytes);
        let held = quic.remainder_bytes + quic.event_bytes + quic.reply_bytes;
        telemetry::gauge_with(Metric::MemoryBytes, "connections", quic.memory_bytes + held);
        telemetry::gauge(Metric::QuicResidents, u64::from(quic.residents));
        self.count(&quic, nudges);
    }

    fn all_shards(&self) -> ShardStats {
        self.shards
            .iter()
            .fold(ShardStats::default(), |mut sum, shard| {
                sum.add(&shard.read());
                sum
            })
    }

    /// Brings the counters up to totals that only grow.
    fn count(&self, quic: &Stats, nudges: u64) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(
            &mut *reported,
            Reported {
                quic: *quic,
                nudges,
            },
        );
        let old = before.quic;
        let handshakes = |outcome, new: u64, old: u64| {
            telemetry::counter_with(Metric::QuicHandshakes, outcome, new - old);
        };
        let completed = quic.handshakes_completed_total;
        handshakes("completed", completed, old.handshakes_completed_total);
        let failed = quic.handshakes_failed_total;
        handshakes("failed", failed, old.handshakes_failed_total);
        handshakes("refused", quic.refused_total, old.refused_total);
        handshakes("retried", quic.retries_total, old.retries_total);
        let received = quic.datagrams_received_total - old.datagrams_received_total;
        let sent = quic.datagrams_sent_total - old.datagrams_sent_total;
        telemetry::counter_with(Metric::QuicDatagrams, "received", received);
        telemetry::counter_with(Metric::QuicDatagrams, "sent", sent);
        telemetry::counter(Metric::QuicResetsSent, quic.resets_total - old.resets_total);
        let handed_over = quic.forwarded_total - old.forwarded_total;
        let dropped = quic.forwards_dropped_total - old.forwards_dropped_total;
        telemetry::counter_with(Metric::QuicForwarded, "handed_over", handed_over);
        telemetry::counter_with(Metric::QuicForwarded, "dropped", dropped);
        let full = quic.sends_blocked_total - old.sends_blocked_total;
        let failed = quic.sends_failed_total - old.sends_failed_total;
        telemetry::counter_with(Metric::QuicSendsRefused, "full", full);
        telemetry::counter_with(Metric::QuicSendsRefused, "failed", failed);
        telemetry::counter(Metric::ShardNudges, nudges - before.nudges);
    }
}
