//! TLS tickets of all devices of the generator, in one bounded pool.
//!
//! A device of its own would keep its own ticket. To the broker, whose tickets are stateless, it is the same whose
//! ticket comes back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Most tickets kept; the oldest goes. More than handshakes are ever in progress at once would not be used.
const TICKETS_MAX: usize = 4096;

/// Takes tickets all the time and gives them out only when resumption is wanted.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    resuming: AtomicBool,
    offered: AtomicU64,
    pool: Mutex<VecDeque<Tls13ClientSessionValue>>,
}

impl Tickets {
    /// From now on handshakes resume, where there is a ticket.
    pub(super) fn resume(&self, resume: bool) {
        self.resuming.store(resume, Ordering::Relaxed);
    }

    /// Whether handshakes resume.
    pub(super) fn is_resuming(&self) -> bool {
        self.resuming.load(Ordering::Relaxed)
    }

    /// Handshakes that offered a ticket so far.
    pub(super) fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    fn pool(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut pool = self.pool();
        if pool.len() == TICKETS_MAX {
            pool.pop_front();
        }
        pool.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if !self.is_resuming() {
            return None;
        }
        let ticket = self.pool().pop_front()?;
        self.offered.fetch_add(1, Ordering::Relaxed);
        Some(ticket)
    }
}
