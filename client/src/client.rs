//! The app's handle on its client.

use std::sync::Arc;
use std::time::Duration;

use petrel_protocol::{DeviceToken, TopicName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::builder::ClientBuilder;
use crate::device::{Attributes, DeviceState, Report, now_ms};
use crate::driver::{Answer, Command, Key, Shared};
use crate::error::RequestError;
use crate::keep_alive::{NetworkId, NetworkStats};

/// A device. Cheap to clone; every clone is the same device.
///
/// Requests made while there is no session wait for the next one, up to the request timeout (30 s unless set). What
/// was asked for is stored before it is sent and asked again at each session until the broker answers, also after a
/// [`RequestError::Timeout`] and after a restart of the app; reports and states are not stored.
///
/// # Cancel safety
/// Dropping the future of a request stops the waiting, not the request: it may or may not be done. Asking again is
/// always right.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    close: Arc<watch::Sender<bool>>,
    finished: watch::Receiver<()>,
    shared: Arc<Shared>,
    request_timeout: Duration,
}

impl Client {
    /// Begins with the broker's address, `host:port`; its UDP port for devices is 7443 unless its operator says
    /// otherwise. A name is resolved at each attempt, and all its addresses are tried, IPv6 and IPv4.
    pub fn builder(broker: &str) -> ClientBuilder {
        ClientBuilder::new(broker)
    }

    pub(crate) fn new(
        commands: mpsc::Sender<Command>,
        close: watch::Sender<bool>,
        finished: watch::Receiver<()>,
        shared: Arc<Shared>,
        request_timeout: Duration,
    ) -> Self {
        Self {
            commands,
            close: Arc::new(close),
            finished,
            shared,
            request_timeout,
        }
    }

    /// The device's token; `None` before the first registration and between two.
    #[must_use]
    pub fn token(&self) -> Option<DeviceToken> {
        self.shared.token()
    }

    /// Subscribes this device to a topic, without a prefix. `Ok`: every message that the broker accepts from now on
    /// comes here. Subscribing twice is all right. The subscription belongs to the registration: it survives restarts
    /// of app and broker, and moves to a new registration where the broker lost the old one.
    ///
    /// # Errors
    /// [`RequestError`]; `invalid_topic` is found without asking.
    pub async fn subscribe(&self, topic: &str) -> Result<(), RequestError> {
        let key = Key::Subscribe(topic_name(topic)?);
        self.ask(|answer| Command::Ask(key, answer)).await
    }

    /// Ends a subscription. Unsubscribing from what is not subscribed is all right.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), RequestError> {
        let key = Key::Unsubscribe(topic_name(topic)?);
        self.ask(|answer| Command::Ask(key, answer)).await
    }

    /// Replaces what the broker knows of the device.
    ///
    /// # Errors
    /// [`RequestError`]; values out of bounds are found without asking.
    pub async fn set_attributes(&self, attributes: Attributes) -> Result<(), RequestError> {
        attributes
            .check()
            .map_err(|(field, problem)| RequestError::Invalid(format!("{field}: {problem}")))?;
        self.ask(|answer| Command::Attributes(attributes, answer))
            .await
    }

    /// Says how the device stands. `Ok` means that the SDK took note: it tells the broker now or at the next session,
    /// and again at each session of this process.
    ///
    /// # Errors
    /// [`RequestError`]; values out of bounds are found without asking.
    pub async fn set_state(&self, state: DeviceState) -> Result<(), RequestError> {
        state.check().map_err(RequestError::Invalid)?;
        self.ask(|answer| Command::State(state, answer)).await
    }

    /// Reports what became of a message. `Ok` means that it was handed to a connection; a connection that breaks at
    /// that moment loses it.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Busy`] when 64 reports wait for a session.
    pub async fn report(&self, report: Report) -> Result<(), RequestError> {
        report.check().map_err(RequestError::Invalid)?;
        let frame = report.into_frame(now_ms());
        self.ask(|answer| Command::Report(frame, answer)).await
    }

    /// Replaces the secret that this device proves itself with. The token stays.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn rotate_secret(&self) -> Result<(), RequestError> {
        self.ask(|answer| Command::Ask(Key::Rotate, answer)).await
    }

    /// Ends the registration: the token dies, what waits for it is dropped, and all that this client keeps is
    /// forgotten, messages not done included. The client then closes; the next start makes a new registration.
    ///
    /// # Errors
    /// [`RequestError`]; after a timeout it is not known whether the registration still exists.
    pub async fn unregister(&self) -> Result<(), RequestError> {
        self.ask(|answer| Command::Ask(Key::Unregister, answer))
            .await
    }

    /// Says that the device is on another network, or on the same one again after it was gone. Call it for whatever
    /// the system tells of connectivity; calling it in vain costs a packet.
    ///
    /// `network` names the network for what is learnt of it ([`NetworkId`]); `NetworkId::default()` where the app
    /// does not tell networks apart.
    ///
    /// The socket is bound anew, which moves an open connection to the new path: the broker learns of it by a packet
    /// sent at once, so messages are back after one round trip, without a new handshake. A path that gives no answer
    /// within eight round trips (at least 1 s, at most 3 s) is left: the client then connects anew at once. A wait
    /// for the next attempt ends, and an attempt under way begins again.
    ///
    /// With a shared [`Socket`](crate::Socket) this moves every client on it, as they are on one machine. Each may
    /// tell of the change, and then looks after its own connection; for the same network within a second the socket
    /// is bound anew once.
    ///
    /// # Errors
    /// None: it only leaves a note for the client's task and may be called from any thread, within a runtime or not.
    /// Where no new socket can be had the old one stays. What comes of it is told by events:
    /// [`Event::Disconnected`](crate::Event::Disconnected) if the connection did not come along, none if it did. On a
    /// closed client it does nothing.
    pub fn network_changed(&self, network: impl Into<NetworkId>) {
        self.shared.change_network(network.into());
    }

    /// How the client stands on its network: the interval learnt for it, and what keeping the connection alive costs.
    #[must_use]
    pub fn network_stats(&self) -> NetworkStats {
        self.shared.stats()
    }

    /// Ends the client in good order: acks and requests on their way are flushed, the broker is told goodbye, the
    /// storage is given back. The registration stays. Takes at most about 2 s. [`Events`](crate::Events) ends with
    /// `Closed`; messages that are not done by now come again at the next start.
    ///
    /// # Cancel safety
    /// The client closes in any case; only the waiting stops.
    pub async fn close(&self) {
        self.close.send_replace(true);
        // The sender is dropped when the task ends, or with its runtime.
        let mut finished = self.finished.clone();
        while finished.changed().await.is_ok() {}
        self.shared.inbox.release();
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Answer>) -> Command,
    ) -> Result<(), RequestError> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.commands
                .send(command(answer))
                .await
                .map_err(|_| RequestError::Closed)?;
            answered.await.map_err(|_| RequestError::Closed)?
        };
        timeout(self.request_timeout, asking)
            .await
            .unwrap_or(Err(RequestError::Timeout {
                after: self.request_timeout,
            }))
    }
}

fn topic_name(topic: &str) -> Result<String, RequestError> {
    TopicName::parse(topic)
        .map(|name| name.as_str().to_owned())
        .map_err(|e| RequestError::Invalid(e.to_string()))
}
