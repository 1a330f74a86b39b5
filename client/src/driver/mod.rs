//! The client's one task: connection after connection until somebody ends it. Decides what follows the end of a
//! session; [`session`] drives one.

mod answers;
mod commands;
mod link;
mod path;
mod requests;
mod session;
mod shared;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use petrel_protocol::wire::to_broker;
use petrel_protocol::{ErrorCode, Platform, Reaction};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

pub(crate) use self::commands::Command;
use self::requests::Requests;
pub(crate) use self::requests::{Answer, Key};
use self::shared::Outbox;
pub(crate) use self::shared::{Item, Shared};
use crate::backoff::{Backoff, clamp_asked};
use crate::device::{Attributes, DeviceState};
use crate::dial::{Target, dial};
use crate::error::{Cause, CauseKind};
use crate::event::Event;
use crate::inbox::Inbox;
use crate::keep_alive::{Meter, NetworkId};
use crate::message::Kept;
use crate::registration::Registration;
use crate::socket::Socket;
use crate::storage::StorageError;
use crate::tls::Tls;

/// Events that wait for the app before the SDK stops reading from its broker.
pub const EVENTS_AHEAD: usize = 64;
/// Messages kept and not done before the SDK stops reading from its broker.
pub const IN_HAND_MAX: usize = 1024;
/// Events beyond [`EVENTS_AHEAD`] that the SDK reads while a request waits for its answer.
pub const READ_AHEAD_MAX: usize = 1024;
/// Commands of the app that wait for the task.
pub(crate) const COMMANDS_MAX: usize = 64;

/// What stays the same as long as the client lives.
pub(crate) struct Settings {
    pub(crate) home: Target,
    pub(crate) server_name: Option<String>,
    pub(crate) socket: Socket,
    pub(crate) tls: Tls,
    pub(crate) app_key: String,
    pub(crate) platform: Platform,
    pub(crate) sdk: String,
    pub(crate) connect_timeout: Duration,
    /// The longest silence, whatever the broker allows.
    pub(crate) keep_alive_max: Duration,
    pub(crate) keep_alive_start: Duration,
    pub(crate) answer_timeout: Duration,
}

/// What the task is born with.
pub(crate) struct Setup {
    pub(crate) settings: Arc<Settings>,
    pub(crate) registration: Registration,
    /// The one that the device is on.
    pub(crate) network: NetworkId,
    /// What was in the inbox at start.
    pub(crate) left_over: Vec<Kept>,
    pub(crate) attributes: Option<Attributes>,
    pub(crate) state: DeviceState,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Sender<Item>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) closing: watch::Receiver<bool>,
    /// Told how the first attempt went; a failure then ends the client.
    pub(crate) first: Option<oneshot::Sender<Result<(), Cause>>>,
}

pub(crate) struct Driver {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    registration: Registration,
    /// The network that the device is on.
    network: NetworkId,
    meter: Meter,
    /// The last connection was lost after this much silence. Whether the silence was to blame shows at the next
    /// attempt.
    suspected: Option<Duration>,
    /// What the app says of the device; `None`: nothing, so what the broker knows stays.
    attributes: Option<Attributes>,
    /// What the request under way says of it.
    attributes_sent: Option<Attributes>,
    state: DeviceState,
    /// Whether the app said more of its state than `Hello` and `Register` carry.
    state_said: bool,
    requests: Requests,
    reports: Vec<(to_broker::Frame, oneshot::Sender<Answer>)>,
    outbox: Outbox,
    events: mpsc::Sender<Item>,
    commands: mpsc::Receiver<Command>,
    /// Some handle of the client still exists.
    has_handles: bool,
    closing: watch::Receiver<bool>,
    first: Option<oneshot::Sender<Result<(), Cause>>>,
    backoff: Backoff,
    /// The registration was renewed and no session opened since.
    renewed: bool,
    /// Where a `Reconnect` sent this device.
    away: Option<Target>,
}

/// How a connection ended.
#[derive(Debug)]
struct End {
    cause: Cause,
    /// The session was open for long enough to be called a good one.
    stable: bool,
    /// The broker let the device in before.
    opened: bool,
    /// The app wants no more.
    by_app: bool,
    /// Where a `Reconnect` sends the device, and after how long.
    moved: Option<(Duration, String)>,
    /// The path gave no answer any more.
    path_lost: Option<PathLost>,
}

/// A path that gives no answer.
#[derive(Clone, Copy, Debug)]
struct PathLost {
    /// The silence that may be to blame, where it is known.
    silence: Option<Duration>,
}

impl End {
    fn failed(cause: Cause) -> Self {
        Self {
            cause,
            stable: false,
            opened: false,
            by_app: false,
            moved: None,
            path_lost: None,
        }
    }

