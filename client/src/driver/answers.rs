//! Sends the app's requests on an open session, and takes the broker's answers into the registration.

use petrel_protocol::session::RequestId;
use petrel_protocol::wire::{self, to_broker};

use super::link::{Link, OUT_BYTES_MAX};
use super::requests::Key;
use super::shared::Outbox;
use super::{Driver, End, unregistered};
use crate::error::RequestError;
use crate::inbox::Inbox;
use crate::registration::Membership;

impl Driver {
    pub(super) fn send_requests(&mut self, link: &mut Link) {
        while link.out.len() < OUT_BYTES_MAX
            && let Some(key) = self.requests.next()
        {
            let registration = &self.registration;
            let id = link.session.request(|request| match &key {
                Key::Subscribe(topic) => to_broker::Frame::Subscribe(wire::Subscribe {
                    request,
                    topic: topic.clone(),
                }),
                Key::Unsubscribe(topic) => to_broker::Frame::Unsubscribe(wire::Unsubscribe {
                    request,
                    topic: topic.clone(),
                }),
                Key::SetAttributes => self
                    .attributes
                    .clone()
                    .unwrap_or_default()
                    .to_frame(request),
                Key::Rotate => {
                    let secret = registration.next_secret.as_ref();
                    to_broker::Frame::Rotate(wire::Rotate {
                        request,
                        secret: secret.unwrap_or(&registration.secret).to_wire(),
                    })
                }
                Key::Unregister => to_broker::Frame::Unregister(wire::Unregister { request }),
            });
            if key == Key::SetAttributes {
                self.attributes_sent = self.attributes.clone();
            }
            self.requests.sent(id, key);
            link.collect();
        }
    }

    /// An answer of the broker: the wish is fulfilled, given up, or stays for the next session.
    pub(super) async fn answered(
        &mut self,
        id: RequestId,
        answer: Result<(), (u32, String)>,
    ) -> Result<(), End> {
        let Some(key) = self.requests.answered(id) else {
            return Ok(());
        };
        let answer = answer.map_err(|(number, message)| RequestError::Refused { number, message });
        let given_up = matches!(&answer, Err(error) if !error.is_retryable());
        let before = self.registration.clone();
        let registration = &mut self.registration;
        match &key {
            Key::Subscribe(topic) => {
                // Unless the app wants to leave meanwhile.
                if let Some(membership) = registration.topics.get_mut(topic)
                    && *membership != Membership::Leaving
                {
                    if answer.is_ok() {
                        *membership = Membership::Joined;
                    } else if given_up {
                        registration.topics.remove(topic);
                    }
                }
            }
            Key::Unsubscribe(topic) => {
                if (answer.is_ok() || given_up)
                    && registration.topics.get(topic) == Some(&Membership::Leaving)
                {
                    registration.topics.remove(topic);
                }
            }
            Key::SetAttributes => {
                if answer.is_ok() {
                    registration.attributes = self.attributes_sent.take();
                } else if given_up {
                    self.attributes = registration.attributes.clone();
                }
            }
            Key::Rotate => {
                let next = registration
                    .next_secret
                    .take_if(|_| answer.is_ok() || given_up);
                if let Some(secret) = next.filter(|_| answer.is_ok()) {
                    registration.secret = secret;
                }
            }
            Key::Unregister if answer.is_ok() => return Err(self.unregistered().await),
            Key::Unregister => {}
        }
        if self.registration != before {
            self.store().await?;
        }
        self.requests.resolve(&key, &answer);
        Ok(())
    }

    /// PROTO-25: the token is dead; so is everything kept for it.
    pub(super) async fn unregistered(&mut self) -> End {
        let forgotten = self.on_storage(Inbox::forget).await;
        self.shared.set_token(None);
        self.registration.token = None;
        self.outbox = Outbox::default();
        let answer = forgotten.map_err(|e| RequestError::Storage(e.to_string()));
        self.requests.resolve(&Key::Unregister, &answer);
        End::failed(unregistered())
    }
}
