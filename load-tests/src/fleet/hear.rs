//! What a device does about what it hears.

use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_protocol::limits::TO_DEVICE_FRAME_BYTES_MAX;
use petrel_protocol::{ErrorCode, Reaction};
use petrel_quic::ShardCore;

use super::frames::{Heard, Message};
use super::light::{ATTEMPTS_MAX, Lights, State};

impl Lights {
    /// The next bytes of a device's stream.
    pub(super) fn hear(&mut self, core: &mut ShardCore, now: Instant, place: u32, bytes: Bytes) {
        let mut decoder = self.partial.remove(&place).unwrap_or_default();
        decoder.handle_bytes(bytes);
        loop {
            let heard = match decoder.poll_frame(TO_DEVICE_FRAME_BYTES_MAX) {
                Ok(None) => break,
                Ok(Some(body)) => self.reader.read(body),
                Err(error) => Err(error),
            };
            match heard {
                Ok(heard) => self.handle(core, now, place, heard),
                Err(error) => {
                    return self.end(
                        core,
                        place,
                        false,
                        &format!("the broker sent no frame: {error}"),
                    );
                }
            }
        }
        if decoder.held_bytes() > 0 {
            self.partial.insert(place, decoder);
        }
    }

    fn handle(&mut self, core: &mut ShardCore, now: Instant, place: u32, heard: Heard) {
        match heard {
            Heard::Message(message) => self.receive(core, place, message),
            Heard::Gap { ack } => {
                self.seen.gaps += 1;
                self.say(core, place, ack);
            }
            Heard::Registered(token) => {
                let number = self.number(place);
                self.tokens.push((number, token));
            }
            Heard::Welcome { keep_alive_seconds } => {
                self.welcome(core, now, place, keep_alive_seconds)
            }
            Heard::Subscribed(Ok(())) => self.arrive(place),
            Heard::Subscribed(Err(error)) => {
                self.end(
                    core,
                    place,
                    false,
                    &format!("a subscription was refused: {error}"),
                );
            }
            Heard::Refused { code, message } => {
                let error = ErrorCode::from_number(code);
                let may_retry = error.is_none_or(|code| code.reaction() == Reaction::Retry);
                self.end(
                    core,
                    place,
                    may_retry,
                    &format!("the broker refused a device: {message} (code {code})"),
                );
            }
            Heard::SentAway => self.end(core, place, true, "the broker sent a device away"),
            Heard::Other => {}
        }
    }

    fn welcome(&mut self, core: &mut ShardCore, now: Instant, place: u32, keep_alive_seconds: u32) {
        self.keep_alive.asked(now, keep_alive_seconds);
        if let Some(begun) = self.begun.get(&place) {
            let kind = usize::from(self.shared.tickets.is_resuming());
            self.connects[kind].record(begun.elapsed());
        }
        let is_new = self
            .shared
            .registrations
            .token(self.number(place))
            .is_none();
        let device = &mut self.devices[place as usize];
        if is_new {
            // What it came for is done; it comes back with its token.
            device.state = State::Finished;
            self.begun.remove(&place);
            self.seen.registered += 1;
            core.close(device.conn, 0, b"");
        } else if self.shared.topic.is_some() {
            device.state = State::Subscribing;
        } else {
            self.arrive(place);
        }
    }

    fn arrive(&mut self, place: u32) {
        let device = &mut self.devices[place as usize];
        if matches!(device.state, State::Opening | State::Subscribing) {
            device.state = State::Online;
            device.attempts = 0;
            self.begun.remove(&place);
            self.seen.online += 1;
        }
    }

    /// Counts a message and acks it at once, so that the ack leaves in the packet that acknowledges the data.
    fn receive(&mut self, core: &mut ShardCore, place: u32, message: Message) {
        let now = self.shared.clock.elapsed();
        let (number, took) = match message.mark {
            Some((number, intended_us)) => (
                Some(number),
                now.saturating_sub(Duration::from_micros(intended_us)),
            ),
            None => (None, Duration::ZERO),
        };
        self.tally.record(place, number, took);
        self.say(core, place, message.ack);
    }

    /// Closes a connection for a reason of the broker's. What follows from it is decided when its end is told.
    fn end(&mut self, core: &mut ShardCore, place: u32, may_retry: bool, why: &str) {
        self.shared.complaints.add(why);
        let device = &mut self.devices[place as usize];
        if !may_retry {
            device.attempts = ATTEMPTS_MAX;
        }
        core.close(device.conn, 0, b"");
    }
}