    fn by_app(cause: Cause) -> Self {
        Self {
            by_app: true,
            ..Self::failed(cause)
        }
    }
}

/// What follows.
enum Next {
    Close,
    Again(Duration),
}

/// What [`Driver::serve`] woke up for.
enum Turn {
    Nothing,
    NoHandles,
    Settled,
    Command(Box<Command>),
}

impl Driver {
    pub(crate) fn new(setup: Setup) -> Self {
        let inbox = Arc::clone(&setup.shared.inbox);
        let mut outbox = Outbox::default();
        for kept in setup.left_over {
            outbox.push(Item::kept(kept, true, &inbox));
        }
        Self {
            settings: setup.settings,
            shared: setup.shared,
            inbox,
            registration: setup.registration,
            network: setup.network,
            meter: Meter::default(),
            suspected: None,
            attributes: setup.attributes,
            attributes_sent: None,
            state: setup.state,
            state_said: false,
            requests: Requests::default(),
            reports: Vec::new(),
            outbox,
            events: setup.events,
            commands: setup.commands,
            has_handles: true,
            closing: setup.closing,
            first: setup.first,
            backoff: Backoff::default(),
            renewed: false,
            away: None,
        }
    }

    /// Runs until the app or the broker ends it.
    pub(crate) async fn run(mut self) {
        self.tell_stats();
        let (cause, by_app) = self.live().await;
        tracing::debug!(%cause, "client closed");
        self.first
            .take()
            .map(|first| first.send(Err(cause.clone())));
        self.forget_told_previous().await;
        let outbox = std::mem::take(&mut self.outbox);
        // Before `self.events` is dropped: its receiver then looks for the cause.
        self.shared.finish(cause, by_app, outbox);
    }

