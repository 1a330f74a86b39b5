//! The broker's end of a session.

use bytes::Bytes;

use super::parse::{Opening, Request, StateChange};
use super::states::{BrokerInput, BrokerState};
use crate::codec::{self, Decoded, Decoder};
use crate::limits::{ACK_SEQUENCES_MAX, TO_BROKER_FRAME_BYTES_MAX};
use crate::wire::{self, to_broker, to_device};
use crate::{DeviceToken, ErrorCode, MINOR_VERSION, MessageId};

/// Bytes of pipelined frames that may wait while a device is being admitted (PROTO-13).
const ADMITTING_BYTES_MAX: usize = 2 * TO_BROKER_FRAME_BYTES_MAX;

/// What a device did.
#[derive(Debug)]
pub enum BrokerEvent {
    /// It opened the session: answer with [`BrokerSession::admit`] or [`BrokerSession::end`].
    Opening(Opening),
    /// It asks for something: answer with [`BrokerSession::answer`].
    Request(Request),
    /// It keeps these messages.
    Ack {
        /// Epoch of all of them.
        epoch: u32,
        /// Sequence numbers, at most [`ACK_SEQUENCES_MAX`].
        sequences: Vec<u64>,
    },
    /// It says what became of a message.
    Report(wire::Event),
    /// It says how it stands.
    State(StateChange),
    /// It leaves on purpose.
    Goodbye,
    /// It sent a frame of a kind that may be ignored.
    Ignored,
    /// It broke the protocol: end the session with this.
    Fault {
        /// The code to end with.
        code: ErrorCode,
        /// What it did.
        message: String,
    },
}

/// What a broker grants at admission.
#[derive(Clone, Copy, Debug)]
pub struct WelcomeTerms {
    /// The broker's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// How long the device may stay silent, in seconds.
    pub keep_alive_seconds: u32,
    /// Most messages in flight.
    pub window_messages: u32,
    /// Most topics of the registration.
    pub topics_max: u32,
    /// Everything up to here is settled.
    pub settled_up_to: MessageId,
}

impl WelcomeTerms {
    fn limits(self) -> wire::Limits {
        wire::Limits {
            frame_bytes_max: TO_BROKER_FRAME_BYTES_MAX as u32,
            window_messages: self.window_messages,
            topics_max: self.topics_max,
        }
    }
}

/// Parses what a device sends and keeps the order of frames. 72 bytes and no allocation while idle.
#[derive(Debug)]
pub struct BrokerSession {
    decoder: Decoder,
    state: BrokerState,
    /// What arrived was no frame: nothing after it can be one, so nothing more is kept.
    is_deaf: bool,
}

impl Default for BrokerSession {
    fn default() -> Self {
        Self {
            decoder: Decoder::default(),
            state: BrokerState::AwaitOpening,
            is_deaf: false,
        }
    }
}

impl BrokerSession {
    /// Where the session stands.
    #[must_use]
    pub fn state(&self) -> BrokerState {
        self.state
    }

    /// Takes the next bytes of the stream; poll events after each call.
    pub fn handle_bytes(&mut self, bytes: Bytes) {
        if !self.is_deaf {
            self.decoder.handle_bytes(bytes);
        }
    }

    /// What the device did next. Decodes one frame at a time; nothing while an opening is being looked at (PROTO-13).
    pub fn poll_event(&mut self) -> Option<BrokerEvent> {
        if self.state == BrokerState::Admitting {
            return (self.decoder.held_bytes() > ADMITTING_BYTES_MAX).then(|| {
                self.fault(
                    ErrorCode::ProtocolViolation,
                    "too many bytes before Welcome".into(),
                )
            });
        }
        let decoded = match self.decoder.poll_frame(TO_BROKER_FRAME_BYTES_MAX) {
            Ok(None) => return None,
            Ok(Some(body)) => codec::decode_to_broker(body),
            Err(error) => Err(error),
        };
        match decoded {
            Err(error) => {
                self.is_deaf = true;
                self.decoder = Decoder::default();
                // A session that is closing answers nothing any more.
                let is_closing = self.state == BrokerState::Closing;
                (!is_closing).then(|| self.fault(error.code(), error.to_string()))
            }
            Ok(Decoded::Ignored) => Some(BrokerEvent::Ignored),
            Ok(Decoded::Frame(frame)) => self.handle_frame(frame),
        }
    }

