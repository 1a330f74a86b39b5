//! The devices of the demo, each a whole SDK client, and the list of what each of them got.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use petrel_client::{
    Client, Event, Events, InboxRecord, MemoryStorage, MessageId, Socket, Storage, StorageError,
    StoredState,
};
use tokio::task::{JoinHandle, JoinSet};

use super::super::Failure;
use crate::data_dir::Ready;

/// Most UDP sockets that the devices share.
const SOCKETS_MAX: usize = 64;

/// Devices that connect, subscribe or leave at once.
const AT_ONCE: usize = 64;

/// A quiet device notices within this that its broker was killed and restarted. Battery is no concern here.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Long enough for a machine that is busy with other things.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The topic that every device subscribes to.
pub(super) const TOPIC: &str = "everyone";

/// The key in a message's data that holds its number in the publisher's list.
pub(super) const NUMBER: &str = "n";

/// A message that the app of one device was handed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub(super) id: MessageId,
    /// Its number in the publisher's list; `None` if there is none in it.
    pub(super) number: Option<u64>,
    pub(super) at: Instant,
}

/// What all devices together are seen to do.
#[derive(Default)]
struct Seen {
    received: AtomicU64,
    /// Registrations that took the place of another: tokens that died.
    renewed: AtomicU64,
    gaps: AtomicU64,
    /// Devices that were closed without having asked for it.
    closed: Mutex<Vec<String>>,
}

/// What a device needs to connect.
struct Setup {
    broker: String,
    ca: Vec<u8>,
    project: String,
    app_key: String,
    sockets: Vec<Socket>,
    seen: Seen,
}

/// What the app of one device saw.
#[derive(Default)]
struct Log {
    receipts: Mutex<Vec<Receipt>>,
    /// When its session was opened; `None` while it has none.
    attached: Mutex<Option<Instant>>,
}

/// One device: what it keeps, and its client while it is wanted online.
struct Device {
    state: State,
    log: Arc<Log>,
    token: String,
    running: Option<(Client, JoinHandle<()>)>,
}

/// All devices.
pub(super) struct Fleet {
    setup: Arc<Setup>,
    devices: Vec<Device>,
}

impl Fleet {
    /// Binds the sockets; no device yet.
    pub(super) fn new(ready: &Ready, devices: usize) -> Result<Self, Failure> {
        let ca = std::fs::read(&ready.ca)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", ready.ca)))?;
        let sockets = (0..devices.min(SOCKETS_MAX))
            .map(|_| Socket::bind())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            setup: Arc::new(Setup {
                broker: ready.quic.clone(),
                ca,
                project: ready.project.clone().unwrap_or_default(),
                app_key: ready.app_key.clone().unwrap_or_default(),
                sockets,
                seen: Seen::default(),
            }),
            devices: Vec::new(),
        })
    }

    /// Makes and connects devices until there are so many. `done` hears how many there are.
    pub(super) async fn grow(
        &mut self,
        to: usize,
        mut done: impl FnMut(usize),
    ) -> Result<(), Failure> {
        let setup = &self.setup;
        let mut made: Vec<Option<Device>> = Vec::new();
        made.resize_with(to, || None);
        let mut count = 0;
        bounded(
            (0..to).map(|index| connect_new(Arc::clone(setup), index)),
            |(index, device)| {
                if let Some(place) = made.get_mut(index) {
                    *place = Some(device);
                }
                count += 1;
                done(count);
            },
        )
        .await?;
        self.devices = made.into_iter().flatten().collect();
        Ok(())
    }

    /// Subscribes every device to [`TOPIC`].
    pub(super) async fn subscribe(&self, mut done: impl FnMut(usize)) -> Result<(), Failure> {
        let clients = self
            .devices
            .iter()
            .filter_map(|device| device.running.as_ref());
        let work = clients.map(|(client, _)| {
            let client = client.clone();
            async move {
                client
                    .subscribe(TOPIC)
                    .await
                    .map_err(|error| format!("a device could not subscribe: {error}"))
            }
        });
        let mut count = 0;
        bounded(work, |()| {
            count += 1;
            done(count);
        })
        .await
    }

    /// Takes devices offline in good order; what they keep stays.
    pub(super) async fn leave(&mut self, indices: &[usize]) -> Result<(), Failure> {
        let mut leaving = Vec::new();
        for &index in indices {
            leaving.extend(
                self.devices
                    .get_mut(index)
                    .and_then(|device| device.running.take()),
            );
        }
        let work = leaving.into_iter().map(|(client, reader)| async move {
            client.close().await;
            reader.await.map_err(|error| error.to_string())
        });
        bounded(work, |()| {}).await
    }

    /// Brings devices back with what they kept.
    pub(super) async fn come_back(&mut self, indices: &[usize]) -> Result<(), Failure> {
        let mut work = Vec::new();
        for &index in indices {
            if let Some(device) = self.devices.get(index) {
                let (setup, state) = (Arc::clone(&self.setup), device.state.clone());
                let log = Arc::clone(&device.log);
                work.push(async move { Ok((index, connect(setup, index, state, log).await?)) });
            }
        }
        let devices = &mut self.devices;
        bounded(work, |(index, running)| {
            if let Some(device) = devices.get_mut(index) {
                device.running = Some(running);
            }
        })
        .await
    }

    pub(super) fn sockets(&self) -> usize {
        self.setup.sockets.len()
    }

    /// The tokens, by index of the device.
    pub(super) fn tokens(&self) -> Vec<String> {
        self.devices
            .iter()
            .map(|device| device.token.clone())
            .collect()
    }

    /// Devices whose session was opened after an instant, and lasts.
    pub(super) fn online_since(&self, since: Instant) -> usize {
        let attached = self
            .devices
            .iter()
            .filter_map(|device| *lock(&device.log.attached));
        attached.filter(|at| *at >= since).count()
    }

    /// Messages handed to apps so far, repeats included.
    pub(super) fn received(&self) -> u64 {
        self.setup.seen.received.load(Ordering::Relaxed)
    }

    /// Tokens that died, and messages that the broker said will never come.
    pub(super) fn renewed_and_gaps(&self) -> (u64, u64) {
        let seen = &self.setup.seen;
        (
            seen.renewed.load(Ordering::Relaxed),
            seen.gaps.load(Ordering::Relaxed),
        )
    }

    /// Why devices were closed that had not asked for it.
    pub(super) fn closed(&self) -> Vec<String> {
        lock(&self.setup.seen.closed).clone()
    }

    /// What each device got, by index.
    pub(super) fn receipts(&self) -> Vec<Vec<Receipt>> {
        self.devices
            .iter()
            .map(|device| lock(&device.log.receipts).clone())
            .collect()
    }
}