    async fn live(&mut self) -> (Cause, bool) {
        loop {
            let end = self.connection().await;
            tracing::debug!(cause = %end.cause, code = end.cause.code(), "connection ended");
            if end.by_app {
                return (end.cause, true);
            }
            if end.cause.reaction() == Reaction::RegisterAnew
                && self.requests.is_wanted(&Key::Unregister)
            {
                // What the app asked for has happened; only the answer was lost.
                return (self.unregistered().await.cause, false);
            }
            let wait = match self.after(&end).await {
                Next::Close => return (end.cause, false),
                Next::Again(wait) => wait,
            };
            if self.first.is_some() && end.cause.reaction() == Reaction::Retry {
                return (end.cause, true);
            }
            self.outbox.push_status(Event::Disconnected {
                cause: end.cause,
                retry_in: wait,
            });
            let shared = Arc::clone(&self.shared);
            let waited = self.serve(async move {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = shared.network_changed() => {}
                }
            });
            if let Err(cause) = waited.await {
                return (cause, true);
            }
        }
    }

    /// One connection, from looking up a name to its end.
    async fn connection(&mut self) -> End {
        let settings = Arc::clone(&self.settings);
        let shared = Arc::clone(&self.shared);
        let target = self.away.clone().unwrap_or_else(|| settings.home.clone());
        loop {
            self.enter_network();
            let silence = self.transport_silence();
            let endpoint = &settings.socket.endpoint;
            let dialled = dial(
                endpoint,
                &settings.tls,
                &target,
                silence,
                settings.connect_timeout,
            );
            let dialled = async {
                tokio::select! {
                    dialled = dialled => Some(dialled),
                    () = shared.network_changed() => None,
                }
            };
            match self.serve(dialled).await {
                // On another network: what was under way belongs to the former.
                Ok(None) => {}
                Ok(Some(Ok(connection))) => {
                    self.judge_suspicion(true).await;
                    return self.session(connection, &target.name()).await;
                }
                Ok(Some(Err(cause))) => {
                    self.judge_suspicion(false).await;
                    // Where a `Reconnect` pointed to may be wrong: the address that the app gave always comes next.
                    self.away = None;
                    return End::failed(cause);
                }
                Err(cause) => return End::by_app(cause),
            }
        }
    }

    /// Decides what follows the end of a connection.
    async fn after(&mut self, end: &End) -> Next {
        if end.stable {
            self.backoff.reset();
        }
        if let Some((after, to)) = &end.moved {
            self.away = Target::parse(to, self.settings.server_name.as_deref()).ok();
            // To the letter, unless brokers keep sending it around.
            let extra = if end.stable {
                Duration::ZERO
            } else {
                self.backoff.next_but_first(rand::random())
            };
            return Next::Again(clamp_asked(*after) + extra);
        }
        if let Some(PathLost { silence }) = end.path_lost {
            self.suspected = silence;
            return Next::Again(self.backoff.next_but_first(rand::random()));
        }
        let code = end.cause.broker_code();
        if code == Some(ErrorCode::WrongSecret)
            && !end.opened
            && let Some(next) = self.registration.next_secret.take()
        {
            // A rotation whose answer was lost: the broker has the new secret already (PROTO-26).
            self.registration.secret = next;
            return self
                .saved_or_wait()
                .await
                .map_or_else(|n| n, |()| Next::Again(Duration::ZERO));
        }
        match end.cause.reaction() {
            Reaction::Stop => Next::Close,
            Reaction::Retry => {
                Next::Again(self.backoff.next(rand::random(), end.cause.retry_after()))
            }
            // A second refusal in a row.
            Reaction::RegisterAnew if self.renewed => Next::Close,
            Reaction::RegisterAnew => self.register_anew(end).await,
        }
    }

    /// PROTO-18: the registration is gone; makes another, with the same wishes.
    async fn register_anew(&mut self, end: &End) -> Next {
        let Ok(renewed) = self.registration.renewed() else {
            return Next::Again(self.backoff.next(rand::random(), None));
        };
        let former = std::mem::replace(&mut self.registration, renewed);
        if let Err(next) = self.saved_or_wait().await {
            self.registration = former;
            return next;
        }
        self.shared.set_token(None);
        self.renewed = true;
        if end.opened && !end.stable {
            return Next::Again(self.backoff.next(rand::random(), None));
        }
        Next::Again(Duration::ZERO)
    }

    async fn saved_or_wait(&mut self) -> Result<(), Next> {
        self.save().await.map_err(|error| {
            tracing::debug!(%error, "the registration could not be stored");
            Next::Again(self.backoff.next(rand::random(), None))
        })
    }

    /// Serves the app while `until` runs. An error is the app's wish to end.
    async fn serve<T>(&mut self, until: impl Future<Output = T>) -> Result<T, Cause> {
        let mut until = pin!(until);
        loop {
            let turn = tokio::select! {
                biased;
                () = asked_to_close(&mut self.closing) => return Err(closed_by_app()),
                () = self.events.closed() => return Err(events_dropped()),
                permit = self.events.reserve(), if !self.outbox.is_empty() => {
                    if let (Ok(permit), Some(item)) = (permit, self.outbox.pop()) {
                        permit.send(item);
                    }
                    Turn::Nothing
                }
                command = self.commands.recv(), if self.has_handles => {
                    command.map_or(Turn::NoHandles, |command| Turn::Command(Box::new(command)))
                }
                () = self.inbox.settled() => Turn::Settled,
                output = &mut until => return Ok(output),
            };
            match turn {
                Turn::Nothing => {}
                Turn::NoHandles => self.has_handles = false,
                Turn::Settled => self.forget_told_previous().await,
                Turn::Command(command) => drop(self.handle_command(*command, false).await),
            }
        }
    }

    async fn save(&self) -> Result<(), StorageError> {
        let json = self
            .registration
            .to_json()
            .map_err(|e| StorageError::Other(e.to_string()))?;
        self.on_storage(move |inbox| inbox.save_registration(&json))
            .await
    }

    /// Calls the storage on a thread that may block, if it needs one. Not cut short by dropping the future.
    async fn on_storage<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inbox) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        if !self.inbox.blocks() {
            return call(&self.inbox);
        }
        let inbox = Arc::clone(&self.inbox);
        tokio::task::spawn_blocking(move || call(&inbox))
            .await
            .unwrap_or_else(|error| Err(StorageError::Other(error.to_string())))
    }

    /// The app knows which token died: no need to tell it again.
    async fn forget_told_previous(&mut self) {
        if self.shared.take_previous_told() && self.registration.previous.take().is_some() {
            // Should this fail, the app is told once more after the next start.
            let _ = self.save().await;
        }
    }

    /// Back-pressure: whether to read on from the broker.
    fn may_read(&self) -> bool {
        let ahead = self.outbox.len();
        self.inbox.in_hand() < IN_HAND_MAX
            && (ahead == 0 || (self.requests.is_waiting() && ahead < READ_AHEAD_MAX))
    }
}

async fn asked_to_close(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        // All handles are gone without a word: the app only listens.
        std::future::pending::<()>().await;
    }
}

fn closed_by_app() -> Cause {
    Cause::app("the app closed the client")
}

fn events_dropped() -> Cause {
    Cause::app("the app dropped the client's events")
}

fn unregistered() -> Cause {
    Cause::new(
        CauseKind::Unregistered,
        "the app ended the registration; the next start makes a new one",
    )
}
