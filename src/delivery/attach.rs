//! Attaching, scanning, acks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use petrel_core::{DropReason, Happening, Route};
use petrel_protocol::wire::{self, to_device};
use petrel_protocol::{ErrorCode, MessageId, Ordinal, Urgency, codec};

use super::Delivery;
use super::broadcasts::{Broadcast, Stage};
use super::command::{Batch, Command, Item};
use super::operation::Operation;
use super::pending::{Acked, Phase};
use crate::directory::Device;
use crate::presence::Place;
use crate::store::{GAP_BIT, GapRecord, Queued, Scan, ScanTerms};
use crate::telemetry::{self, Metric};

/// The store takes no more operations now: try again next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// What a session asks a scan for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wants {
    /// Who.
    pub device: Device,
    /// Messages below are held back.
    pub minimum_urgency: Urgency,
    /// Most things to find.
    pub limit: usize,
}

impl Delivery {
    /// Attaches a device. A session that it had elsewhere is told that it was replaced.
    pub fn attach(&self, device: Ordinal, place: Place) {
        self.saw(device);
        let old = self.presence.attach(device, place);
        if let Some(old) = old.filter(|old| *old != place)
            && let Some(mailbox) = self.mailboxes.get(usize::from(old.shard.0))
        {
            // At most one for each session.
            mailbox.push_bounded_elsewhere(Command::End {
                conn: old.conn,
                code: ErrorCode::Replaced,
            });
        }
    }

    /// Detaches a device, if that session still has it.
    pub fn detach(&self, device: Ordinal, place: Place) {
        self.saw(device);
        self.presence.detach(device, place);
    }

    /// The cursor of a device: everything up to here is settled for it. Zero while anything is owed to it, because a
    /// cursor is a hint and nothing is promised that may not be so (PROTO-33).
    #[must_use]
    pub fn settled_up_to(&self, device: Ordinal) -> MessageId {
        let next = self.sequence.peek();
        let owes_nothing = self.pending.of(device).is_empty()
            && !self.has_queue(device)
            && self.broadcasts.owed_to(device).is_empty();
        if owes_nothing {
            MessageId {
                sequence: next.sequence.saturating_sub(1),
                ..next
            }
        } else {
            MessageId::ZERO
        }
    }

    /// Finds what a device is owed. At once where nothing of it is stored; else the answer comes as
    /// [`Command::Scanned`].
    ///
    /// # Errors
    /// [`Busy`] when the store takes no more operations.
    pub fn scan(self: &Arc<Self>, wants: Wants, place: Place) -> Result<Option<Batch>, Busy> {
        let device = wants.device.ordinal;
        // Pending first, then the queue: a message moves from the one to the other, never back.
        let pending = self.pending_items(wants);
        if !self.has_queue(device) && !self.is_owed_a_gap(device) {
            return Ok(Some(self.merge(wants, pending, Scan::empty())));
        }
        let slot = self.operations.try_reserve().map_err(|_| Busy)?;
        let delivery = Arc::clone(self);
        let terms = ScanTerms {
            platform: wants.device.platform,
            minimum_urgency: wants.minimum_urgency,
            limit: wants.limit,
            now: self.now(),
        };
        slot.send(Operation::Scan {
            device,
            terms,
            reply: Box::new(move |scan| {
                let batch = scan.map(|scan| {
                    // Read again: the committer's thread is the one that moves messages from pending to the queue.
                    let pending = delivery.pending_items(wants);
                    delivery.merge(wants, pending, scan)
                });
                if let Some(mailbox) = delivery.mailboxes.get(usize::from(place.shard.0)) {
                    // At most one for each session.
                    mailbox.push_bounded_elsewhere(Command::Scanned {
                        conn: place.conn,
                        device,
                        batch,
                    });
                }
            }),
        });
        Ok(None)
    }

    fn pending_items(&self, wants: Wants) -> Vec<Item> {
        let platform = wants.device.platform;
        let now = self.now();
        self.pending
            .of(wants.device.ordinal)
            .into_iter()
            .filter(|p| matches!(p.phase(), Phase::Open | Phase::Storing))
            .filter(|p| {
                let options = p.message.options(platform);
                options.urgency >= wants.minimum_urgency && options.deadline > now
            })
            .map(|p| Item {
                id: p.message.id,
                route: Route::Queue,
                frame: p.message.frame(platform),
            })
            .collect()
    }

    fn merge(&self, wants: Wants, mut items: Vec<Item>, scan: Scan) -> Batch {
        let platform = wants.device.platform;
        let queued = scan.found.into_iter().map(|queued| match queued {
            Queued::Message(message) => Item {
                id: message.id,
                route: Route::Queue,
                frame: message.frame(platform),
            },
            Queued::Gap(id, gap) => Item {
                id,
                route: Route::Gap,
                frame: gap_frame(id, &gap),
            },
        });
        items.extend(queued);
        items.extend(self.broadcast_items(wants));
        items.sort_by_key(|item| item.id);
        // A message can be found both pending and queued while its commit is under way.
        items.dedup_by_key(|item| item.id);
        let is_complete = scan.is_complete && items.len() <= wants.limit;
        items.truncate(wants.limit);
        Batch { items, is_complete }
    }

