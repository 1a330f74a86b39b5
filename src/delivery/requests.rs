//! What devices ask for: registering, and changes of a registration.

use std::sync::Arc;

use petrel_protocol::session::{Hello, Register, RequestBody};
use petrel_protocol::{ErrorCode, TokenError};

use super::Delivery;
use super::attach::Busy;
use super::command::{Command, Granted, Refusal};
use super::operation::{Change, Operation};
use crate::directory::{Device, hash_secret};
use crate::presence::Place;
use crate::store::NewRegistration;

impl Delivery {
    /// Looks at a `Hello`: nothing is read from the store.
    ///
    /// # Errors
    /// [`Refusal`] for a token that is not alive here, or a secret that is not its own (PROTO-14, PROTO-18).
    pub fn admit(&self, hello: &Hello) -> Result<Device, Refusal> {
        let unsealed = self.directory.unseal(hello.token.as_str()).map_err(|e| {
            let code = match e {
                TokenError::Malformed | TokenError::Foreign => ErrorCode::InvalidToken,
            };
            Refusal::new(code, e.to_string())
        })?;
        let device = self
            .directory
            .device(unsealed.ordinal)
            .filter(|device| device.project == unsealed.project);
        let Some(device) = device else {
            let message = "the registration of this token has ended; register anew";
            return Err(Refusal::new(ErrorCode::Unregistered, message));
        };
        if !self.directory.is_secret_of(device.ordinal, &hello.secret) {
            let message = "this secret does not belong to this token";
            return Err(Refusal::new(ErrorCode::WrongSecret, message));
        }
        Ok(device)
    }

    /// Begins a registration; the answer comes as [`Command::Registered`] once it is durable (PROTO-15).
    ///
    /// # Errors
    /// [`Refusal`] for an unknown project or a foreign key, and when the store takes no more operations.
    pub fn register(self: &Arc<Self>, register: Register, place: Place) -> Result<(), Refusal> {
        let project = self
            .directory
            .project_by_app_key(&register.project, &register.app_key)
            .ok_or_else(|| {
                let message = "no such project, or the key is not one of its app keys; \
                               check both against the broker's configuration";
                Refusal::new(ErrorCode::AppKeyRefused, message)
            })?;
        let new = NewRegistration {
            project,
            secret_hash: hash_secret(&register.secret),
            platform: register.platform,
            attributes: register.attributes,
            at: self.now(),
        };
        let delivery = Arc::clone(self);
        let operation = Operation::Register {
            new: Box::new(new),
            reply: Box::new(move |result| {
                let result = result.map(|registration| {
                    delivery.directory.registered(&registration);
                    Device {
                        ordinal: registration.ordinal,
                        project: registration.project,
                        platform: registration.platform,
                    }
                });
                if let Some(mailbox) = delivery.mailboxes.get(usize::from(place.shard.0)) {
                    // At most one for each session.
                    mailbox.push_bounded_elsewhere(Command::Registered {
                        conn: place.conn,
                        result,
                    });
                }
            }),
        };
        self.operations.try_send(operation).map_err(|_| {
            let message = "the broker has too much to do; try again in a second";
            Refusal::new(ErrorCode::Overloaded, message)
        })
    }

    /// Begins a request; the answer comes as [`Command::Answered`] once it is durable (PROTO-20).
    ///
    /// # Errors
    /// [`Busy`] when the store takes no more operations.
    pub fn request(
        self: &Arc<Self>,
        device: Device,
        number: u32,
        body: RequestBody,
        place: Place,
    ) -> Result<(), Busy> {
        let mut granted = Granted::Done;
        let change = match body {
            RequestBody::Rotate(secret) => Change::Rotate(hash_secret(&secret)),
            RequestBody::Subscribe(topic) => Change::Subscribe(device.project, topic),
            RequestBody::Unsubscribe(topic) => Change::Unsubscribe(device.project, topic),
            RequestBody::SetAttributes(new) => Change::SetAttributes(Box::new(new)),
            RequestBody::Unregister => {
                granted = Granted::Unregistered;
                Change::Unregister
            }
        };
        let delivery = Arc::clone(self);
        let operation = Operation::Change {
            device: device.ordinal,
            change,
            reply: Box::new(move |result| {
                if let Some(mailbox) = delivery.mailboxes.get(usize::from(place.shard.0)) {
                    // At most so many for each session as its shard lets wait.
                    mailbox.push_bounded_elsewhere(Command::Answered {
                        conn: place.conn,
                        number,
                        result: result.map(|()| granted),
                    });
                }
            }),
        };
        self.operations.try_send(operation).map_err(|_| Busy)
    }
}
