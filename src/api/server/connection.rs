//! One connection, from accept to its end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::stream_tasks::StreamTasks;
use super::{ServerSettings, stopped};
use crate::telemetry::{self, Metric};

/// Requests in progress on one HTTP/2 connection. SDKs send batches over 100 streams.
const STREAMS_MAX: u32 = 256;

/// Longest head of a request, in bytes, in both versions of HTTP.
const HEAD_BYTES_MAX: u32 = 16 * 1024;

/// Most headers of a request in HTTP/1.1.
const HEADERS_MAX: usize = 64;

/// What an HTTP/2 client may send ahead on one stream and on all, in bytes: the most that unread bodies hold.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// What one HTTP/2 stream may hold to be sent, in bytes; answers are a few hundred.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Streams that a client opened and reset before they were looked at; one more ends the connection ("rapid reset",
/// CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 32;

/// Streams that we had to reset because of the client's errors; one more ends the connection.
const ERROR_RESETS_MAX: usize = 256;

/// How often a quiet HTTP/2 connection is asked whether it lives, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) router: Router,
    pub(super) settings: ServerSettings,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Both sides were done.
    Closed,
    /// It rested for too long, or a request's head took too long.
    Idle,
    /// The server ends and it was done in time.
    Drained,
    /// It was told to go and was not done in time.
    Cut,
    /// The peer broke it, or the rules of HTTP.
    Failed,
    /// TLS could not be agreed on.
    HandshakeFailed,
    /// TLS took too long.
    HandshakeSlow,
    /// A fault of the broker.
    Panicked,
}

impl End {
    /// The label of the metric.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::Cut => "cut",
            Self::Failed => "failed",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeSlow => "handshake_slow",
            Self::Panicked => "panicked",
        }
    }
}

/// The place of a connection, counted.
struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        telemetry::gauge_add(Metric::ApiConnections, 1);
        Self(permit)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        telemetry::gauge_add(Metric::ApiConnections, -1);
    }
}

/// Serves one connection and gives its place back.
pub(super) async fn run(
    shared: Arc<Shared>,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) -> End {
    let _place = Place::new(permit);
    // Answers are small and complete: waiting to fill a segment only delays them. On failure they are late, no more.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &shared.tls else {
        return serve(&shared, stream).await;
    };
    let mut shutdown = shared.shutdown.clone();
    let handshake = timeout(shared.settings.tls_handshake_timeout, tls.accept(stream));
    tokio::select! {
        biased;
        () = stopped(&mut shutdown) => End::Drained,
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => serve(&shared, stream).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                End::HandshakeFailed
            }
            Err(_) => End::HandshakeSlow,
        }
    }
}

async fn serve<T>(shared: &Shared, transport: T) -> End
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(&shared.settings));
    let service = {
        let router = TowerToHyperService::new(shared.router.clone());
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            let in_progress = InProgress::new(&activity);
            let answer = hyper::service::Service::call(&router, request);
            async move {
                let answer: Result<Response<Body>, _> = answer.await;
                drop(in_progress);
                answer
            }
        })
    };
    let builder = builder(&shared.settings);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(transport), service));
    let mut shutdown = shared.shutdown.clone();

    let told = tokio::select! {
        biased;
        ended = connection.as_mut() => return ended.map_or_else(|error| of_error(&*error), |()| End::Closed),
        () = stopped(&mut shutdown) => End::Drained,
        () = activity.rested() => End::Idle,
    };
    connection.as_mut().graceful_shutdown();
    // A connection that was told to go before its first byte ends with an error and has gone well nevertheless.
    match timeout(shared.settings.drain_timeout, connection).await {
        Ok(_) => told,
        Err(_) => End::Cut,
    }
}

fn of_error(error: &(dyn std::error::Error + Send + Sync + 'static)) -> End {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_timeout() => End::Idle,
        _ => End::Failed,
    }
}

fn builder(settings: &ServerSettings) -> auto::Builder<StreamTasks> {
    let mut builder = auto::Builder::new(StreamTasks::default());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX as usize)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// When a connection last had something to do.
///
/// hyper bounds how long a head may take once it knows the version of HTTP; neither the wait for the first bytes nor
/// an HTTP/2 connection that only answers pings is bounded by it.
struct Activity {
    opened_at: Instant,
    in_progress: AtomicUsize,
    /// Milliseconds after `opened_at` at which the last request ended; 0 before the first.
    rests_since_ms: AtomicU64,
    first_request_timeout: Duration,
    idle_timeout: Duration,
}

impl Activity {
    fn new(settings: &ServerSettings) -> Self {
        Self {
            opened_at: Instant::now(),
            in_progress: AtomicUsize::new(0),
            rests_since_ms: AtomicU64::new(0),
            first_request_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
        }
    }

    /// The moment from which it has rested too long, as things stand.
    fn deadline(&self) -> Instant {
        if self.in_progress.load(Ordering::Acquire) > 0 {
            return Instant::now() + self.idle_timeout;
        }
        match self.rests_since_ms.load(Ordering::Acquire) {
            0 => self.opened_at + self.first_request_timeout,
            ms => self.opened_at + Duration::from_millis(ms) + self.idle_timeout,
        }
    }

    /// Resolves once it has rested too long.
    async fn rested(&self) {
        loop {
            let (now, deadline) = (Instant::now(), self.deadline());
            if deadline <= now {
                return;
            }
            // A request in between can bring the deadline forward, but not below this.
            sleep_until(deadline.min(now + self.idle_timeout)).await;
        }
    }
}

/// A request that is being answered.
struct InProgress(Arc<Activity>);

impl InProgress {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.in_progress.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let since = self.0.opened_at.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX).max(1);
        self.0.rests_since_ms.store(since, Ordering::Release);
        self.0.in_progress.fetch_sub(1, Ordering::AcqRel);
    }
}
