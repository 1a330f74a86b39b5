//! One session: the loop that moves bytes, keeps what arrives, acks what is kept, and hands it over.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use petrel_protocol::session::{DeviceEvent, DeviceSession, Welcomed};
use petrel_protocol::wire;
use petrel_protocol::{DeviceToken, ErrorCode, MINOR_VERSION, MessageId, Urgency};
use tokio::time::{Instant, sleep_until};

use super::link::{Link, OUT_BYTES_MAX, lost, part};
use super::path::{ended, moment};
use super::shared::Item;
use super::{Driver, End, asked_to_close, closed_by_app, events_dropped};
use crate::backoff::STABLE_AFTER;
use crate::device::now_ms;
use crate::dial::explain;
use crate::error::{Cause, CauseKind};
use crate::event::{Event, Gap};
use crate::message::{Kept, Message};
use crate::storage::InboxRecord;

/// A broker that let the connection in and does not answer the opening is given up after this.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pieces of the stream taken at a time. What arrived together is stored by one write and acked by one frame.
const PIECES: usize = 32;
/// The cursor is a hint (PROTO-33): storing it more often than this would only wear the flash.
const CURSOR_EVERY: Duration = Duration::from_secs(30);
/// Why the loop woke up.
enum Wake {
    Close(Cause),
    Written(Result<usize, quinn::WriteError>),
    Handed,
    Command(Option<super::Command>),
    Read(Result<Option<usize>, quinn::ReadError>),
    Settled,
    Network,
    Pulse,
    OpeningLate,
    Lost(quinn::ConnectionError),
}

/// What one frame asks for, once the turn's messages are kept.
enum Step {
    HandOver(Kept),
    Handle(DeviceEvent),
}

impl Driver {
    pub(super) async fn session(&mut self, connection: quinn::Connection, broker: &str) -> End {
        let (send, recv) = match connection.open_bi().await {
            Ok(stream) => stream,
            Err(error) => return End::failed(explain(broker, &error)),
        };
        let now = Instant::now();
        let registering = self.registration.token.is_none();
        let mut link = Link {
            broker: broker.to_owned(),
            connection,
            send,
            recv,
            session: self.opening(),
            out: BytesMut::new(),
            started: now,
            welcomed: None,
            registering,
            pulse: self.pulse(),
            cursor_saved_at: now,
        };
        let mut end = self.drive(&mut link).await;
        end.opened = link.welcomed.is_some();
        end.stable = link.welcomed.is_some_and(|at| at.elapsed() >= STABLE_AFTER);
        self.requests.end();
        part(&mut link, &end).await;
        if end.opened && self.registration.token.is_some() {
            let _ = self.save().await;
        }
        end
    }

    fn opening(&self) -> DeviceSession {
        let minimum = self.state.minimum_urgency.unwrap_or(Urgency::VeryLow);
        let minimum_urgency = minimum.to_wire() as i32;
        let sdk = self.settings.sdk.clone();
        let secret = self.registration.secret.to_wire();
        if let Some(token) = self.registration.token.clone() {
            let cursor = self.registration.cursor;
            return DeviceSession::hello(wire::Hello {
                token,
                secret,
                minor_version: MINOR_VERSION,
                features: 0,
                sdk,
                cursor: (cursor != MessageId::ZERO).then(|| cursor.into()),
                minimum_urgency,
            });
        }
        let attributes = self.attributes.clone().unwrap_or_default();
        DeviceSession::register(wire::Register {
            project: self.registration.project.clone(),
            app_key: self.settings.app_key.clone(),
            secret,
            platform: self.settings.platform.to_wire() as i32,
            locale: attributes.locale,
            time_zone: attributes.time_zone,
            app_version: attributes.app_version,
            user: attributes.user,
            attributes: attributes.free,
            minor_version: MINOR_VERSION,
            features: 0,
            sdk,
            minimum_urgency,
        })
    }

