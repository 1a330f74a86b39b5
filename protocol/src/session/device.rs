//! The device's end of a session.

use std::collections::VecDeque;

use bytes::Bytes;

use super::states::{DeviceInput, DeviceState};
use crate::codec::{self, DecodeError, Decoded, Decoder};
use crate::limits::{ACK_SEQUENCES_MAX, TO_DEVICE_FRAME_BYTES_MAX};
use crate::wire::{self, to_broker, to_device};
use crate::{DeviceToken, ErrorCode, MessageId};

/// Names a request of the device until its answer comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u32);

/// What the broker granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcomed {
    /// The broker's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// How long the device may stay silent, in seconds; 0 where the broker did not say.
    pub keep_alive_seconds: u32,
    /// The cursor for the next `Hello`.
    pub settled_up_to: MessageId,
}

/// What the broker did.
#[derive(Debug)]
pub enum DeviceEvent {
    /// The registration is made.
    Registered(DeviceToken),
    /// The session is open.
    Welcome(Welcomed),
    /// A message.
    Deliver(Box<wire::Deliver>),
    /// Messages that will never come.
    Gap(wire::Gap),
    /// A message is withdrawn.
    Recall(MessageId),
    /// The cursor for the next `Hello`.
    Settled(MessageId),
    /// An answer: the error's number and message, where it failed.
    Result(RequestId, Result<(), (u32, String)>),
    /// How long the device may stay silent, in seconds.
    KeepAlive(u32),
    /// Leave, wait, come back.
    Reconnect {
        /// How long to wait, in milliseconds.
        after_ms: u64,
        /// Where to; empty: the same broker.
        to: String,
    },
    /// The broker ended the session.
    Error {
        /// The number; [`ErrorCode::from_number`] may know it.
        number: u32,
        /// What went wrong, for a human.
        message: String,
        /// Not before this, in milliseconds.
        retry_after_ms: u64,
    },
    /// A frame that a newer broker may send and this SDK does not know.
    Ignored,
    /// The broker broke the protocol: close the connection with this code.
    Fault(ErrorCode, String),
}

/// Makes the frames of a device and parses those of its broker.
#[derive(Debug)]
pub struct DeviceSession {
    state: DeviceState,
    decoder: Decoder,
    out: VecDeque<Bytes>,
    acks: VecDeque<MessageId>,
    next_request: u32,
}

impl DeviceSession {
    /// Resumes a registration.
    #[must_use]
    pub fn hello(hello: wire::Hello) -> Self {
        Self::open(DeviceState::Greeting, to_broker::Frame::Hello(hello))
    }

    /// Makes a registration.
    #[must_use]
    pub fn register(register: wire::Register) -> Self {
        Self::open(
            DeviceState::Registering,
            to_broker::Frame::Register(register),
        )
    }

    fn open(state: DeviceState, opening: to_broker::Frame) -> Self {
        Self {
            state,
            decoder: Decoder::default(),
            out: VecDeque::from([codec::encode_to_broker(opening)]),
            acks: VecDeque::new(),
            next_request: 1,
        }
    }

