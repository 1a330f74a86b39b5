//! The store's part of the admin port: sizes, and backups of a running broker.
//!
//! Reading is open, as for metrics; to begin a backup needs the admin key.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::admin::{AdminState, locked};
use super::body;

/// Longest body of a request here, in bytes: it names one directory.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// Longest time that it may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);

/// What will be known later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin port asks of the store.
pub trait StoreAdmin: Send + Sync {
    /// Sizes; `None` while the broker starts or ends.
    fn stats(&self) -> Later<'_, Option<Value>>;

    /// Begins a backup into a directory that does not exist yet; returns its state once it is under way.
    fn begin_backup(&self, directory: PathBuf) -> Later<'_, Result<Value, BackupRefusal>>;

    /// The state of the last backup.
    fn backup(&self) -> Value;
}

/// Why no backup was begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackupRefusal {
    /// Another one is being made.
    Busy,
    /// The directory cannot be used; how to go on.
    Directory(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupRequest {
    directory: PathBuf,
}

pub(super) async fn stats(State(state): State<AdminState>) -> Response {
    match state.store.stats().await {
        Some(stats) => json(StatusCode::OK, &stats),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the broker is starting or shutting down: its store cannot be asked now\n",
        )
            .into_response(),
    }
}

pub(super) async fn backup(State(state): State<AdminState>) -> Response {
    json(StatusCode::OK, &state.store.backup())
}

pub(super) async fn begin_backup(
    State(state): State<AdminState>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    if !state.key.opens(&headers) {
        body::discard(request.into_body()).await;
        return locked();
    }
    let read = body::read(request.into_body(), BODY_BYTES_MAX, BODY_TIME_MAX).await;
    let parsed = read
        .ok()
        .and_then(|bytes| serde_json::from_slice::<BackupRequest>(&bytes).ok());
    let Some(BackupRequest { directory }) = parsed else {
        let text =
            "send {\"directory\": \"/an/absolute/path\"}, a directory that does not exist yet\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    match state.store.begin_backup(directory).await {
        Ok(state) => json(StatusCode::ACCEPTED, &state),
        Err(BackupRefusal::Busy) => (
            StatusCode::CONFLICT,
            "another backup is being made: GET /store/backup says how far it is\n",
        )
            .into_response(),
        Err(BackupRefusal::Directory(problem)) => {
            (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response()
        }
    }
}

fn json(status: StatusCode, body: &Value) -> Response {
    let text = format!("{body}\n");
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A store that knows nothing and refuses all backups but one.
    pub(in super::super) struct NoStore;

    impl StoreAdmin for NoStore {
        fn stats(&self) -> Later<'_, Option<Value>> {
            Box::pin(async { Some(json!({ "disk_bytes": 7 })) })
        }

        fn begin_backup(&self, directory: PathBuf) -> Later<'_, Result<Value, BackupRefusal>> {
            Box::pin(async move {
                match directory.to_str() {
                    Some("/good") => Ok(json!({ "state": "copying" })),
                    Some("/busy") => Err(BackupRefusal::Busy),
                    _ => Err(BackupRefusal::Directory("no".into())),
                }
            })
        }

        fn backup(&self) -> Value {
            json!({ "state": "none" })
        }
    }
}