async fn connect_new(setup: Arc<Setup>, index: usize) -> Result<(usize, Device), String> {
    let (state, log) = (State::default(), Arc::default());
    let (client, reader) = connect(setup, index, state.clone(), Arc::clone(&log)).await?;
    let token = client
        .token()
        .ok_or("a device was let in and has no token")?
        .to_string();
    let running = Some((client, reader));
    Ok((
        index,
        Device {
            state,
            log,
            token,
            running,
        },
    ))
}

async fn connect(
    setup: Arc<Setup>,
    index: usize,
    state: State,
    log: Arc<Log>,
) -> Result<(Client, JoinHandle<()>), String> {
    let is_new = lock(&state.0)
        .load()
        .is_ok_and(|state| state.registration.is_none());
    let socket = setup
        .sockets
        .get(index % setup.sockets.len().max(1))
        .ok_or("no socket")?;
    let (client, events) = Client::builder(&setup.broker)
        .ca_pem(setup.ca.clone())
        .project(&setup.project)
        .app_key(&setup.app_key)
        .storage(state)
        .socket(socket)
        .keep_alive(KEEP_ALIVE)
        .connect_timeout(CONNECT_TIMEOUT)
        .sdk_name(concat!("petrel-demo/", env!("CARGO_PKG_VERSION")))
        .connect()
        .await
        .map_err(|error| format!("a device could not connect: {error}"))?;
    let reader = tokio::spawn(read(events, setup, log, is_new));
    Ok((client, reader))
}

/// The app of one device: notes what comes until its client is closed.
async fn read(mut events: Events, setup: Arc<Setup>, log: Arc<Log>, mut may_register: bool) {
    let seen = &setup.seen;
    while let Some(event) = events.next().await {
        match event {
            Event::Registered { resumed, .. } => {
                if !resumed && !may_register {
                    seen.renewed.fetch_add(1, Ordering::Relaxed);
                }
                may_register = false;
                *lock(&log.attached) = Some(Instant::now());
            }
            Event::Message(delivery) => {
                let number = delivery.data.get(NUMBER).and_then(|text| text.parse().ok());
                lock(&log.receipts).push(Receipt {
                    id: delivery.id,
                    number,
                    at: Instant::now(),
                });
                delivery.done();
                seen.received.fetch_add(1, Ordering::Relaxed);
            }
            Event::Gap { count, .. } => {
                seen.gaps.fetch_add(count, Ordering::Relaxed);
            }
            Event::Disconnected { .. } => *lock(&log.attached) = None,
            Event::Closed(cause) => {
                *lock(&log.attached) = None;
                if cause.code() != "goodbye" {
                    lock(&seen.closed).push(cause.to_string());
                }
            }
            _ => {}
        }
    }
}

/// Runs futures, [`AT_ONCE`] at a time; the first failure ends all. Dropped, it aborts them.
async fn bounded<T, F>(
    work: impl IntoIterator<Item = F>,
    mut done: impl FnMut(T),
) -> Result<(), Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut work = work.into_iter();
    for next in work.by_ref().take(AT_ONCE) {
        running.spawn(next);
    }
    while let Some(outcome) = running.join_next().await {
        done(outcome?.map_err(Failure::new)?);
        work.next().map(|next| running.spawn(next));
    }
    Ok(())
}

/// A device's memory, which outlives its client: it leaves and comes back as itself.
#[derive(Clone, Default)]
struct State(Arc<Mutex<MemoryStorage>>);

impl Storage for State {
    fn load(&mut self) -> Result<StoredState, StorageError> {
        lock(&self.0).load()
    }

    fn save_registration(&mut self, registration: &str) -> Result<(), StorageError> {
        lock(&self.0).save_registration(registration)
    }

    fn append(&mut self, records: &[InboxRecord]) -> Result<(), StorageError> {
        lock(&self.0).append(records)
    }

    fn done(&mut self, ids: &[MessageId]) -> Result<(), StorageError> {
        lock(&self.0).done(ids)
    }

    fn forget(&mut self) -> Result<(), StorageError> {
        lock(&self.0).forget()
    }

    fn blocks(&self) -> bool {
        false
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Lists are only pushed to: a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
