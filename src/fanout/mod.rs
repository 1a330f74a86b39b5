//! From one publish to many devices.
//!
//! What it is: the [`Publisher`], through which every dialect of the API publishes, and the [`Sequencer`], which puts
//! walks of broadcasts into every shard's mailbox in the order of their ids.
//!
//! What it never does: decide who is owed what (that is `delivery`), or send (that is `shard`).

mod sequencer;

use std::sync::Arc;

use petrel_core::Draft;
use petrel_protocol::{MessageId, ProjectId};

pub use self::sequencer::{SHARD_WALKS_MAX, Sequencer, WALKS_WAITING_MAX};
use crate::delivery::{Delivery, DeviceHistory, PublishError, Target};

/// Publishes to one device or to many.
pub struct Publisher {
    delivery: Arc<Delivery>,
    sequencer: Arc<Sequencer>,
}

impl Publisher {
    /// Publishes through these two.
    #[must_use]
    pub fn new(delivery: Arc<Delivery>, sequencer: Arc<Sequencer>) -> Self {
        Self {
            delivery,
            sequencer,
        }
    }

    /// Publishes a message; returns once it cannot be lost any more, or was now-or-never and its moment is over.
    ///
    /// # Errors
    /// [`PublishError`].
    ///
    /// # Cancel safety
    /// A publish that was begun goes on; one that waits for room is forgotten.
    pub async fn publish(
        &self,
        project: ProjectId,
        target: Target,
        draft: Draft,
    ) -> Result<MessageId, PublishError> {
        let timeout = self.delivery.settings().publish_timeout;
        let publish = async {
            match target {
                Target::Token(token) => {
                    let device = self.delivery.resolve(project, &token)?;
                    self.delivery.publish_to_device(device, draft).await
                }
                Target::Topic(topic) => {
                    let sequencer = Arc::clone(&self.sequencer);
                    let room = sequencer.room().ok_or(PublishError::OVERLOADED)?;
                    let walk = move |broadcast| sequencer.walk(broadcast, room);
                    self.delivery
                        .publish_to_many(project, topic, draft, walk)
                        .await
                }
            }
        };
        match tokio::time::timeout(timeout, publish).await {
            Ok(published) => published,
            Err(_) => Err(PublishError::TimedOut),
        }
    }

    /// Ends the registration of a token and erases what belongs to it; returns once that is durable.
    ///
    /// # Errors
    /// [`PublishError`], as for a publish to the token.
    ///
    /// # Cancel safety
    /// One that was begun goes on.
    pub async fn erase(&self, project: ProjectId, token: &str) -> Result<(), PublishError> {
        let timeout = self.delivery.settings().publish_timeout;
        let erased = tokio::time::timeout(timeout, self.delivery.erase(project, token)).await;
        erased.unwrap_or(Err(PublishError::TimedOut))
    }

    /// What became of the messages of a token with ids below `before`, newest first, at most so many.
    ///
    /// # Errors
    /// [`PublishError`], as for a publish to the token.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn history(
        &self,
        project: ProjectId,
        token: &str,
        before: MessageId,
        limit: usize,
    ) -> Result<DeviceHistory, PublishError> {
        let timeout = self.delivery.settings().publish_timeout;
        let history = self.delivery.history(project, token, before, limit);
        let read = tokio::time::timeout(timeout, history).await;
        read.unwrap_or(Err(PublishError::Overloaded {
            retry_after: timeout,
        }))
    }
}