    /// Where the session stands.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        self.state
    }

    /// Takes the next bytes of the stream; poll events after each call.
    pub fn handle_bytes(&mut self, bytes: Bytes) {
        self.decoder.handle_bytes(bytes);
    }

    /// What the broker did next.
    pub fn poll_event(&mut self) -> Option<DeviceEvent> {
        if self.state == DeviceState::Closed {
            return None;
        }
        let decoded = match self.decoder.poll_frame(TO_DEVICE_FRAME_BYTES_MAX) {
            Ok(None) => return None,
            Ok(Some(body)) => codec::decode_to_device(body),
            Err(error) => Err(error),
        };
        Some(match decoded {
            Err(error) => self.fault(&error),
            Ok(Decoded::Ignored) => DeviceEvent::Ignored,
            Ok(Decoded::Frame(frame)) => self.handle_frame(frame),
        })
    }

    fn handle_frame(&mut self, frame: to_device::Frame) -> DeviceEvent {
        use to_device::Frame;
        let input = match &frame {
            Frame::Registered(_) => DeviceInput::Registered,
            Frame::Welcome(_) => DeviceInput::Welcome,
            Frame::Reconnect(_) => DeviceInput::Reconnect,
            Frame::Error(_) => DeviceInput::End,
            _ => DeviceInput::Traffic,
        };
        let Some(next) = self.state.after(input) else {
            let message = format!("{input:?} in state {:?}", self.state);
            self.state = DeviceState::Closed;
            return DeviceEvent::Fault(ErrorCode::ProtocolViolation, message);
        };
        self.state = next;
        match frame {
            Frame::Registered(f) => DeviceEvent::Registered(DeviceToken::from_text(&f.token)),
            Frame::Welcome(f) => DeviceEvent::Welcome(Welcomed {
                server_time_ms: f.server_time_ms,
                keep_alive_seconds: f.keep_alive_seconds,
                settled_up_to: f.settled_up_to.map_or(MessageId::ZERO, Into::into),
            }),
            Frame::Deliver(f) => DeviceEvent::Deliver(Box::new(f)),
            Frame::Gap(f) => DeviceEvent::Gap(f),
            Frame::Recall(f) => DeviceEvent::Recall(f.id.map_or(MessageId::ZERO, Into::into)),
            Frame::Settled(f) => DeviceEvent::Settled(f.up_to.map_or(MessageId::ZERO, Into::into)),
            Frame::Result(f) => {
                let outcome = if f.code == 0 {
                    Ok(())
                } else {
                    Err((f.code, f.message))
                };
                DeviceEvent::Result(RequestId(f.request), outcome)
            }
            Frame::Settings(f) => DeviceEvent::KeepAlive(f.keep_alive_seconds),
            Frame::Reconnect(f) => DeviceEvent::Reconnect {
                after_ms: f.after_ms,
                to: f.to,
            },
            Frame::Error(f) => DeviceEvent::Error {
                number: f.code,
                message: f.message,
                retry_after_ms: f.retry_after_ms,
            },
        }
    }

    fn fault(&mut self, error: &DecodeError) -> DeviceEvent {
        self.state = DeviceState::Closed;
        DeviceEvent::Fault(error.code(), error.to_string())
    }

    /// Acks a message or a gap. Acks are collected until the next [`DeviceSession::poll_transmit`] and leave in as
    /// few frames as their epochs allow (PROTO-23).
    pub fn ack(&mut self, id: MessageId) {
        self.acks.push_back(id);
    }

    /// Sends a frame that has no answer: `Event`, `SetState` or `Goodbye`.
    pub fn say(&mut self, frame: to_broker::Frame) {
        if matches!(frame, to_broker::Frame::Goodbye(_)) {
            self.flush_acks();
            self.state = DeviceState::Closed;
        }
        self.out.push_back(codec::encode_to_broker(frame));
    }

    /// Sends a frame that is answered. `make` gets the number to put into it.
    pub fn request(&mut self, make: impl FnOnce(u32) -> to_broker::Frame) -> RequestId {
        let number = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.out.push_back(codec::encode_to_broker(make(number)));
        RequestId(number)
    }

    fn flush_acks(&mut self) {
        while let Some(first) = self.acks.front() {
            let epoch = first.epoch;
            let mut sequences = Vec::new();
            while sequences.len() < ACK_SEQUENCES_MAX
                && self.acks.front().is_some_and(|id| id.epoch == epoch)
            {
                sequences.extend(self.acks.pop_front().map(|id| id.sequence));
            }
            let ack = wire::Ack { epoch, sequences };
            self.out
                .push_back(codec::encode_to_broker(to_broker::Frame::Ack(ack)));
        }
    }

    /// The next bytes for the stream.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if !matches!(self.state, DeviceState::Registering | DeviceState::Greeting) {
            self.flush_acks();
        }
        self.out.pop_front()
    }
}
