//! The life of a registration: when its device was last seen, its end after a long absence, its erasure.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use petrel_core::{Day, UnixMillis};
use petrel_protocol::{ErrorCode, Ordinal, ProjectId};
use tokio::sync::oneshot;

use super::Delivery;
use super::command::{Command, Refusal};
use super::operation::{Change, Operation};
use super::publish::PublishError;

/// While nobody could connect, nobody was absent: a broker that was down for longer than this has patience.
const DOWN_MAX: Duration = Duration::from_secs(2 * 86_400);

/// How long nobody is taken for absent after that. It also keeps all registrations where a clock is set to a wrong year.
const PATIENCE: Duration = Duration::from_secs(30 * 86_400);

/// Until when no registration ends for an absence, and whether that is new.
pub(super) fn patience(
    now: UnixMillis,
    last_time: UnixMillis,
    patient_until: UnixMillis,
) -> (UnixMillis, bool) {
    let was_down = last_time != UnixMillis(0) && last_time.after(DOWN_MAX) < now;
    if was_down {
        tracing::warn!(
            days = (now.0 - last_time.0) / 86_400_000,
            "the broker was down for long, or the clock was set: for 30 days no registration ends for an absence"
        );
        (now.after(PATIENCE), true)
    } else {
        (patient_until, false)
    }
}

impl Delivery {
    /// Ends the registration of a token and erases what belongs to it: queue, attributes, subscriptions. Returns once
    /// that is durable. Its session, if it has one, ends with `unregistered`. From sets of broadcasts, which name the
    /// device by a number that is never used again, it goes at the next start.
    ///
    /// # Errors
    /// [`PublishError`], as for a publish to this token; [`PublishError::Store`] if the store failed.
    ///
    /// # Cancel safety
    /// Cancelled before the store has room for it nothing happened; after that it goes on.
    pub async fn erase(
        self: &Arc<Self>,
        project: ProjectId,
        token: &str,
    ) -> Result<(), PublishError> {
        let device = self.resolve(project, token)?.ordinal;
        let place = self.operations.reserve().await;
        let place = place.map_err(|_| PublishError::Store)?;
        let (answer, answered) = oneshot::channel();
        let delivery = Arc::clone(self);
        place.send(Operation::Change {
            device,
            change: Change::Unregister,
            reply: Box::new(move |result| {
                delivery.end_session(device, &result);
                // Whoever asked may have gone: it is done nevertheless.
                let _ = answer.send(result);
            }),
        });
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(PublishError::Store),
        }
    }

    /// Tells the session of a device whose registration has ended.
    pub(super) fn end_session(&self, device: Ordinal, ended: &Result<(), Refusal>) {
        let Some(place) = self.presence.find(device).filter(|_| ended.is_ok()) else {
            return;
        };
        if let Some(mailbox) = self.mailboxes.get(usize::from(place.shard.0)) {
            // At most one for each registration.
            mailbox.push_bounded_elsewhere(Command::End {
                conn: place.conn,
                code: ErrorCode::Unregistered,
            });
        }
    }

    /// Remembers that a device was here today. Written behind.
    pub(super) fn saw(&self, device: Ordinal) {
        if self.directory.saw(device, Day::of(self.now())) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(device.0);
        }
    }

    /// Takes some of the devices whose last day is to be written.
    pub(super) fn take_seen(&self, devices_max: usize) -> Vec<Ordinal> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let some: Vec<u32> = seen.iter().take(devices_max).collect();
        for device in &some {
            seen.remove(*device);
        }
        some.into_iter().map(Ordinal).collect()
    }
}
