//! Accepting messages.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use petrel_core::{Address, Draft, DropReason, Happening, Owed, encode_message};
use petrel_protocol::{MessageId, Ordinal, ProjectId, TokenError, TopicName};
use tokio::sync::oneshot;

use super::broadcasts::{Broadcast, Stage};
use super::command::Command;
use super::operation::Operation;
use super::pending::{Outcome, Pending};
use super::{Delivery, durable};
use crate::directory::Device;

/// Whom a publish is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The device of a token, not yet read.
    Token(String),
    /// The subscribers of a topic.
    Topic(TopicName),
}

/// Why a publish was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublishError {
    /// Not a token of this broker.
    #[error("{0}; use the token that the device printed or sent to your server")]
    InvalidToken(#[from] TokenError),
    /// A token of another project.
    #[error("this token belongs to another project; send with an API key of that project")]
    ForeignProject,
    /// The registration has ended.
    #[error("the device is not registered any more; forget this token")]
    Unregistered,
    /// This device's queue is full and its policy is to refuse.
    #[error("the device's queue is full; try again after it has connected")]
    QueueFull,
    /// Too much to do.
    #[error("the broker has too much to do; try again after {} s", retry_after.as_secs())]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// Shutting down.
    #[error("the broker is shutting down; try again after {} s", retry_after.as_secs())]
    Draining {
        /// When to try again.
        retry_after: Duration,
    },
    /// The commit took too long.
    #[error(
        "the store did not answer in time; the message may have been accepted, so a repeat may deliver it twice"
    )]
    TimedOut,
    /// The disk is nearly full, and this project is not among those that still get room.
    #[error(
        "the broker's disk is nearly full; try again after {} s, and have its operator make room",
        retry_after.as_secs()
    )]
    DiskFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// What waits for the project's devices takes as much room as it may.
    #[error(
        "the project has as much waiting for its devices as it may; try again after {} s, or let messages expire sooner",
        retry_after.as_secs()
    )]
    QuotaExceeded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store cannot be written and tries again by itself.
    #[error("the broker's store cannot be written; try again after {} s", retry_after.as_secs())]
    StoreFailing {
        /// When to try again.
        retry_after: Duration,
    },
    /// A fault of the store, logged where it happened.
    #[error("the broker could not store the message; its log says why")]
    Store,
}

impl PublishError {
    /// Too much to do for about a second.
    pub const OVERLOADED: Self = Self::Overloaded {
        retry_after: Duration::from_secs(1),
    };
}

impl Delivery {
    /// Finds the device of a token for a publisher of a project.
    ///
    /// # Errors
    /// [`PublishError`] for a token that is not of this broker, not of this project, or not alive.
    pub fn resolve(&self, project: ProjectId, token: &str) -> Result<Device, PublishError> {
        let unsealed = self.directory.unseal(token)?;
        if unsealed.project != project {
            return Err(PublishError::ForeignProject);
        }
        self.directory
            .device(unsealed.ordinal)
            .filter(|device| device.project == project)
            .ok_or(PublishError::Unregistered)
    }

    /// Publishes to one device; returns once the message cannot be lost any more.
    ///
    /// # Errors
    /// [`PublishError`]. After [`PublishError::TimedOut`] the message may still be delivered.
    ///
    /// # Cancel safety
    /// Cancelled before the message has an id nothing happened; after that it goes on without its publisher.
    pub async fn publish_to_device(
        &self,
        device: Device,
        draft: Draft,
    ) -> Result<MessageId, PublishError> {
        if draft.options.on(device.platform).ttl.is_zero() {
            return self.publish_now_or_never(device, draft).await;
        }
        self.gate.check(device.project)?;
        // Held until the answer: publishers wait here, not for a place that a shard needs for its acks and scans.
        let _room = self.publish_room.acquire().await;
        let place = self.operations.reserve().await;
        let place = place.map_err(|_| PublishError::Store)?;
        let (answer, answered) = oneshot::channel();
        let make = || -> Result<Arc<Pending>, PublishError> {
            let id = self.sequence.take().map_err(|_| PublishError::OVERLOADED)?;
            let address = Address::Device(device.ordinal);
            let message = draft.accept(id, device.project, address, self.now());
            // Before anybody can send it.
            self.note_at(device.ordinal, id, Happening::Accepted, message.accepted_at);
            let is_attached = self.presence.find(device.ordinal).is_some();
            let ack_until = is_attached.then(|| Instant::now() + self.settings.ack_window);
            Ok(Arc::new(Pending::new(
                Arc::new(message),
                device.ordinal,
                device.platform,
                ack_until,
                answer,
            )))
        };
        let (pending, replaced) = self
            .pending
            .insert(device.ordinal, make, |p| self.push(p))?;
        self.ledger.accept(replaced.len() as u64);
        self.drop_unicasts(device.ordinal, &replaced);
        let id = pending.message.id;
        if self.settings.answers_from_memory {
            pending.answer(Outcome::Safe);
        }
        place.send(Operation::Enqueue(pending));
        answer_of(answered.await, id)
    }

    /// Pushes a pending message to the shard where its device is attached, if it is.
    fn push(&self, pending: &Arc<Pending>) {
        // Presence is read after the message became visible among the pending: see the head of this room.
        let Some(place) = self.presence.find(pending.device) else {
            return;
        };
        let Some(mailbox) = self.mailboxes.get(usize::from(place.shard.0)) else {
            return;
        };
        let command = Command::Push {
            conn: place.conn,
            pending: Arc::clone(pending),
        };
        if mailbox.push(command).is_err() {
            mailbox.nudge(pending.device);
        }
    }

