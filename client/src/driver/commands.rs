//! What the app asks of the client's task, with or without a session.

use petrel_protocol::wire::to_broker;
use tokio::sync::oneshot;

use super::Driver;
use super::requests::{Answer, Key};
use crate::device::{Attributes, DeviceState};
use crate::error::RequestError;
use crate::registration::{Membership, Secret};

/// Reports that wait for the next session; one more is refused with `RequestError::Busy`.
const REPORTS_MAX: usize = 64;

/// What the app asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Something that the broker answers.
    Ask(Key, oneshot::Sender<Answer>),
    /// The same, with what to say.
    Attributes(Attributes, oneshot::Sender<Answer>),
    /// How the device stands.
    State(DeviceState, oneshot::Sender<Answer>),
    /// What became of a message.
    Report(to_broker::Frame, oneshot::Sender<Answer>),
}

impl Driver {
    /// Takes a command of the app. Gives back a frame that goes out at once where a session is open.
    pub(super) async fn handle_command(
        &mut self,
        command: Command,
        open: bool,
    ) -> Option<to_broker::Frame> {
        match command {
            Command::Ask(key, waiter) => self.ask(key, waiter, open).await,
            Command::Attributes(attributes, waiter) => {
                self.attributes = Some(attributes);
                self.ask(Key::SetAttributes, waiter, open).await;
            }
            Command::State(state, waiter) => {
                self.state.merge(state.clone());
                self.state_said = true;
                let _ = waiter.send(Ok(()));
                return open.then(|| state.to_frame());
            }
            Command::Report(frame, waiter) => {
                if open {
                    let _ = waiter.send(Ok(()));
                    return Some(frame);
                }
                self.reports.retain(|(_, waiter)| !waiter.is_closed());
                if self.reports.len() < REPORTS_MAX {
                    self.reports.push((frame, waiter));
                } else {
                    let _ = waiter.send(Err(RequestError::Busy));
                }
            }
        }
        None
    }

    /// Stores a wish, then asks for it: what was begun is asked again until it is answered, over restarts too.
    async fn ask(&mut self, key: Key, waiter: oneshot::Sender<Answer>, open: bool) {
        if !self.requests.has_room() {
            let _ = waiter.send(Err(RequestError::Busy));
            return;
        }
        let former = self.registration.clone();
        let topics = &mut self.registration.topics;
        match &key {
            Key::Subscribe(topic) if topics.get(topic) != Some(&Membership::Joined) => {
                topics.insert(topic.clone(), Membership::Joining);
            }
            Key::Unsubscribe(topic) => {
                topics.insert(topic.clone(), Membership::Leaving);
            }
            Key::Rotate if self.registration.next_secret.is_none() => match Secret::random() {
                Ok(secret) => self.registration.next_secret = Some(secret),
                Err(error) => {
                    let _ = waiter.send(Err(RequestError::Storage(error.to_string())));
                    return;
                }
            },
            _ => {}
        }
        if self.registration != former
            && let Err(error) = self.save().await
        {
            self.registration = former;
            let _ = waiter.send(Err(RequestError::Storage(error.to_string())));
            return;
        }
        self.requests.ask(key, waiter, open);
    }
}