    fn handle_frame(&mut self, frame: to_broker::Frame) -> Option<BrokerEvent> {
        use to_broker::Frame;
        let input = match &frame {
            Frame::Hello(_) | Frame::Register(_) => BrokerInput::Opening,
            Frame::Ack(_) => BrokerInput::Ack,
            Frame::Goodbye(_) => BrokerInput::Goodbye,
            _ => BrokerInput::Request,
        };
        let closing = self.state == BrokerState::Closing;
        let Some(next) = self.state.after(input) else {
            let message = match (self.state, input) {
                (BrokerState::AwaitOpening, _) => "the first frame must be Hello or Register",
                _ => "Hello or Register twice in one session",
            };
            return Some(self.fault(ErrorCode::ProtocolViolation, message.into()));
        };
        if closing && input != BrokerInput::Ack {
            return Some(BrokerEvent::Ignored);
        }
        self.state = next;
        Some(match frame {
            Frame::Hello(hello) => self.opening(Opening::hello(hello)),
            Frame::Register(register) => self.opening(Opening::register(register)),
            Frame::Ack(ack) => self.ack(ack),
            Frame::Goodbye(_) => BrokerEvent::Goodbye,
            Frame::Rotate(f) => BrokerEvent::Request(Request::rotate(&f)),
            Frame::Subscribe(f) => BrokerEvent::Request(Request::subscribe(&f)),
            Frame::Unsubscribe(f) => BrokerEvent::Request(Request::unsubscribe(&f)),
            Frame::SetAttributes(f) => BrokerEvent::Request(Request::set_attributes(f)),
            Frame::Unregister(f) => BrokerEvent::Request(Request::unregister(&f)),
            Frame::Event(event) => BrokerEvent::Report(event),
            Frame::SetState(f) => match StateChange::parse(&f) {
                Ok(change) => BrokerEvent::State(change),
                Err(error) => self.fault(error.code, error.to_string()),
            },
        })
    }

    fn opening(&mut self, parsed: Result<Opening, super::InvalidField>) -> BrokerEvent {
        match parsed {
            Ok(opening) => BrokerEvent::Opening(opening),
            Err(error) => self.fault(error.code, error.to_string()),
        }
    }

    fn ack(&mut self, ack: wire::Ack) -> BrokerEvent {
        if ack.sequences.is_empty() || ack.sequences.len() > ACK_SEQUENCES_MAX {
            return self.fault(
                ErrorCode::InvalidArgument,
                format!(
                    "Ack.sequences: {} of them, 1 to {ACK_SEQUENCES_MAX} are allowed",
                    ack.sequences.len()
                ),
            );
        }
        BrokerEvent::Ack {
            epoch: ack.epoch,
            sequences: ack.sequences,
        }
    }

    fn fault(&mut self, code: ErrorCode, message: String) -> BrokerEvent {
        BrokerEvent::Fault { code, message }
    }

    /// Lets the device in: the frames to send. `Registered` comes first where a registration was made (PROTO-15).
    pub fn admit(&mut self, registered: Option<&DeviceToken>, terms: WelcomeTerms) -> Vec<Bytes> {
        let Some(next) = self.state.after(BrokerInput::Admit) else {
            return Vec::new();
        };
        self.state = next;
        let mut frames = Vec::with_capacity(2);
        if let Some(token) = registered {
            frames.push(codec::encode_to_device(to_device::Frame::Registered(
                wire::Registered {
                    token: token.as_str().into(),
                },
            )));
        }
        frames.push(codec::encode_to_device(to_device::Frame::Welcome(
            wire::Welcome {
                server_time_ms: terms.server_time_ms,
                keep_alive_seconds: terms.keep_alive_seconds,
                limits: Some(terms.limits()),
                settled_up_to: Some(terms.settled_up_to.into()),
                minor_version: MINOR_VERSION,
                features: 0,
            },
        )));
        frames
    }

    /// The answer to a request: `None` for done (PROTO-20).
    #[must_use]
    pub fn answer(number: u32, error: Option<(ErrorCode, &str)>) -> Bytes {
        codec::encode_to_device(to_device::Frame::Result(wire::Result {
            request: number,
            code: error.map_or(0, |(code, _)| code as u32),
            message: error.map_or_else(String::new, |(_, message)| message.into()),
        }))
    }

    /// Moves the device's cursor (PROTO-33).
    #[must_use]
    pub fn settled(up_to: MessageId) -> Bytes {
        codec::encode_to_device(to_device::Frame::Settled(wire::Settled {
            up_to: Some(up_to.into()),
        }))
    }

    /// Ends the session: the frame to send before closing; `None` if it was ended before (PROTO-10).
    pub fn end(&mut self, code: ErrorCode, message: &str, retry_after_ms: u64) -> Option<Bytes> {
        self.leave()
            .then(|| codec::encode_error(code, message, retry_after_ms))
    }

    /// Sends the device away for a while: the frame to send; `None` if the session was ended before (PROTO-32).
    pub fn reconnect(&mut self, after_ms: u64, to: &str) -> Option<Bytes> {
        self.leave().then(|| {
            codec::encode_to_device(to_device::Frame::Reconnect(wire::Reconnect {
                after_ms,
                to: to.into(),
            }))
        })
    }

    fn leave(&mut self) -> bool {
        let was_open = self.state != BrokerState::Closing;
        self.state = BrokerState::Closing;
        was_open
    }
}