    fn broadcast_items(&self, wants: Wants) -> Vec<Item> {
        let device = wants.device;
        let now = self.now();
        let mut items = Vec::new();
        for broadcast in self.broadcasts.owed_to(device.ordinal) {
            let message = &broadcast.message;
            if broadcast.stage() == Stage::Trimmed {
                // The committer puts a gap into the queue for those.
            } else if message.is_expired(device.platform, now) {
                self.settle_broadcast(&broadcast, device.ordinal, Some(DropReason::Expired));
            } else if message.options(device.platform).urgency >= wants.minimum_urgency {
                items.push(Item {
                    id: message.id,
                    route: Route::Broadcast,
                    frame: message.frame(device.platform),
                });
            }
        }
        items
    }

    /// Whether logs let go of something that a device is owed, so that a gap is to be told.
    fn is_owed_a_gap(&self, device: Ordinal) -> bool {
        let owed = self.broadcasts.owed_to(device);
        owed.iter().any(|b| b.stage() == Stage::Trimmed)
    }

    pub(super) fn settle_broadcast(
        &self,
        broadcast: &Broadcast,
        device: Ordinal,
        dropped: Option<DropReason>,
    ) -> bool {
        let (was_owed, stage) = broadcast.settle_at(device);
        if was_owed && stage == Stage::Live {
            match dropped {
                None => {
                    self.ledger.ack(1);
                    broadcast.tally.ack(|| self.now());
                }
                Some(reason) => {
                    self.ledger.drop(reason, 1);
                    broadcast.tally.drop(reason, 1);
                }
            }
        }
        was_owed
    }

    /// A walk found that a broadcast is worthless for a device by now.
    pub fn expire_for(&self, broadcast: &Broadcast, device: Ordinal) {
        self.settle_broadcast(broadcast, device, Some(DropReason::Expired));
    }

    /// A device acks. It counts whichever session brings it (PROTO-24); `route` is known where it was in flight there.
    ///
    /// # Errors
    /// [`Busy`] when the store takes no more operations: bring the ack again.
    pub fn ack(&self, device: Ordinal, id: MessageId, route: Option<Route>) -> Result<(), Busy> {
        if let Some(route) = route.filter(|route| route.is_transient()) {
            self.ledger.ack_transient();
            if route == Route::Transient {
                self.note(device, id, Happening::Acked);
            }
            return Ok(());
        }
        if id.sequence & GAP_BIT != 0 {
            // A repeat or made up where nothing of this device is stored.
            return if self.has_queue(device) {
                self.settle_stored(device, id)
            } else {
                Ok(())
            };
        }
        if let Some(broadcast) = self.broadcasts.find(id) {
            if broadcast.stage() != Stage::Uncommitted {
                self.settle_broadcast(&broadcast, device, None);
            }
            return Ok(());
        }
        match self.pending.ack(device, id) {
            Acked::Elided => {
                self.ledger.accept(1);
                self.ledger.ack(1);
                self.note(device, id, Happening::Acked);
                telemetry::counter(Metric::DeliveryElided, 1);
                Ok(())
            }
            Acked::Storing => self.settle_stored(device, id),
            Acked::Unknown if self.has_queue(device) => self.settle_stored(device, id),
            // Nothing of this device is stored: a repeat, or made up. It changes nothing.
            Acked::Unknown => Ok(()),
        }
    }

    fn settle_stored(&self, device: Ordinal, id: MessageId) -> Result<(), Busy> {
        self.operations
            .try_send(Operation::Settle { device, id })
            .map_err(|_| Busy)
    }

    /// A shard has walked a broadcast and sent it to so many. The last shard settles what a now-or-never one leaves.
    pub fn walked(&self, broadcast: &Broadcast, sent: u64) {
        telemetry::counter(Metric::FanoutWalks, 1);
        if broadcast.is_transient()
            && let Some(sent) = broadcast.end_walk(sent)
        {
            let left = broadcast.owed().targeted().len().saturating_sub(sent);
            self.ledger.drop_transient(left);
        }
    }

    pub(super) fn stored_changed(&self, queued_messages: u64) {
        self.stored.store(queued_messages, Ordering::Release);
    }
}

impl Scan {
    fn empty() -> Self {
        Self {
            is_complete: true,
            ..Self::default()
        }
    }
}

fn gap_frame(id: MessageId, gap: &GapRecord) -> bytes::Bytes {
    codec::encode_to_device(to_device::Frame::Gap(wire::Gap {
        id: Some(id.into()),
        topic: gap.topic.clone(),
        count: gap.counts.values().sum(),
        reasons: gap.counts.clone(),
    }))
}
