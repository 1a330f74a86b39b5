//! Working off the mailbox.

use std::time::Instant;

use petrel_core::{Push, Route};
use petrel_protocol::session::BrokerSession;
use petrel_protocol::session::states::BrokerState;
use petrel_protocol::{ErrorCode, Ordinal};
use petrel_quic::{ConnId, ShardCore};

use super::{COMMANDS_PER_TURN, Shard};
use crate::delivery::{Command, Granted, Pending};
use crate::shard::walk::Walk;

impl Shard {
    /// Takes and performs a bounded number of commands; how many.
    pub(super) fn handle_mailbox(&mut self, core: &mut ShardCore, now: Instant) -> usize {
        let mut commands = std::mem::take(&mut self.commands);
        let nudged = self.mailbox.take(COMMANDS_PER_TURN, &mut commands);
        let count = commands.len();
        for command in commands.drain(..) {
            self.perform(core, command, now);
        }
        self.commands = commands;
        for device in nudged {
            self.nudge(core, Ordinal(device), now);
        }
        count
    }

    fn perform(&mut self, core: &mut ShardCore, command: Command, now: Instant) {
        match command {
            Command::Push { conn, pending } => self.push(core, conn, &pending, now),
            Command::Scanned {
                conn,
                device,
                batch,
            } => self.with_session(core, conn, |shard, core, session| {
                if session.device.is_none_or(|d| d.ordinal != device) {
                    return;
                }
                match batch {
                    Some(batch) => shard.offer(core, session, batch, now),
                    None => {
                        session.outbox.finish_scan(false);
                        shard.keep_scan(session, now);
                        return;
                    }
                }
                shard.scan(core, session, now);
            }),
            Command::Registered { conn, result } => {
                self.with_session(core, conn, |shard, core, session| match result {
                    // It may have been ended meanwhile; then it must not replace another session.
                    Ok(_) if session.protocol.state() != BrokerState::Admitting => {}
                    Ok(device) => {
                        let token = shard
                            .delivery
                            .directory()
                            .token(device.project, device.ordinal);
                        shard.attach(core, session, device, Some(&token), now);
                    }
                    Err(refusal) => shard.refuse(core, session, &refusal, now),
                });
            }
            Command::Answered {
                conn,
                number,
                result,
            } => self.with_session(core, conn, |shard, core, session| {
                session.unanswered = session.unanswered.saturating_sub(1);
                let error = result.as_ref().err();
                let error = error.map(|refusal| (refusal.code, refusal.message.as_str()));
                shard.send(core, session, BrokerSession::answer(number, error));
                if result == Ok(Granted::Unregistered) {
                    let code = ErrorCode::Goodbye;
                    shard.end(core, session, code, "unregistered", 0, now);
                }
            }),
            Command::End { conn, code } => self.with_session(core, conn, |shard, core, session| {
                shard.end(core, session, code, code.advice(), 0, now);
            }),
            Command::Walk(broadcast) => self.walks.push_back(Walk::new(broadcast)),
            Command::Drain { returns, ack_wait } => {
                self.begin_drain(core, &returns, ack_wait, now);
            }
        }
    }

    fn push(&mut self, core: &mut ShardCore, conn: ConnId, pending: &Pending, now: Instant) {
        let is_transient = pending.message.is_now_or_never(pending.platform);
        let mut is_sent = false;
        self.with_session(core, conn, |shard, core, session| {
            let options = pending.message.options(pending.platform);
            let is_its = session
                .attached()
                .is_some_and(|d| d.ordinal == pending.device);
            if !is_its || options.urgency < session.minimum_urgency {
                return;
            }
            let route = if is_transient {
                Route::Transient
            } else {
                Route::Queue
            };
            let frame = pending.message.frame(pending.platform);
            let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            let window = shard.delivery.settings().window;
            match session
                .outbox
                .push(pending.message.id, route, bytes, window, now)
            {
                Push::Send => {
                    is_sent = true;
                    shard.send(core, session, frame);
                    let (device, id) = (pending.device, pending.message.id);
                    shard.delivery.sent(device, id, route);
                }
                Push::Known => {}
                // It is pending or queued by now: the next scan finds it.
                Push::Later => shard.scan(core, session, now),
            }
        });
        match (is_transient, is_sent) {
            (true, true) => self.delivery.transient_sent(pending),
            (true, false) => self.delivery.transient_impossible(pending),
            (false, _) => {}
        }
    }

    fn nudge(&mut self, core: &mut ShardCore, device: Ordinal, now: Instant) {
        let place = self.delivery.presence().find(device);
        if let Some(place) = place.filter(|place| place.shard == self.id) {
            self.with_session(core, place.conn, |shard, core, session| {
                session.outbox.mark();
                shard.scan(core, session, now);
            });
        }
    }
}
