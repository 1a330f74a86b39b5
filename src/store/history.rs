//! What became of messages, as a store keeps it. It explains; nothing is delivered by it.

use std::time::Duration;

use petrel_core::{DropReason, Event, Timeline, UnixMillis};
use petrel_protocol::{MessageId, Ordinal, ProjectId};

use super::StoreError;

/// Bounds of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryLimits {
    /// How long an event is kept after it was written.
    pub age_max: Duration,
    /// Most bytes of keys and values; what was written first goes first.
    pub bytes_max: u64,
}

/// What became of a broadcast, in counts. Nothing is kept for each device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BroadcastHistory {
    /// The message.
    pub id: MessageId,
    /// Whose it is.
    pub project: ProjectId,
    /// The topic; empty where it was not sent to one.
    pub topic: String,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
    /// When it was first seen durable, to half a second.
    pub committed_at: UnixMillis,
    /// How many devices it was for.
    pub targeted: u64,
    /// How many have it.
    pub acked: u64,
    /// How many will never get it, by [`DropReason::index`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// When the first and the last ack so far came, the last to half a second.
    pub acks: Option<(UnixMillis, UnixMillis)>,
}

/// The part of a [`Store`](super::Store) that keeps the history.
///
/// # Errors
/// As [`Store`](super::Store).
pub trait HistoryStore: Send {
    /// Stages events, in any order, but those of one message and device in the order in which they happened. Takes them
    /// out of `events` until that is empty or so many keys are staged; call it again for the rest.
    fn record_history(
        &mut self,
        events: &mut Vec<Event>,
        now: UnixMillis,
        keys_max: usize,
    ) -> Result<(), StoreError>;

    /// Stages what is known of a broadcast, in place of what was.
    fn record_broadcast(&mut self, history: &BroadcastHistory) -> Result<(), StoreError>;

    /// What is known of a broadcast.
    fn history_of_broadcast(&self, id: MessageId) -> Result<Option<BroadcastHistory>, StoreError>;

    /// Erases the history of devices that are gone, then what is beyond the bounds, until about so many keys were looked
    /// at; whether there may be more to do. A broadcast that its log still holds stays.
    fn trim_history(
        &mut self,
        now: UnixMillis,
        limits: HistoryLimits,
        keys_max: usize,
    ) -> Result<bool, StoreError>;

    /// What is known of one message for one device.
    fn history_of(&self, device: Ordinal, id: MessageId) -> Result<Option<Timeline>, StoreError>;

    /// What is known of a device's messages with ids below `before`, newest first, at most so many.
    fn history_of_device(
        &self,
        device: Ordinal,
        before: MessageId,
        limit: usize,
    ) -> Result<Vec<Timeline>, StoreError>;
}
