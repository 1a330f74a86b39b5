//! The accept loop: from a listener and a router to served connections, and to an orderly end.
//!
//! Plain or TLS, HTTP/1.1 and HTTP/2 on both (ALPN decides under TLS, the client's first bytes otherwise). A place is
//! taken before a connection is accepted, so the number of connections is bounded; more wait in the kernel's backlog.
//! Each connection is one task, owned by the loop. On shutdown nothing new is accepted, every connection is told
//! (`GOAWAY`, `Connection: close`), and what is not done in [`ServerSettings::drain_timeout`] is cut.
//!
//! It knows nothing of push and nothing of what the router does.

mod connection;
mod stream_tasks;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::telemetry::{self, Metric};
use connection::{End, Shared};

/// How long to wait after the kernel would not hand over a connection: usually descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Bounds of a server. Clones share the bound on connections, so HTTP and HTTPS can count together.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Places for connections; while none is free, new ones wait in the kernel's backlog.
    pub connections: Arc<Semaphore>,
    /// How long a request's head may take to arrive, counted from when one could begin: it also ends an HTTP/1.1
    /// connection that rests this long between requests, and any connection without a first request. Default 30 s.
    pub header_timeout: Duration,
    /// How long an HTTP/2 connection may rest without a request before it is told to go. Default 5 min.
    pub idle_timeout: Duration,
    /// How long a TLS handshake may take. Default 10 s.
    pub tls_handshake_timeout: Duration,
    /// How long requests in progress may go on after a connection was told to go. Default 10 s.
    pub drain_timeout: Duration,
}

impl ServerSettings {
    /// The defaults, with at most so many connections.
    #[must_use]
    pub fn new(connections_max: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections_max)),
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            tls_handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves a router on a listener until `shutdown` holds `true` or its sender is gone; then drains.
///
/// With `tls` every connection is TLS; the protocols offered by ALPN are set here. Returns the number of connections
/// that had to be cut because they were not done in time.
///
/// # Cancel safety
/// Dropping the future closes the listener and cuts every connection at once.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    settings: ServerSettings,
    mut shutdown: watch::Receiver<bool>,
) -> usize {
    let shared = Arc::new(Shared {
        tls: tls.map(|config| TlsAcceptor::from(with_alpn(&config))),
        router,
        settings,
        shutdown: shutdown.clone(),
    });
    let mut tasks = JoinSet::new();
    let mut cut = 0;
    while let Some((permit, stream)) =
        next(&listener, &shared, &mut shutdown, &mut tasks, &mut cut).await
    {
        tasks.spawn(connection::run(Arc::clone(&shared), stream, permit));
    }
    drop(listener);
    while let Some(ended) = tasks.join_next().await {
        note(ended, &mut cut);
    }
    cut
}

/// The next connection with its place; `None` on shutdown. Meanwhile takes note of those that end.
async fn next(
    listener: &TcpListener,
    shared: &Shared,
    shutdown: &mut watch::Receiver<bool>,
    tasks: &mut JoinSet<End>,
    cut: &mut usize,
) -> Option<(OwnedSemaphorePermit, TcpStream)> {
    let accepted = accept(listener, &shared.settings.connections);
    tokio::pin!(accepted);
    loop {
        tokio::select! {
            biased;
            () = stopped(shutdown) => return None,
            Some(ended) = tasks.join_next() => note(ended, cut),
            accepted = &mut accepted => return accepted,
        }
    }
}

/// A place, then a connection for it. `None` when the places were closed.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(OwnedSemaphorePermit, TcpStream)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((permit, stream)),
            // The peer was gone before we came: not our concern.
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                telemetry::counter(Metric::ApiAcceptErrors, 1);
                tracing::warn!(%error, "cannot accept HTTP connections; look at the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Resolves once `shutdown` holds `true` or nobody can say so any more.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an order to stop as well.
    let _ = shutdown.wait_for(|is_stopping| *is_stopping).await;
}

fn note(ended: Result<End, JoinError>, cut: &mut usize) {
    let end = ended.unwrap_or_else(|error| {
        if error.is_panic() {
            tracing::error!("a panic while serving HTTP closed a connection; please report it");
        }
        End::Panicked
    });
    if end == End::Cut {
        *cut += 1;
    }
    telemetry::counter_with(Metric::ApiConnectionsEnded, end.as_str(), 1);
}

/// The same configuration, offering HTTP/2 and HTTP/1.1.
fn with_alpn(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
