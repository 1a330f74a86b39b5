//! What waits for the store.

use std::sync::Arc;

use petrel_core::Timeline;
use petrel_protocol::session::Attributes;
use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};
use tokio::sync::oneshot;

use super::broadcasts::Broadcast;
use super::command::Refusal;
use super::pending::Pending;
use crate::store::{NewRegistration, Registration, Scan, ScanTerms, SecretHash, Store};

type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// What is asked of the owner of the store.
type Ask = Box<dyn FnOnce(&mut dyn Store) + Send>;

/// One operation on the store. Replies run on the committer's thread: they must not block.
pub enum Operation {
    /// Queue a unicast, unless it is settled by then.
    Enqueue(Arc<Pending>),
    /// An ack came for what is stored.
    Settle {
        /// Whose.
        device: Ordinal,
        /// What.
        id: MessageId,
    },
    /// Log a broadcast.
    Append {
        /// Which.
        broadcast: Arc<Broadcast>,
        /// Called once it is durable.
        reply: Reply<()>,
    },
    /// Read a device's queue, after everything that waits before this.
    Scan {
        /// Whose.
        device: Ordinal,
        /// What it wants.
        terms: ScanTerms,
        /// Called at once; `None` if the store failed.
        reply: Reply<Option<Scan>>,
    },
    /// Make a registration.
    Register {
        /// Of whom.
        new: Box<NewRegistration>,
        /// Called once it is durable.
        reply: Reply<Result<Registration, Refusal>>,
    },
    /// Change a registration.
    Change {
        /// Whose.
        device: Ordinal,
        /// How.
        change: Change,
        /// Called once it is durable.
        reply: Reply<Result<(), Refusal>>,
    },
    /// Something that only the owner of the store can do, such as a step of a backup. It must be short.
    Ask(Ask),
    /// Read what became of a device's messages.
    History {
        /// Whose.
        device: Ordinal,
        /// Only messages with ids below.
        before: MessageId,
        /// Most messages.
        limit: usize,
        /// Called at once, newest first; `None` if the store failed.
        reply: Reply<Option<Vec<Timeline>>>,
    },
    /// Everything before this is durable when the other end hears.
    Flush(oneshot::Sender<()>),
    /// End the committer after one more commit.
    Stop,
}

/// A change of a registration.
pub enum Change {
    /// A new secret.
    Rotate(SecretHash),
    /// New attributes.
    SetAttributes(Box<Attributes>),
    /// One more topic.
    Subscribe(ProjectId, TopicName),
    /// One topic less.
    Unsubscribe(ProjectId, TopicName),
    /// The end of it.
    Unregister,
}
