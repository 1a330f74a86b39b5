//! The broker, put together: the only file that sees every room.
//!
//! What it is: the start ([`Broker::start`]), in an order in which whatever can fail fails before anything is promised;
//! and the end ([`Broker::drain`]), in which everything answered is durable before the process may go.
//!
//! Threads: one `petrel-shard-N` for each shard, one `petrel-store` that owns the store, and the runtime that the
//! caller runs it on, for HTTP and the clock.

mod error;
mod gauges;
mod opening;
mod parts;
mod shards;
mod store_desk;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use petrel_core::WallClock;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle as Task;

pub use self::error::{NotDurable, StartError};
pub use self::opening::Loss;

use self::gauges::Gauges;
use self::opening::open_store;
use self::parts::{bind, delivery_settings, intern_projects, local, ready_line, sealer, wall_now};
use self::shards::Shards;
use self::store_desk::StoreDesk;
use crate::api::{
    self, AdminKey, AdminState, ApiSettings, ApiState, Phase, Readiness, ServerSettings,
};
use crate::config::Config;
use crate::data_dir::{DataDir, Keyring, Ready, ServerCertificate};
use crate::delivery::{Command, Committer, Delivery, Returns};
use crate::directory::Directory;
use crate::fanout::{Publisher, Sequencer};
use crate::presence::Presence;
use crate::shard::ShardSettings;
use crate::telemetry::{self, MetricsHandle};

/// How often the wall clock is compared with the operating system's.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the server certificate is looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(3600);

/// What the admin port looks into, once it is there.
struct Inside {
    delivery: Arc<Delivery>,
    gauges: Gauges,
}

/// A running broker.
pub struct Broker {
    config: Config,
    data_dir: DataDir,
    ready: Ready,
    readiness: Arc<Readiness>,
    delivery: Arc<Delivery>,
    certificate: Arc<ServerCertificate>,
    drain_asked: Arc<Notify>,
    stop_servers: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    servers: Vec<Task<usize>>,
    admin: Task<usize>,
    chores: Vec<Task<()>>,
    shards: Vec<JoinHandle<()>>,
    committer: JoinHandle<()>,
}