    async fn drive(&mut self, link: &mut Link) -> End {
        loop {
            if link.welcomed.is_some() {
                self.send_requests(link);
            }
            link.collect();
            if !link.out.is_empty() {
                let rtt = link.connection.rtt();
                link.pulse.handle_write(moment(), link.counters(), rtt);
            }
            match self.wake(link).await {
                (Wake::Close(cause), _) => return End::by_app(cause),
                (Wake::Written(Ok(written)), _) => drop(link.out.split_to(written)),
                (Wake::Written(Err(error)), _) => return End::failed(lost(link, error.into())),
                (Wake::Handed, _) => {}
                (Wake::Settled, _) => self.forget_told_previous().await,
                (Wake::Command(None), _) => self.has_handles = false,
                (Wake::Command(Some(command)), _) => {
                    let open = link.welcomed.is_some();
                    if let Some(frame) = self.handle_command(command, open).await {
                        link.session.say(frame);
                    }
                }
                (Wake::Network, _) => self.move_to_network(link),
                (Wake::Pulse, _) => {
                    if let Err(end) = self.beat(link).await {
                        return end;
                    }
                }
                (Wake::OpeningLate, _) => {
                    let text = format!(
                        "{} accepted the connection but did not answer within {} s",
                        link.broker,
                        OPENING_TIMEOUT.as_secs()
                    );
                    return End::failed(Cause::new(CauseKind::NoAnswer, text));
                }
                (Wake::Lost(error), _) => return ended(link, &error),
                (Wake::Read(Ok(Some(count))), pieces) => {
                    link.pulse.handle_read(moment());
                    let mut events = Vec::new();
                    for piece in pieces.into_iter().take(count) {
                        link.session.handle_bytes(piece);
                        events.extend(std::iter::from_fn(|| link.session.poll_event()));
                    }
                    if let Err(end) = self.turn(link, events).await {
                        return end;
                    }
                }
                (Wake::Read(Ok(None)), _) => {
                    let text = format!("{} ended the stream", link.broker);
                    return End::failed(Cause::new(CauseKind::Lost, text));
                }
                (Wake::Read(Err(error)), _) => return End::failed(lost(link, error.into())),
            }
        }
    }

    /// Waits for something to do. Every branch is cancel safe.
    async fn wake(&mut self, link: &mut Link) -> (Wake, [Bytes; PIECES]) {
        let mut pieces: [Bytes; PIECES] = Default::default();
        let may_read = self.may_read();
        let pulse_at = Instant::from_std(link.pulse.poll_timeout());
        let wake = tokio::select! {
            biased;
            () = asked_to_close(&mut self.closing) => Wake::Close(closed_by_app()),
            () = self.events.closed() => Wake::Close(events_dropped()),
            // Before everything else that takes time: acks ride in the packet that acknowledges what they ack.
            written = link.send.write(&link.out), if !link.out.is_empty() => Wake::Written(written),
            permit = self.events.reserve(), if !self.outbox.is_empty() => {
                if let (Ok(permit), Some(item)) = (permit, self.outbox.pop()) {
                    permit.send(item);
                }
                Wake::Handed
            }
            command = self.commands.recv(), if self.has_handles && link.out.len() < OUT_BYTES_MAX => {
                Wake::Command(command)
            }
            // Before `closed`: what a broker said before it closed is still to be read.
            read = link.recv.read_chunks(&mut pieces), if may_read => Wake::Read(read),
            () = self.inbox.settled() => Wake::Settled,
            () = self.shared.network_changed() => Wake::Network,
            () = sleep_until(pulse_at) => Wake::Pulse,
            () = sleep_until(link.started + OPENING_TIMEOUT), if link.welcomed.is_none() => Wake::OpeningLate,
            error = link.connection.closed() => Wake::Lost(error),
        };
        (wake, pieces)
    }

    /// What arrived together: keeps it, then acks it, then hands it over.
    async fn turn(&mut self, link: &mut Link, events: Vec<DeviceEvent>) -> Result<(), End> {
        let now = now_ms();
        let mut records: Vec<InboxRecord> = Vec::new();
        let mut acks: Vec<MessageId> = Vec::new();
        let mut steps = Vec::with_capacity(events.len());
        for event in events {
            let kept = match event {
                DeviceEvent::Deliver(frame) => Message::from_wire(*frame, now).map(Kept::Message),
                DeviceEvent::Gap(frame) => Gap::from_wire(frame).map(Kept::Gap),
                other => {
                    steps.push(Step::Handle(other));
                    continue;
                }
            };
            let Some(kept) = kept else {
                let text = "a message without an id".to_owned();
                steps.push(Step::Handle(DeviceEvent::Fault(ErrorCode::Malformed, text)));
                break;
            };
            let id = kept.id();
            acks.push(id);
            // PROTO-27: a repeat is kept already; it is acked, and not handed over.
            if self.inbox.knows(id) || records.iter().any(|record| record.id == id) {
                tracing::trace!(%id, "repeat dropped");
                continue;
            }
            let body = serde_json::to_string(&kept).map_err(|e| {
                End::failed(Cause::new(
                    CauseKind::Storage,
                    format!("cannot write a message as JSON: {e}"),
                ))
            })?;
            records.push(InboxRecord { id, body });
            steps.push(Step::HandOver(kept));
        }
        if !records.is_empty() {
            let append = self.on_storage(move |inbox| inbox.append(&records));
            append.await.map_err(|e| End::failed(Cause::storage(&e)))?;
        }
        // PROTO-23: from here on every one of them survives the app.
        acks.into_iter().for_each(|id| link.session.ack(id));
        let mut ended = Ok(());
        for step in steps {
            match step {
                // Even if something before it ended the session: what is acked must reach the app.
                Step::HandOver(kept) => self.outbox.push(Item::kept(kept, false, &self.inbox)),
                Step::Handle(event) if ended.is_ok() => ended = self.handle(link, event).await,
                Step::Handle(_) => {}
            }
        }
        ended
    }

