//! The admin port: health, readiness, metrics, and the calls that change something.
//!
//! Whoever reaches the port may read; whatever changes the broker needs the admin key as bearer token.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::auth::AdminKey;
use super::body;
use super::readiness::{Phase, Readiness};
use super::store_admin::{self, StoreAdmin};
use crate::telemetry::MetricsHandle;

/// The version of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin port works with.
#[derive(Clone)]
pub struct AdminState {
    /// What `/readyz` tells.
    pub readiness: Arc<Readiness>,
    /// What `/metrics` shows.
    pub metrics: MetricsHandle,
    /// Runs before metrics are shown, so that gauges are fresh. It must not block.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Starts a drain and returns at once. Called again, it changes nothing.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// What `/store/` tells and starts.
    pub store: Arc<dyn StoreAdmin>,
    /// Opens the calls that change something.
    pub key: AdminKey,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// The admin port as a router for [`serve`](super::serve).
pub fn admin_router(state: AdminState) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/drain", post(drain))
        .route("/store/stats", get(store_admin::stats))
        .route(
            "/store/backup",
            get(store_admin::backup).post(store_admin::begin_backup),
        )
        .with_state(state)
}

async fn ready(State(state): State<AdminState>) -> Response {
    let refused = |reason: &'static str| {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            [(RETRY_AFTER, "1")],
            reason,
        )
            .into_response()
    };
    match state.readiness.phase() {
        Phase::Ready => "ready\n".into_response(),
        Phase::Starting => refused("starting: not all of the broker is up yet\n"),
        Phase::Draining => refused("draining: the broker is shutting down\n"),
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    (state.refresh)();
    ([(CONTENT_TYPE, PROMETHEUS)], state.metrics.render()).into_response()
}

async fn drain(State(state): State<AdminState>, headers: HeaderMap, request: Request) -> Response {
    body::discard(request.into_body()).await;
    if !state.key.opens(&headers) {
        return locked();
    }
    tracing::info!("drain was asked for on the admin port");
    (state.drain)();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

/// The answer to whoever wants to change something without the key.
pub(super) fn locked() -> Response {
    (
        StatusCode::UNAUTHORIZED,
        [(WWW_AUTHENTICATE, "Bearer realm=\"petrel admin\"")],
        "send the admin key from the data directory as Authorization: Bearer KEY\n",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use hyper::Method;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::telemetry;

    struct Admin {
        state: AdminState,
        refreshed: Arc<AtomicUsize>,
        drained: Arc<AtomicUsize>,
    }

    fn admin() -> Admin {
        let counting = || {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            let count_up: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            });
            (count, count_up)
        };
        let (refreshed, refresh) = counting();
        let (drained, drain) = counting();
        Admin {
            state: AdminState {
                readiness: Arc::new(Readiness::new()),
                metrics: telemetry::install(),
                refresh,
                drain,
                store: Arc::new(store_admin::tests::NoStore),
                key: AdminKey::new("operator"),
            },
            refreshed,
            drained,
        }
    }

    async fn ask(admin: &Admin, method: Method, path: &str, key: Option<&str>) -> (u16, String) {
        ask_with(admin, method, path, key, "ignored").await
    }

    async fn ask_with(
        admin: &Admin,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let service = TowerToHyperService::new(admin_router(admin.state.clone()));
        let answer = service.call(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_is_life_and_readiness_is_the_phase() {
        let admin = admin();
        let ready = |expected: u16, reason: &'static str| {
            let admin = &admin;
            async move {
                let (status, text) = ask(admin, Method::GET, "/readyz", None).await;
                assert_eq!(status, expected);
                assert!(text.starts_with(reason), "{text}");
                let health = ask(admin, Method::GET, "/healthz", None).await;
                assert_eq!(health, (200, "ok\n".to_owned()));
            }
        };
        ready(503, "starting").await;
        admin.state.readiness.advance(Phase::Ready);
        ready(200, "ready").await;
        admin.state.readiness.advance(Phase::Draining);
        ready(503, "draining").await;
    }

    #[tokio::test]
    async fn metrics_are_fresh() {
        let admin = admin();
        let (status, text) = ask(&admin, Method::GET, "/metrics", None).await;
        assert_eq!(status, 200);
        assert!(text.contains("# TYPE petrel_delivery_settled_total counter"));
        assert_eq!(admin.refreshed.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_drain_needs_the_key() {
        let admin = admin();
        for key in [None, Some("operato"), Some("operator2"), Some("")] {
            let (status, text) = ask(&admin, Method::POST, "/drain", key).await;
            assert_eq!(status, 401, "{key:?}");
            assert!(!text.contains("operator2"));
        }
        assert_eq!(
            ask(&admin, Method::GET, "/drain", Some("operator")).await.0,
            405
        );
        assert_eq!(admin.drained.load(Ordering::Relaxed), 0);
        assert_eq!(
            ask(&admin, Method::POST, "/drain", Some("operator"))
                .await
                .0,
            202
        );
        assert_eq!(admin.drained.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_store_is_read_openly_and_backed_up_with_the_key() {
        let admin = admin();
        let (status, text) = ask(&admin, Method::GET, "/store/stats", None).await;
        assert_eq!((status, text.trim_end()), (200, "{\"disk_bytes\":7}"));
        assert_eq!(ask(&admin, Method::GET, "/store/backup", None).await.0, 200);
        for key in [None, Some("operato"), Some("")] {
            let refused = ask(&admin, Method::POST, "/store/backup", key).await;
            assert_eq!(refused.0, 401, "{key:?}");
        }
        for (body, expect) in [
            ("{\"directory\":\"/good\"}", 202),
            ("{\"directory\":\"/busy\"}", 409),
            ("{\"directory\":\"/bad\"}", 400),
            ("{\"directory\":7}", 400),
            ("{\"directory\":\"/good\",\"more\":1}", 400),
            ("", 400),
        ] {
            let answer = ask_with(
                &admin,
                Method::POST,
                "/store/backup",
                Some("operator"),
                body,
            )
            .await;
            assert_eq!(answer.0, expect, "{body}: {}", answer.1);
        }
        let long = format!("{{\"directory\":\"/{}\"}}", "a".repeat(20_000));
        let answer = ask_with(
            &admin,
            Method::POST,
            "/store/backup",
            Some("operator"),
            &long,
        )
        .await;
        assert_eq!(answer.0, 400);
    }

    #[tokio::test]
    async fn what_does_not_exist_is_not_found() {
        assert_eq!(ask(&admin(), Method::GET, "/", None).await.0, 404);
    }
}
