//! Changes of a registration.

use std::sync::Arc;

use petrel_core::DropReason;
use petrel_protocol::{ErrorCode, Ordinal};

use super::super::command::Refusal;
use super::super::operation::Change;
use super::{Callback, Committer, count, internal};
use crate::store::{StoreError, Subscribed};

impl Committer {
    pub(super) fn change(
        &mut self,
        device: Ordinal,
        change: Change,
        reply: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    ) -> Result<(), StoreError> {
        match self.stage_change(device, change) {
            Ok(Ok(callback)) => {
                self.after(move || {
                    callback();
                    reply(Ok(()));
                });
                Ok(())
            }
            Ok(Err(refusal)) => {
                reply(Err(refusal));
                Ok(())
            }
            Err(error) => {
                reply(Err(internal()));
                Err(error)
            }
        }
    }

    /// Stages a change; what to do once it is durable, or why it is refused.
    fn stage_change(
        &mut self,
        device: Ordinal,
        change: Change,
    ) -> Result<Result<Callback, Refusal>, StoreError> {
        let delivery = Arc::clone(&self.delivery);
        Ok(Ok(match change {
            Change::Rotate(hash) => {
                self.store.rotate(device, hash)?;
                count("register");
                Box::new(move || delivery.directory.rotated(device, &hash))
            }
            Change::SetAttributes(attributes) => {
                self.store.set_attributes(device, &attributes)?;
                count("register");
                Box::new(|| {})
            }
            Change::Subscribe(..) if !self.is_registered(device) => {
                let message = "the registration has ended; register anew";
                return Ok(Err(Refusal::new(ErrorCode::Unregistered, message)));
            }
            Change::Subscribe(project, topic) => {
                let most = delivery.settings.topics_max;
                match self.store.subscribe(device, project, &topic, most)? {
                    Subscribed::Done(id) => {
                        count("subscribe");
                        Box::new(move || delivery.directory.subscribed(id, project, &topic, device))
                    }
                    Subscribed::TooMany => {
                        let message = format!(
                            "a registration may have {most} topics; unsubscribe from one first"
                        );
                        return Ok(Err(Refusal::new(ErrorCode::TooManyTopics, message)));
                    }
                }
            }
            Change::Unsubscribe(project, topic) => {
                match self.store.unsubscribe(device, project, &topic)? {
                    Some(id) => {
                        count("unsubscribe");
                        Box::new(move || delivery.directory.unsubscribed(id, device))
                    }
                    None => Box::new(|| {}),
                }
            }
            Change::Unregister => {
                let gone = self.store.unregister(device)?;
                self.ending.insert(device.0);
                self.writing.forget(device);
                count("unregister");
                Box::new(move || {
                    delivery.directory.unregistered(device, &gone.topics);
                    delivery.set_queue(device, false);
                    delivery.ledger.drop(DropReason::Unregistered, gone.queued);
                    for broadcast in delivery.broadcasts.all() {
                        let reason = Some(DropReason::Unregistered);
                        delivery.settle_broadcast(&broadcast, device, reason);
                    }
                })
            }
        }))
    }
}
