//! What a shard says of itself, a few times a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use petrel_quic::{ShardCore, Stats};

use super::Shard;

const INTERVAL: Duration = Duration::from_millis(250);

/// Sizes and counts of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    /// Sessions, those not admitted yet included.
    pub sessions: u64,
    /// Bytes that sessions hold: their records, what is in flight, what could not be sent yet.
    pub session_bytes: u64,
    /// Of the connections below.
    pub quic: Stats,
    taken_at: Option<Instant>,
}

impl ShardStats {
    /// Adds those of another shard.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.session_bytes += other.session_bytes;
        self.quic += other.quic;
    }
}

/// Where a shard leaves its statistics.
#[derive(Clone, Debug, Default)]
pub struct SharedStats(Arc<Mutex<ShardStats>>);

impl SharedStats {
    /// The newest.
    #[must_use]
    pub fn read(&self) -> ShardStats {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Shard {
    pub(super) fn publish_stats(&mut self, core: &ShardCore, now: Instant) {
        let shared = Arc::clone(&self.stats.0);
        let mut stats = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let due = stats.taken_at.map_or(now, |at| at + INTERVAL);
        if due > now {
            self.stats_at = Some(due);
        } else {
            self.stats_at = None;
            let records = self.sessions.capacity() * size_of::<usize>()
                + self.session_count * size_of::<super::session::Session>();
            *stats = ShardStats {
                sessions: self.session_count as u64,
                session_bytes: (records + self.unsent_bytes) as u64,
                quic: core.stats(),
                taken_at: Some(now),
            };
        }
    }
}
