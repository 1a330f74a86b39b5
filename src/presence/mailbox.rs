//! How other threads reach a shard.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use petrel_protocol::Ordinal;
use roaring::RoaringBitmap;

/// The mailbox took no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the shard's mailbox is full")]
pub struct MailboxFull;

/// What a mailbox has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MailboxStats {
    /// Commands waiting.
    pub depth: usize,
    /// Nudges since the start.
    pub nudges: u64,
}

struct Inner<C> {
    commands: VecDeque<C>,
    nudged: RoaringBitmap,
    nudges: u64,
    is_awake: bool,
}

/// A bounded queue of commands for one shard, and the set of devices that it should look after by itself.
///
/// When the queue is full a push is refused. A delivery can always become a *nudge* instead, because everything owed is
/// also found by a scan: the set is bounded by the number of devices.
pub struct Mailbox<C> {
    inner: Mutex<Inner<C>>,
    capacity: usize,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<C> Mailbox<C> {
    /// `wake` wakes the shard's loop; it must be cheap and callable from any thread.
    #[must_use]
    pub fn new(capacity: usize, wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                commands: VecDeque::new(),
                nudged: RoaringBitmap::new(),
                nudges: 0,
                is_awake: false,
            }),
            capacity,
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        // Nothing panics while holding the lock, so a poisoned one is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, mut inner: MutexGuard<'_, Inner<C>>) {
        let was_awake = std::mem::replace(&mut inner.is_awake, true);
        drop(inner);
        if !was_awake {
            (self.wake)();
        }
    }

    /// Adds a command.
    ///
    /// # Errors
    /// [`MailboxFull`] with the command given back.
    pub fn push(&self, command: C) -> Result<(), (MailboxFull, C)> {
        let mut inner = self.lock();
        if inner.commands.len() >= self.capacity {
            return Err((MailboxFull, command));
        }
        inner.commands.push_back(command);
        self.release(inner);
        Ok(())
    }

    /// Adds a command whose number is bounded otherwise: one per session or per request in flight.
    pub fn push_bounded_elsewhere(&self, command: C) {
        let mut inner = self.lock();
        inner.commands.push_back(command);
        self.release(inner);
    }

    /// Asks the shard to scan for what a device is owed.
    pub fn nudge(&self, device: Ordinal) {
        let mut inner = self.lock();
        inner.nudged.insert(device.0);
        inner.nudges += 1;
        self.release(inner);
    }

    /// Takes up to `max` commands, and all nudges. Empty-handed means that the next push wakes the shard.
    pub fn take(&self, max: usize, into: &mut Vec<C>) -> RoaringBitmap {
        let mut inner = self.lock();
        let count = inner.commands.len().min(max);
        into.extend(inner.commands.drain(..count));
        if inner.commands.is_empty() {
            inner.is_awake = false;
        }
        std::mem::take(&mut inner.nudged)
    }

    /// For metrics.
    #[must_use]
    pub fn stats(&self) -> MailboxStats {
        let inner = self.lock();
        MailboxStats {
            depth: inner.commands.len(),
            nudges: inner.nudges,
        }
    }
}
