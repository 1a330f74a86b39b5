//! Where publishers send: HTTP in, [`Publisher::publish`] out.
//!
//! Each dialect is one folder that turns a request into a target and a [`Draft`](petrel_core::Draft), and an outcome
//! into its own answer; today there is FCM HTTP v1 ([`router`]). Beside the dialects stand the resources that they share
//! (`devices`). What all dialects share lies beside it: the table of
//! [`Cause`]s, bearer keys, bounded bodies, [`Readiness`], the accept loop ([`serve`]). The admin port has a router of
//! its own ([`admin_router`]).
//!
//! It decides nothing about delivery, knows no session and no store, prints no key or token, and reads no clock: the
//! time is a function in [`ApiState`]. `broker.rs` puts it together.
//!
//! Admission comes before work: a request takes one of [`ApiState::permits`] before its body is read, the body is
//! bounded in bytes and time, and the key is checked before anything is parsed. The most that bodies can take is
//! permits × [`ApiSettings::body_bytes_max`].

mod admin;
mod admission;
mod answer;
mod auth;
mod body;
mod cause;
mod devices;
mod fault;
mod fcm;
mod json;
mod readiness;
mod server;
mod store_admin;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get, post};
use petrel_core::UnixMillis;
use tokio::sync::Semaphore;

use crate::directory::Directory;
use crate::fanout::Publisher;

pub use admin::{AdminState, admin_router};
pub use auth::AdminKey;
pub use cause::Cause;
pub use readiness::{Phase, Readiness};
pub use server::{ServerSettings, serve};
pub use store_admin::{BackupRefusal, Later, StoreAdmin};

/// Bounds of the publish API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Longest body of a request; a longer one is answered 413.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive, from its first byte to its last; a slower one is answered 408.
    pub body_timeout: Duration,
    /// What `Retry-After` says where the broker has nothing better to say.
    pub retry_after: Duration,
}

impl Default for ApiSettings {
    /// 64 KiB, 10 s, 1 s. FCM's payload of 4,096 bytes is at most some 30 KiB of JSON when every byte is escaped.
    fn default() -> Self {
        Self {
            body_bytes_max: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            retry_after: Duration::from_secs(1),
        }
    }
}

/// What the publish API works with.
#[derive(Clone)]
pub struct ApiState {
    /// Takes what was checked.
    pub publisher: Arc<Publisher>,
    /// Knows projects and their keys.
    pub directory: Arc<Directory>,
    /// Publishes in progress at once; when none is left, a request is answered 503 before its body is read.
    pub permits: Arc<Semaphore>,
    /// Whether publishes are taken at all.
    pub readiness: Arc<Readiness>,
    /// The broker's wall clock, for expiry times that a publisher gives as an instant.
    pub now: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    /// Bounds.
    pub settings: ApiSettings,
}

/// The publish API as a router for [`serve`].
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route(fcm::SEND, post(fcm::send))
        .route(devices::DEVICE, delete(devices::erase))
        .route(devices::HISTORY, get(devices::history))
        .method_not_allowed_fallback(admission::wrong_method)
        .fallback(admission::unknown_path)
        .with_state(Arc::new(state))
}
