//! What the tests of the whole broker share: the real binary ([`Broker`]), a publisher ([`Api`]), and a device that can
//! also misbehave ([`RawDevice`], [`Wire`]).
//!
//! Everything waits for a condition and gives up after [`PATIENCE`], saying what it waited for. Ports are free ones,
//! directories temporary, and a broker ends with the test that started it.

#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test binary uses its own part of this, and a test fails by panicking"
)]

mod api;
mod broker;
mod device;
mod wire;

use std::time::Duration;

pub(crate) use self::api::{Answer, Api};
pub(crate) use self::broker::{Broker, Options, Pool, Shared};
pub(crate) use self::device::{RawDevice, SECRET_BYTES, id, label, new_secret};
pub(crate) use self::wire::{Closed, End, SERVER_NAME, Wire, connect, endpoint, tls};

/// Nothing here takes this long; a test that hangs says where instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at that nobody announces.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Waits for a future, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until something holds that no event tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
}
