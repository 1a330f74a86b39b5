//! A look inside a shard, for tests that want to know whether everything was given back.

use super::{ShardCore, connection::Life};

/// What a shard holds and what it still has to do, beside [`Stats`](crate::Stats).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inside {
    /// Slots taken, by whatever connection.
    pub slots_taken: usize,
    /// Connections that the handshake engine knows.
    pub in_first_life: usize,
    /// Connections that the resident engine serves.
    pub residents: usize,
    /// Connection IDs and reset tokens by which resident connections are found.
    pub routes: usize,
    /// Events and answers that nobody has taken yet, and connections that wait for their turn.
    pub waiting: usize,
    /// Something is to be done at a certain time.
    pub has_timer: bool,
}

impl ShardCore {
    /// Counts anew, in time that grows with the number of slots.
    #[must_use]
    pub fn inside(&self) -> Inside {
        let slots = 0..u32::try_from(self.conns.capacity()).unwrap_or(u32::MAX);
        let residents = slots
            .filter_map(|slot| self.conns.at(slot))
            .filter(|conn| matches!(conn.life, Life::Resident(_)))
            .count();
        Inside {
            slots_taken: self.conns.len(),
            in_first_life: self.endpoint.open_connections(),
            residents,
            routes: self.routes.len(),
            waiting: self.events.len() + self.replies.len() + self.ready.len() + self.sending.len(),
            has_timer: self.poll_timeout().is_some(),
        }
    }
    /// Key updates of resident connections, whoever began them.
    #[must_use]
    pub fn key_updates(&self) -> u64 {
        self.residents.counts.key_updates
    }
}
