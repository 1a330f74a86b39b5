//! Who may have a session: the first frame, and requests.

use std::time::Instant;

use petrel_protocol::session::states::BrokerState;
use petrel_protocol::session::{BrokerSession, Opening, Request, WelcomeTerms};
use petrel_protocol::{DeviceToken, ErrorCode};
use petrel_quic::ShardCore;

use super::session::Session;
use super::{REQUESTS_MAX, Shard};
use crate::delivery::Refusal;
use crate::directory::Device;

/// When a refused device may try again, in milliseconds, where trying again can help.
const RETRY_AFTER_MS: u64 = 1_000;

impl Shard {
    pub(super) fn open(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        opening: Opening,
        now: Instant,
    ) {
        if self.drain.is_some() {
            let message = "the broker is shutting down; come back later";
            let code = ErrorCode::Draining;
            return self.end(core, session, code, message, RETRY_AFTER_MS, now);
        }
        match opening {
            Opening::Hello(hello) => {
                session.minimum_urgency = hello.minimum_urgency;
                match self.delivery.admit(&hello) {
                    Ok(device) => self.attach(core, session, device, None, now),
                    Err(refusal) => self.refuse(core, session, &refusal, now),
                }
            }
            Opening::Register(register) => {
                session.minimum_urgency = register.minimum_urgency;
                let place = self.place(session.conn);
                if let Err(refusal) = self.delivery.register(*register, place) {
                    self.refuse(core, session, &refusal, now);
                }
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        refusal: &Refusal,
        now: Instant,
    ) {
        let can_retry = matches!(refusal.code, ErrorCode::Overloaded | ErrorCode::Internal);
        let retry_after_ms = if can_retry { RETRY_AFTER_MS } else { 0 };
        self.end(
            core,
            session,
            refusal.code,
            &refusal.message,
            retry_after_ms,
            now,
        );
    }

    /// Lets a device in, replaces its older session, and begins to send what it is owed.
    pub(super) fn attach(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        device: Device,
        registered: Option<&DeviceToken>,
        now: Instant,
    ) {
        let settings = self.delivery.settings();
        let terms = WelcomeTerms {
            server_time_ms: self.delivery.now().0,
            keep_alive_seconds: u32::try_from(self.settings.keep_alive.as_secs())
                .unwrap_or(u32::MAX),
            window_messages: u32::try_from(settings.window.messages).unwrap_or(u32::MAX),
            topics_max: u32::try_from(settings.topics_max).unwrap_or(u32::MAX),
            settled_up_to: self.delivery.settled_up_to(device.ordinal),
        };
        session.device = Some(device);
        // Presence first, then the scan: whatever is published from now on is pushed here or found by it.
        self.delivery
            .attach(device.ordinal, self.place(session.conn));
        for frame in session.protocol.admit(registered, terms) {
            self.send(core, session, frame);
        }
        // The registration may have ended between the look at it and presence: then nobody else would tell.
        if self.delivery.directory().device(device.ordinal).is_none() {
            let code = ErrorCode::Unregistered;
            return self.end(core, session, code, code.advice(), 0, now);
        }
        self.handle_frames(core, session, now);
        self.scan(core, session, now);
    }

    pub(super) fn request(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        request: Request,
    ) {
        let Some(device) = session.device else {
            return;
        };
        let begun = match request.body {
            Ok(_) if session.unanswered >= REQUESTS_MAX => {
                let message = "too many requests wait for their answer; wait for some first";
                Err(Refusal::new(ErrorCode::Overloaded, message))
            }
            Ok(body) => {
                let place = self.place(session.conn);
                self.delivery
                    .request(device, request.number, body, place)
                    .inspect(|()| session.unanswered += 1)
                    .map_err(|_busy| {
                        let message = "the broker has too much to do; ask again in a second";
                        Refusal::new(ErrorCode::Overloaded, message)
                    })
            }
            Err(invalid) => Err(Refusal::new(invalid.code, invalid.to_string())),
        };
        if let Err(refusal) = begun {
            let error = Some((refusal.code, refusal.message.as_str()));
            self.send(core, session, BrokerSession::answer(request.number, error));
        }
    }

    pub(super) fn opening_timed_out(
        &mut self,
        core: &mut ShardCore,
        session: &mut Session,
        now: Instant,
    ) {
        if session.protocol.state() == BrokerState::AwaitOpening {
            let code = ErrorCode::HelloTimeout;
            self.end(core, session, code, code.advice(), 0, now);
        }
    }
}