    async fn publish_now_or_never(
        &self,
        device: Device,
        draft: Draft,
    ) -> Result<MessageId, PublishError> {
        let id = self.sequence.take().map_err(|_| PublishError::OVERLOADED)?;
        let address = Address::Device(device.ordinal);
        let message = Arc::new(draft.accept(id, device.project, address, self.now()));
        self.ledger.begin_transient(1);
        let accepted_at = message.accepted_at;
        self.note_at(device.ordinal, id, Happening::Accepted, accepted_at);
        let (answer, answered) = oneshot::channel();
        let pending = Pending::new(message, device.ordinal, device.platform, None, answer);
        let pushed = self.presence.find(device.ordinal).and_then(|place| {
            let mailbox = self.mailboxes.get(usize::from(place.shard.0))?;
            let command = Command::Push {
                conn: place.conn,
                pending: Arc::new(pending),
            };
            mailbox.push(command).ok()
        });
        if pushed.is_none() {
            self.drop_transient(device.ordinal, id);
            return Ok(id);
        }
        // The shard answers when it has handed the message over, or could not: both are an answer.
        answer_of(answered.await, id)
    }

    /// The shard could not hand a now-or-never message over: its device is gone, behind or unresponsive.
    pub fn transient_impossible(&self, pending: &Pending) {
        self.drop_transient(pending.device, pending.message.id);
        pending.answer(Outcome::Safe);
    }

    fn drop_transient(&self, device: Ordinal, id: MessageId) {
        self.ledger.drop_transient(1);
        self.note(device, id, Happening::Dropped(DropReason::Expired));
    }

    /// The shard has handed a now-or-never message over.
    pub fn transient_sent(&self, pending: &Pending) {
        pending.answer(Outcome::Safe);
    }

    /// A now-or-never message was in flight when its session ended.
    pub fn transient_lost(&self, deliveries: u64) {
        self.ledger.drop_transient(deliveries);
    }

    /// Publishes to the subscribers of a topic; returns once the message is in its log. `walk` is called with the
    /// broadcast, in the order of ids, when it may go out.
    ///
    /// # Errors
    /// [`PublishError`]. After [`PublishError::TimedOut`] the message may still be delivered.
    ///
    /// # Cancel safety
    /// As [`Delivery::publish_to_device`].
    pub async fn publish_to_many(
        self: &Arc<Self>,
        project: ProjectId,
        topic: TopicName,
        draft: Draft,
        walk: impl FnOnce(Arc<Broadcast>) + Send + 'static,
    ) -> Result<MessageId, PublishError> {
        let is_transient = draft.options.is_now_or_never();
        if !is_transient {
            self.gate.check(project)?;
        }
        let _room = self.publish_room.acquire().await;
        let place = self.operations.reserve().await;
        let place = place.map_err(|_| PublishError::Store)?;
        let (answer, answered) = oneshot::channel();
        let id = {
            let order = self.broadcast_order.lock();
            let _order = order.unwrap_or_else(PoisonError::into_inner);
            let targeted = self.directory.audience(project, &topic);
            let id = self.sequence.take().map_err(|_| PublishError::OVERLOADED)?;
            if targeted.is_empty() {
                return Ok(id);
            }
            let message = draft.accept(id, project, Address::Topic(topic), self.now());
            let stage = if is_transient {
                Stage::Transient
            } else {
                Stage::Uncommitted
            };
            let bytes = encode_message(&message).len() as u64;
            let owed = Owed::new(targeted);
            let broadcast = Arc::new(Broadcast::new(Arc::new(message), bytes, owed, stage));
            if is_transient {
                self.ledger.begin_transient(broadcast.owed().len());
                broadcast.begin_walks(self.mailboxes.len() as u64);
                walk(broadcast);
                return Ok(id);
            }
            self.broadcasts.insert(Arc::clone(&broadcast));
            let mut answer = Some(answer);
            if self.settings.answers_from_memory {
                answer_now(answer.take());
            }
            let delivery = Arc::clone(self);
            let committed = Arc::clone(&broadcast);
            place.send(Operation::Append {
                broadcast,
                reply: Box::new(move |()| {
                    durable::broadcast_committed(&delivery, &committed);
                    walk(committed);
                    answer_now(answer);
                }),
            });
            id
        };
        answer_of(answered.await, id)
    }
}

fn answer_now(answer: Option<oneshot::Sender<Outcome>>) {
    if let Some(answer) = answer {
        // A publisher that no longer listens is answered by nobody's fault.
        let _ = answer.send(Outcome::Safe);
    }
}

fn answer_of(
    answered: Result<Outcome, oneshot::error::RecvError>,
    id: MessageId,
) -> Result<MessageId, PublishError> {
    match answered {
        Ok(Outcome::Safe) => Ok(id),
        Ok(Outcome::Refused) => Err(PublishError::QueueFull),
        Ok(Outcome::Unregistered) => Err(PublishError::Unregistered),
        Ok(Outcome::Unsure) => Err(PublishError::TimedOut),
        Ok(Outcome::Failed) | Err(_) => Err(PublishError::Store),
    }
}
