//! Settings of a client, and its start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use petrel_protocol::{Platform, Urgency, limits};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use crate::client::Client;
use crate::device::{Attributes, DeviceState, bounded};
use crate::dial::Target;
use crate::driver::{COMMANDS_MAX, Driver, EVENTS_AHEAD, Settings, Setup, Shared};
use crate::error::{Cause, ConnectError, StartError};
use crate::events::Events;
use crate::inbox::Inbox;
use crate::keep_alive::{self, NetworkId};
use crate::message::Kept;
use crate::registration::Registration;
use crate::socket::Socket;
use crate::storage::{Storage, StorageError};
use crate::tls::{Ca, Tls};

/// Longest silence of a connection unless the broker wants less, which it does as a rule.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(3600);

/// Settings of a [`Client`]. Needed are a CA, a project, an app key and a storage; the rest has defaults.
#[must_use = "a builder does nothing until it is started"]
pub struct ClientBuilder {
    broker: String,
    server_name: Option<String>,
    ca: Option<Ca>,
    project: String,
    app_key: String,
    platform: Platform,
    attributes: Option<Attributes>,
    minimum_urgency: Urgency,
    sdk: String,
    storage: Option<Box<dyn Storage>>,
    socket: Option<Socket>,
    connect_timeout: Duration,
    request_timeout: Duration,
    keep_alive_max: Duration,
    keep_alive_start: Duration,
    answer_timeout: Duration,
    network: NetworkId,
}

impl ClientBuilder {
    pub(crate) fn new(broker: &str) -> Self {
        Self {
            broker: broker.to_owned(),
            server_name: None,
            ca: None,
            project: String::new(),
            app_key: String::new(),
            platform: Platform::Other,
            attributes: None,
            minimum_urgency: Urgency::VeryLow,
            sdk: concat!("petrel-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            storage: None,
            socket: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            keep_alive_max: KEEP_ALIVE_MAX,
            keep_alive_start: keep_alive::START,
            answer_timeout: Duration::from_secs(15),
            network: NetworkId::default(),
        }
    }

    /// The PEM file of the CA that the broker's certificate comes from: `tls/ca.pem` of its data directory, or the
    /// system's bundle for a broker with a public certificate. Read once, at start. No other CA is trusted.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Ca::File(path.into()));
        self
    }