    async fn handle(&mut self, link: &mut Link, event: DeviceEvent) -> Result<(), End> {
        match event {
            DeviceEvent::Registered(token) => self.registered(&token).await?,
            DeviceEvent::Welcome(welcomed) => self.welcomed(link, welcomed).await?,
            DeviceEvent::Recall(id) => self.outbox.push_event(Event::Recall { id }),
            DeviceEvent::Settled(cursor) => {
                self.registration.cursor = cursor;
                if link.cursor_saved_at.elapsed() >= CURSOR_EVERY {
                    link.cursor_saved_at = Instant::now();
                    self.store().await?;
                }
            }
            DeviceEvent::Result(id, answer) => self.answered(id, answer).await?,
            DeviceEvent::KeepAlive(seconds) => self.hinted(link, seconds),
            DeviceEvent::Reconnect { after_ms, to } => {
                let text = format!(
                    "the broker is about to go and told the device to come back after {after_ms} ms"
                );
                return Err(End {
                    moved: Some((Duration::from_millis(after_ms), to)),
                    ..End::failed(Cause::new(CauseKind::Reconnect, text))
                });
            }
            DeviceEvent::Error {
                number,
                message,
                retry_after_ms,
            } => return Err(End::failed(Cause::broker(number, &message, retry_after_ms))),
            DeviceEvent::Fault(code, what) => {
                let text = format!("the broker broke the protocol: {what}");
                return Err(End::failed(Cause::broker(code as u32, &text, 0)));
            }
            DeviceEvent::Ignored => {}
            // Taken care of before the turn's write.
            DeviceEvent::Deliver(_) | DeviceEvent::Gap(_) => {}
        }
        Ok(())
    }

    /// PROTO-15: the token, stored before the app hears of it.
    async fn registered(&mut self, token: &DeviceToken) -> Result<(), End> {
        self.registration.token = Some(token.as_str().to_owned());
        self.registration.attributes = Some(self.attributes.clone().unwrap_or_default());
        // The same secret may give the token that the app knows already: then none has died.
        if self.registration.previous == self.registration.token {
            self.registration.previous = None;
        }
        self.store().await
    }

    async fn welcomed(&mut self, link: &mut Link, welcomed: Welcomed) -> Result<(), End> {
        link.welcomed = Some(Instant::now());
        self.renewed = false;
        self.registration.cursor = welcomed.settled_up_to;
        self.hinted(link, welcomed.keep_alive_seconds);
        let Some(token) = self.registration.token() else {
            return Ok(());
        };
        tracing::debug!(
            token = token.short(),
            resumed = !link.registering,
            "session open"
        );
        self.shared.set_token(Some(token.clone()));
        self.outbox.push_status(Event::Registered {
            token,
            resumed: !link.registering,
            previous: self
                .registration
                .previous
                .as_deref()
                .map(DeviceToken::from_text),
        });
        self.first.take().map(|first| first.send(Ok(())));
        let attributes_differ =
            self.attributes.is_some() && self.attributes != self.registration.attributes;
        self.requests.begin(&self.registration, attributes_differ);
        if self.state_said {
            link.session.say(self.state.to_frame());
        }
        for (frame, waiter) in self.reports.drain(..) {
            // Only for a caller that still waits: one that gave up may have reported it again.
            if waiter.send(Ok(())).is_ok() {
                link.session.say(frame);
            }
        }
        Ok(())
    }

    pub(super) async fn store(&mut self) -> Result<(), End> {
        self.save()
            .await
            .map_err(|e| End::failed(Cause::storage(&e)))
    }
}
