//! The only place that calls the store for devices: each function does what the broker's committer does.

use std::time::SystemTime;

use anyhow::Result;
use petrel::store::{Enqueued, NewRegistration, Scan, ScanTerms, Store};
use petrel_core::queue::{FullPolicy, Limits};
use petrel_core::{Message, UnixMillis};
use petrel_protocol::session::Attributes;
use petrel_protocol::{MessageId, Ordinal, Platform, ProjectId, Urgency};

/// The broker's defaults.
const LIMITS: Limits = Limits {
    messages_max: 1000,
    bytes_max: 4 << 20,
    collapse_keys_max: 4,
    policy: FullPolicy::Evict,
};

/// The window in which an attaching device is sent what it is owed.
pub(crate) const WINDOW: usize = 16;

/// All devices are Android's.
const PLATFORM: Platform = Platform::Android;

/// Wall time.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Queues a message that nothing is in the way of.
pub(crate) fn enqueue(store: &mut dyn Store, device: Ordinal, message: &Message) -> Result<()> {
    let enqueued = store.enqueue(device, message, PLATFORM, LIMITS, message.accepted_at)?;
    match enqueued {
        Enqueued::Queued { dropped } if dropped.is_empty() => Ok(()),
        other => anyhow::bail!(
            "device {} has no room for a message ({other:?}); choose more --devices or fewer --messages",
            device.0
        ),
    }
}

/// What an attaching device is sent first.
pub(crate) fn scan(store: &mut dyn Store, device: Ordinal, now: UnixMillis) -> Result<Scan> {
    let scan = store.scan(
        device,
        ScanTerms {
            platform: PLATFORM,
            minimum_urgency: Urgency::VeryLow,
            limit: WINDOW,
            now,
        },
    )?;
    store.has_queue(device);
    Ok(scan)
}

/// Takes out what a device has acked.
pub(crate) fn settle(store: &mut dyn Store, device: Ordinal, ids: &[MessageId]) -> Result<()> {
    for &id in ids {
        anyhow::ensure!(
            store.settle(device, id)?,
            "an acked message was not in the queue of device {}",
            device.0
        );
        store.has_queue(device);
    }
    Ok(())
}

/// Registers a device with a secret hash of its own; the ordinal that it got.
pub(crate) fn register(store: &mut dyn Store, secret_hash: [u8; 32]) -> Result<Ordinal> {
    let registration = store.register(&NewRegistration {
        project: ProjectId(0),
        secret_hash,
        platform: PLATFORM,
        attributes: Attributes::default(),
        at: now(),
    })?;
    Ok(registration.ordinal)
}