impl Broker {
    /// Opens everything, starts all threads, and writes `ready.json`. Call it on a multi-thread runtime with I/O and
    /// time.
    ///
    /// # Errors
    /// [`StartError`], which names the way out. Nothing is left running then.
    pub async fn start(config: Config, loss: Loss) -> Result<Self, StartError> {
        // Before anything counts.
        let metrics = telemetry::install();
        let data_dir = DataDir::open(&config.data_dir)?;
        for warning in data_dir.warnings() {
            tracing::warn!("{warning}");
        }
        let demo = data_dir.demo_keys(&config.projects)?;
        let keyring = Keyring::open(&data_dir)?;
        let listen = [config.quic.listen.ip(), config.https.listen.ip()];
        let certificate =
            ServerCertificate::open(&data_dir, &config.tls, &listen, SystemTime::now())?;

        // Sockets before the store: a taken port is found out before anything slow begins.
        let shards = Shards::bind(&config, &keyring, &certificate)?;
        let http = bind("http.listen", config.http.listen).await?;
        let https = bind("https.listen", config.https.listen).await?;
        let admin = bind("admin.listen", config.admin.listen).await?;
        let ready = ready_line(
            &config,
            &data_dir,
            demo.as_ref(),
            &certificate,
            &[
                shards.address(),
                local(&http)?,
                local(&https)?,
                local(&admin)?,
            ],
        );

        // The admin port first, so that an operator sees a start that takes long.
        let readiness = Arc::new(Readiness::new());
        let drain_asked = Arc::new(Notify::new());
        let inside = Arc::new(OnceLock::new());
        let store_desk = StoreDesk::new(Arc::clone(&inside), data_dir.path(), config.store.engine);
        let (stop_admin, admin_stopped) = watch::channel(false);
        // It ends with its sender, should the start fail.
        let admin = tokio::spawn(api::serve(
            admin,
            None,
            admin_router(
                &keyring,
                metrics,
                &readiness,
                Arc::clone(&inside),
                store_desk,
                &drain_asked,
            )?,
            ServerSettings::new(64),
            admin_stopped,
        ));

        let (mut store, loaded) = open_store(&config, &data_dir, keyring.clone(), loss).await?;
        let projects = intern_projects(&config, demo.as_ref(), &mut *store)?;
        let sealer = sealer(&keyring)?;
        let now = Instant::now();
        let clock = WallClock::new(wall_now(), loaded.last_time, now);
        let directory = Arc::new(Directory::new(sealer, projects, &loaded));
        let presence = Arc::new(Presence::default());
        let mailboxes = shards.mailboxes();
        let settings = delivery_settings(&config);
        let (delivery, operations) = Delivery::new(
            settings,
            clock,
            Arc::clone(&directory),
            presence,
            mailboxes.clone(),
            loaded,
        );
        let committer = Committer::new(Arc::clone(&delivery), store, now)?;
        let sequencer = Arc::new(Sequencer::new(mailboxes));

        let committer = spawn("petrel-store", move || committer.run(operations))?;
        let shard_settings = ShardSettings {
            hello_timeout: config.session.hello_timeout,
            keep_alive: config.quic.keep_alive,
        };
        let shards = shards.start(shard_settings, &delivery, &sequencer)?;

        let permits = Arc::new(Semaphore::new(config.http.permits));
        let gauges = Gauges::new(
            Arc::clone(&delivery),
            shards.stats,
            Arc::clone(&permits),
            config.http.permits,
        );
        // Set once, here.
        let _ = inside.set(Inside {
            delivery: Arc::clone(&delivery),
            gauges,
        });
        let (stop_servers, stopped) = watch::channel(false);
        let clock_of = Arc::clone(&delivery);
        let router = api::router(ApiState {
            publisher: Arc::new(Publisher::new(Arc::clone(&delivery), sequencer)),
            directory,
            permits,
            readiness: Arc::clone(&readiness),
            now: Arc::new(move || clock_of.now()),
            settings: ApiSettings {
                body_bytes_max: config.http.body_max.as_usize(),
                ..ApiSettings::default()
            },
        });
        let http_settings = ServerSettings::new(config.http.connections_max);
        let tls = certificate.server_config(&[b"h2", b"http/1.1"])?;
        let servers = vec![
            tokio::spawn(api::serve(
                http,
                None,
                router.clone(),
                http_settings.clone(),
                stopped.clone(),
            )),
            tokio::spawn(api::serve(https, Some(tls), router, http_settings, stopped)),
        ];
        let chores = vec![
            tokio::spawn(watch_clock(Arc::clone(&delivery))),
            tokio::spawn(renew_certificate(Arc::clone(&certificate))),
        ];
        warn_of_exposure(&config, demo.is_some());
        data_dir.write_ready(&ready)?;
        readiness.advance(Phase::Ready);
        Ok(Self {
            config,
            data_dir,
            ready,
            readiness,
            delivery,
            certificate,
            drain_asked,
            stop_servers,
            stop_admin,
            servers,
            admin,
            chores,
            shards: shards.threads,
            committer,
        })
    }

    /// Where everything is.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Reads the certificate's files again and shows what they hold, to devices and over HTTPS. Connections that exist
    /// keep what they saw. Files that cannot be used are logged with the way out, and the certificate in force stays.
    ///
    /// # Cancel safety
    /// The files are read to the end.
    pub async fn reload_certificate(&self) {
        let certificate = Arc::clone(&self.certificate);
        let reloaded = tokio::task::spawn_blocking(move || certificate.reload(SystemTime::now()));
        match reloaded.await {
            Ok(Ok(true)) => tracing::info!("the certificate was read again and is another one"),
            Ok(Ok(false)) => tracing::info!("the certificate was read again and is the same"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the certificate was not reloaded: the one in force stays");
            }
            Err(_) => tracing::error!("reloading the certificate failed badly; please report it"),
        }
    }

