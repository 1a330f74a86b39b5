//! What all actors share.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Endpoint;
use tokio::sync::{Notify, watch};

use crate::book::Book;
use crate::chance::Chance;

/// A broker between its start and its kill.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) number: usize,
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
}

/// What publishers and devices are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    /// Everything, at a steady pace.
    Steady,
    /// Broadcasts only, as fast as they can.
    Burst,
    /// No more publishes for a while; devices go on.
    Rest,
    /// No more publishes; each device attaches, stays until it is quiet, and leaves.
    Finish,
}

/// What all actors share.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) project: String,
    pub(crate) api_key: String,
    pub(crate) app_key: String,
    pub(crate) ca: PathBuf,
    pub(crate) endpoint: Endpoint,
    pub(crate) life: watch::Sender<Option<Life>>,
    pub(crate) mood: watch::Sender<Mood>,
    /// Told of each publish that was answered with 200.
    pub(crate) accepted: Notify,
    /// Devices that are quiet, in this round of [`Mood::Finish`].
    pub(crate) quiet: watch::Sender<BTreeSet<u64>>,
    book: Mutex<Book>,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        endpoint: Endpoint,
        (project, api_key, app_key): (String, String, String),
        ca: PathBuf,
    ) -> Arc<Self> {
        Arc::new(Self {
            seed,
            project,
            api_key,
            app_key,
            ca,
            endpoint,
            life: watch::Sender::new(None),
            mood: watch::Sender::new(Mood::Steady),
            accepted: Notify::new(),
            quiet: watch::Sender::new(BTreeSet::new()),
            book: Mutex::new(Book::new()),
        })
    }

    /// Everything that is known. Never held over an await.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn chance(&self, actor: u64) -> Chance {
        Chance::of(self.seed, actor)
    }

    pub(crate) fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    /// Waits for a broker that runs and is not `last`.
    pub(crate) async fn living(&self, last: usize) -> Life {
        let mut life = self.life.subscribe();
        let is_new = |life: &Option<Life>| life.as_ref().is_some_and(|life| life.number != last);
        let found = life.wait_for(is_new).await.unwrap();
        found.clone().unwrap()
    }

    /// Does something as long as a broker lives; `None` if that was too short.
    pub(crate) async fn while_alive<T>(
        &self,
        life: &Life,
        act: impl Future<Output = T>,
    ) -> Option<T> {
        let mut now = self.life.subscribe();
        let is_over = |now: &Option<Life>| now.as_ref().is_none_or(|l| l.number != life.number);
        tokio::select! {
            biased;
            _ = now.wait_for(is_over) => None,
            done = act => Some(done),
        }
    }
}