    /// The same as PEM text, for an app that carries it along.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Ca::Pem(pem.into()));
        self
    }

    /// The name that the broker's certificate must hold. Default: the host of the broker's address.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// The project to register with.
    pub fn project(mut self, name: &str) -> Self {
        self.project = name.to_owned();
        self
    }

    /// The key that the project gives to its apps. Used when registering, not for what was registered before.
    pub fn app_key(mut self, key: &str) -> Self {
        self.app_key = key.to_owned();
        self
    }

    /// What kind of device this is. Default: [`Platform::Other`].
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// What the broker may know of the device. Sent with the registration, and again whenever it differs from what
    /// the broker was told last. Default: nothing, which leaves what an earlier run said.
    pub fn attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = Some(attributes);
        self
    }

    /// Messages below this urgency are held back by the broker. Default: [`Urgency::VeryLow`], so none.
    pub fn minimum_urgency(mut self, urgency: Urgency) -> Self {
        self.minimum_urgency = urgency;
        self
    }

    /// Name and version that the broker's operator sees; at most 64 bytes. Default: `petrel-client/VERSION`.
    pub fn sdk_name(mut self, name: &str) -> Self {
        self.sdk = name.to_owned();
        self
    }

    /// Where state is kept: [`FileStorage`](crate::FileStorage) for apps, [`MemoryStorage`](crate::MemoryStorage)
    /// where losing it with the process is all right, or one of the app's own.
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Some(Box::new(storage));
        self
    }

    /// The UDP socket to use, shared with other clients. Default: one of its own.
    pub fn socket(mut self, socket: &Socket) -> Self {
        self.socket = Some(socket.clone());
        self
    }

    /// How long an attempt to connect may take, name resolution included. Default: 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long requests of [`Client`] wait for their answer, and for a session to ask in. Default: 30 s.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The longest silence before the connection is kept alive, from 1 s to 1 h. Default: 1 h, so that the broker's
    /// hint (2 min unless its operator says otherwise) is the bound.
    ///
    /// Within that bound the interval is learnt for each network: it grows while keep-alives are answered, and is
    /// halved when a path was lost to silence. See [`Client::network_stats`].
    pub fn keep_alive(mut self, longest: Duration) -> Self {
        self.keep_alive_max = longest;
        self
    }

    /// The interval that learning begins with on an unknown network, from 100 ms to 1 h; a third of it is the shortest
    /// one that is ever used. Default: 30 s, and so 10 s.
    pub fn keep_alive_start(mut self, start: Duration) -> Self {
        self.keep_alive_start = start;
        self
    }

    /// How long what the device sent may stay without any acknowledgement before the client leaves the connection and
    /// makes another, from 1 s to 1 min; QUIC repeats it meanwhile. Default: 15 s.
    pub fn answer_timeout(mut self, limit: Duration) -> Self {
        self.answer_timeout = limit;
        self
    }

    /// The network that the device is on now; [`Client::network_changed`] tells of the next one. Default:
    /// [`NetworkId::default`].
    pub fn network(mut self, network: impl Into<NetworkId>) -> Self {
        self.network = network.into();
        self
    }

    /// Starts the client on the current tokio runtime and returns at once; connecting goes on behind. Problems of the
    /// network come as [`Event::Disconnected`](crate::Event::Disconnected), what only a human can mend as
    /// [`Event::Closed`](crate::Event::Closed). Blocks shortly while the storage is read.
    ///
    /// # Errors
    /// [`StartError`] for whatever is wrong before the first packet.
    pub fn start(self) -> Result<(Client, Events), StartError> {
        self.spawn(None)
    }

    /// Starts the client and waits for its first session.
    ///
    /// # Errors
    /// [`ConnectError`] if the client cannot be started, or if the first attempt fails for whatever reason; nothing
    /// then goes on behind.
    ///
    /// # Cancel safety
    /// Dropping the future closes the client.
    pub async fn connect(self) -> Result<(Client, Events), ConnectError> {
        let (first, opened) = oneshot::channel();
        let (client, events) = self.spawn(Some(first))?;
        let outcome = opened.await.unwrap_or_else(|_| {
            Err(Cause::app(
                "the client's task was ended together with its runtime",
            ))
        });
        if let Err(cause) = outcome {
            client.close().await;
            return Err(cause.into());
        }
        Ok((client, events))
    }

    fn spawn(
        self,
        first: Option<oneshot::Sender<Result<(), Cause>>>,
    ) -> Result<(Client, Events), StartError> {
        let home = Target::parse(&self.broker, self.server_name.as_deref())?;
        self.check()?;
        let Some(ca) = &self.ca else {
            return Err(StartError::Missing(
                "no CA given: ca_file(…) with the broker's tls/ca.pem, or with the system's bundle",
            ));
        };
        let tls = Tls::new(ca)?;
        let mut storage = self.storage.ok_or(StartError::Missing(
            "no storage given: storage(FileStorage::open(…)), or MemoryStorage::default()",
        ))?;
        let socket = match self.socket {
            Some(socket) => socket,
            None => Socket::bind()?,
        };
        let runtime =
            Handle::try_current().map_err(|e| StartError::Socket(std::io::Error::other(e)))?;

        let stored = storage.load()?;
        let registration = match stored.registration.as_deref() {
            Some(text) => stored_registration(text, &self.project)?,
            None => {
                let registration = Registration::new(&self.project)?;
                let json = registration.to_json().map_err(unreadable)?;
                storage.save_registration(&json)?;
                registration
            }
        };
        let left_over: Vec<Kept> = stored
            .inbox
            .iter()
            .map(|record| serde_json::from_str(&record.body).map_err(unreadable))
            .collect::<Result<_, _>>()?;
        let ids = stored.inbox.iter().map(|record| record.id);
        let inbox = Arc::new(Inbox::new(storage, ids, stored.recent));
        let shared = Arc::new(Shared::new(inbox, registration.token()));

        let (event_sender, event_receiver) = mpsc::channel(EVENTS_AHEAD);
        let (command_sender, command_receiver) = mpsc::channel(COMMANDS_MAX);
        let (close, closing) = watch::channel(false);
        let (finished_sender, finished) = watch::channel(());
        let driver = Driver::new(Setup {
            settings: Arc::new(Settings {
                home,
                server_name: self.server_name,
                socket,
                tls,
                app_key: self.app_key,
                platform: self.platform,
                sdk: self.sdk,
                connect_timeout: self.connect_timeout,
                keep_alive_max: self.keep_alive_max,
                keep_alive_start: self.keep_alive_start,
                answer_timeout: self.answer_timeout,
            }),
            registration,
            network: self.network,
            left_over,
            attributes: self.attributes,
            state: DeviceState {
                minimum_urgency: Some(self.minimum_urgency),
                ..DeviceState::default()
            },
            shared: Arc::clone(&shared),
            events: event_sender,
            commands: command_receiver,
            closing,
            first,
        });
        let task = async move {
            driver.run().await;
            drop(finished_sender);
        };
        // Ends by `close`, by dropping `Events`, by the broker, or with its runtime.
        drop(runtime.spawn(task.instrument(tracing::debug_span!("petrel_client"))));
        let client = Client::new(
            command_sender,
            close,
            finished,
            Arc::clone(&shared),
            self.request_timeout,
        );
        Ok((client, Events::new(event_receiver, shared)))
    }

    fn check(&self) -> Result<(), StartError> {
        let invalid = |(field, problem)| StartError::Invalid { field, problem };
        if self.project.is_empty() {
            return Err(StartError::Missing("no project given: project(…)"));
        }
        bounded("project", &self.project, limits::SHORT_TEXT_BYTES_MAX).map_err(invalid)?;
        bounded("app_key", &self.app_key, limits::ATTRIBUTE_VALUE_BYTES_MAX).map_err(invalid)?;
        bounded("sdk_name", &self.sdk, limits::SHORT_TEXT_BYTES_MAX).map_err(invalid)?;
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (field, value, range, allowed) in [
            (
                "keep_alive",
                self.keep_alive_max,
                second..=hour,
                "1 s to 1 h",
            ),
            (
                "keep_alive_start",
                self.keep_alive_start,
                second / 10..=hour,
                "100 ms to 1 h",
            ),
            (
                "answer_timeout",
                self.answer_timeout,
                second..=second * 60,
                "1 s to 1 min",
            ),
        ] {
            if !range.contains(&value) {
                return Err(invalid((field, format!("{allowed} are allowed"))));
            }
        }
        self.attributes
            .as_ref()
            .map_or(Ok(()), |attributes| attributes.check().map_err(invalid))
    }
}

fn stored_registration(text: &str, project: &str) -> Result<Registration, StartError> {
    let registration: Registration = serde_json::from_str(text).map_err(unreadable)?;
    if registration.project == project {
        Ok(registration)
    } else {
        Err(StartError::OtherProject {
            stored: registration.project,
            wanted: project.to_owned(),
        })
    }
}

fn unreadable(error: serde_json::Error) -> StorageError {
    StorageError::Other(format!(
        "the storage holds what this SDK cannot read ({error}): use another one; the device then registers anew"
    ))
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("broker", &self.broker)
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}