    /// Returns when a drain was asked for through the admin port.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn drain_asked(&self) {
        self.drain_asked.notified().await;
    }

    /// Ends in order: publishes are refused, those that wait are answered, devices are sent away with their return
    /// spread, acks are awaited for a while, everything is made durable.
    ///
    /// # Errors
    /// [`NotDurable`] if the store could not be written to the end. Nothing that was answered is lost even so.
    ///
    /// # Cancel safety
    /// Cancelled it leaves threads behind; nothing that was answered is lost even so.
    pub async fn drain(self) -> Result<(), NotDurable> {
        self.readiness.advance(Phase::Draining);
        let patience = self.config.http.publish_timeout;
        // A store that fails must not keep the devices from being sent away.
        let _ = tokio::time::timeout(patience, self.delivery.flush()).await;
        let _ = self.stop_servers.send(true);
        let online = self.delivery.presence().online();
        let per_second = self.config.drain.reconnect_rate;
        tracing::info!(
            online,
            per_second,
            "draining: devices are told when to return"
        );
        let returns = Arc::new(Returns::new(per_second));
        for mailbox in self.delivery.mailboxes() {
            // Once for each shard.
            mailbox.push_bounded_elsewhere(Command::Drain {
                returns: Arc::clone(&returns),
                ack_wait: self.config.drain.ack_wait,
            });
        }
        join_all(self.shards).await;
        for server in self.servers {
            let _ = server.await;
        }
        let flushed = tokio::time::timeout(patience, self.delivery.flush()).await;
        if flushed.is_ok() {
            self.delivery.stop_committer().await;
            join_all(vec![self.committer]).await;
        }
        let _ = self.stop_admin.send(true);
        let _ = self.admin.await;
        for chore in self.chores {
            chore.abort();
        }
        if let Err(error) = self.data_dir.remove_ready() {
            tracing::warn!(%error, "ready.json stays behind");
        }
        if flushed.is_err() {
            return Err(NotDurable);
        }
        tracing::info!("drained: everything that was answered is durable");
        Ok(())
    }
}

fn admin_router(
    keyring: &Keyring,
    metrics: MetricsHandle,
    readiness: &Arc<Readiness>,
    inside: Arc<OnceLock<Inside>>,
    store: StoreDesk,
    drain_asked: &Arc<Notify>,
) -> Result<axum::Router, StartError> {
    let drain_asked = Arc::clone(drain_asked);
    Ok(api::admin_router(AdminState {
        readiness: Arc::clone(readiness),
        metrics,
        refresh: Arc::new(move || {
            if let Some(inside) = inside.get() {
                inside.gauges.refresh();
            }
        }),
        drain: Arc::new(move || drain_asked.notify_one()),
        store: Arc::new(store),
        key: AdminKey::new(keyring.admin()?.expose()),
    }))
}

/// Runs a future to its end on a thread of its own with a runtime of its own.
fn spawn<F, T>(
    name: &str,
    make: impl FnOnce() -> F + Send + 'static,
) -> Result<JoinHandle<()>, StartError>
where
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let run = AssertUnwindSafe(|| runtime.block_on(make()));
            if catch_unwind(run).is_err() {
                // Nobody could be served without it, and a restart loses nothing.
                tracing::error!(
                    "a thread of the broker panicked: the process ends; start it again"
                );
                std::process::abort();
            }
        })
        .map_err(StartError::Thread)
}

async fn join_all(threads: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the broker had panicked");
            }
        }
    });
    let _ = joined.await;
}

async fn watch_clock(delivery: Arc<Delivery>) {
    let mut interval = tokio::time::interval(CLOCK_INTERVAL);
    loop {
        interval.tick().await;
        if let Some(milliseconds) = delivery.observe_wall_clock(wall_now()) {
            tracing::warn!(
                milliseconds,
                "the system's clock jumped; deadlines follow it slowly, by at most 5 %"
            );
        }
    }
}

async fn renew_certificate(certificate: Arc<ServerCertificate>) {
    let mut interval = tokio::time::interval(CERTIFICATE_INTERVAL);
    loop {
        interval.tick().await;
        let certificate = Arc::clone(&certificate);
        let renewed =
            tokio::task::spawn_blocking(move || certificate.renew_if_due(SystemTime::now()));
        match renewed.await {
            Ok(Ok(true)) => tracing::info!("the server certificate was renewed"),
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the server certificate was not renewed"),
        }
    }
}

fn warn_of_exposure(config: &Config, has_demo_keys: bool) {
    let listens = [config.quic.listen, config.http.listen, config.https.listen];
    if has_demo_keys && listens.iter().any(|a| !a.ip().is_loopback()) {
        tracing::warn!(
            "the demo project's keys can be used beyond this machine; name a project of your own \
             in the configuration to be rid of it"
        );
    }
}
