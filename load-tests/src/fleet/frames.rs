//! What a device says, and what it understands of what it hears.

use bytes::{Bytes, BytesMut};
use petrel_protocol::codec::{self, DecodeError, Decoded};
use petrel_protocol::wire::{self, to_broker, to_device};
use petrel_protocol::{MINOR_VERSION, MessageId};

/// What the broker lists these devices as.
const SDK: &str = concat!("petrel-load/", env!("CARGO_PKG_VERSION"));

/// Data keys of a message: the run it belongs to, its number in the run, when it was to be sent (microseconds of the
/// generator's clock), and what fills it up.
pub(crate) const RUN: &str = "r";
pub(crate) const NUMBER: &str = "n";
pub(crate) const STAMP: &str = "t";
pub(crate) const FILLER: &str = "p";

/// Broadcasts that overlap on one socket, for the cache.
const KNOWN_MAX: usize = 4;

/// The only request of a device.
const SUBSCRIBE_REQUEST: u32 = 1;

/// Makes a registration.
pub(super) fn register(project: &str, app_key: &str, secret: &[u8]) -> Bytes {
    codec::encode_to_broker(to_broker::Frame::Register(wire::Register {
        project: project.to_owned(),
        app_key: app_key.to_owned(),
        secret: Bytes::copy_from_slice(secret),
        minor_version: MINOR_VERSION,
        sdk: SDK.to_owned(),
        ..wire::Register::default()
    }))
}

/// Resumes a registration, and subscribes in the same breath (PROTO-13).
pub(super) fn hello(token: &str, secret: &[u8], topic: Option<&str>) -> Bytes {
    let hello = codec::encode_to_broker(to_broker::Frame::Hello(wire::Hello {
        token: token.to_owned(),
        secret: Bytes::copy_from_slice(secret),
        minor_version: MINOR_VERSION,
        sdk: SDK.to_owned(),
        ..wire::Hello::default()
    }));
    let Some(topic) = topic else { return hello };
    let subscribe = codec::encode_to_broker(to_broker::Frame::Subscribe(wire::Subscribe {
        request: SUBSCRIBE_REQUEST,
        topic: topic.to_owned(),
    }));
    let mut both = BytesMut::from(hello);
    both.extend_from_slice(&subscribe);
    both.freeze()
}

/// Acks one message or gap (PROTO-23).
fn ack(id: MessageId) -> Bytes {
    let ack = wire::Ack {
        epoch: id.epoch,
        sequences: vec![id.sequence],
    };
    codec::encode_to_broker(to_broker::Frame::Ack(ack))
}

/// Says that the device is still there: PROTO-4 allows an empty `SetState`.
pub(super) fn still_there() -> Bytes {
    codec::encode_to_broker(to_broker::Frame::SetState(wire::SetState::default()))
}

/// A frame of the broker, as far as a light device cares.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    Registered(String),
    Welcome {
        keep_alive_seconds: u32,
    },
    /// The answer to the subscription: what went wrong, if anything did.
    Subscribed(Result<(), String>),
    Message(Message),
    /// Messages that will never come; acked like one.
    Gap {
        ack: Bytes,
    },
    /// The broker ends the session.
    Refused {
        code: u32,
        message: String,
    },
    /// It wants the device gone.
    SentAway,
    /// Of no consequence here.
    Other,
}

/// A message, with its ack ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    /// Number and intended time (microseconds of the generator's clock), if it belongs to this run.
    pub(super) mark: Option<(u32, u64)>,
    pub(super) ack: Bytes,
}

/// Reads frames. The frame of a broadcast is the same, byte for byte, for all its devices: it is decoded once and
/// compared afterwards.
pub(super) struct Reader {
    run: u64,
    known: Vec<(Bytes, Message)>,
    oldest: usize,
}

impl Reader {
    /// For the messages of one run.
    pub(super) fn new(run: u64) -> Self {
        Self {
            run,
            known: Vec::new(),
            oldest: 0,
        }
    }

    /// Understands the body of a frame.
    pub(super) fn read(&mut self, body: Bytes) -> Result<Heard, DecodeError> {
        if let Some((_, message)) = self.known.iter().find(|(known, _)| *known == body) {
            return Ok(Heard::Message(message.clone()));
        }
        let frame = match codec::decode_to_device(body.clone())? {
            Decoded::Frame(frame) => frame,
            Decoded::Ignored => return Ok(Heard::Other),
        };
        Ok(match frame {
            to_device::Frame::Registered(f) => Heard::Registered(f.token),
            to_device::Frame::Welcome(f) => Heard::Welcome {
                keep_alive_seconds: f.keep_alive_seconds,
            },
            to_device::Frame::Result(f) if f.code == 0 => Heard::Subscribed(Ok(())),
            to_device::Frame::Result(f) => {
                Heard::Subscribed(Err(format!("{} (code {})", f.message, f.code)))
            }
            to_device::Frame::Deliver(f) => {
                let message = Message {
                    mark: self.mark(&f),
                    ack: ack(id(f.id)),
                };
                self.remember(&body, &message);
                Heard::Message(message)
            }
            to_device::Frame::Gap(f) => Heard::Gap { ack: ack(id(f.id)) },
            to_device::Frame::Error(f) => Heard::Refused {
                code: f.code,
                message: f.message,
            },
            to_device::Frame::Reconnect(_) => Heard::SentAway,
            to_device::Frame::Settled(_)
            | to_device::Frame::Recall(_)
            | to_device::Frame::Settings(_) => Heard::Other,
        })
    }

    fn mark(&self, message: &wire::Deliver) -> Option<(u32, u64)> {
        let data = |key: &str| message.data.get(key);
        let run = u64::from_str_radix(data(RUN)?, 16).ok()?;
        let mark = (data(NUMBER)?.parse().ok()?, data(STAMP)?.parse().ok()?);
        (run == self.run).then_some(mark)
    }

    fn remember(&mut self, body: &Bytes, message: &Message) {
        // A copy: the frame shares the memory of the datagram it came in.
        let entry = (Bytes::copy_from_slice(body), message.clone());
        if self.known.len() < KNOWN_MAX {
            self.known.push(entry);
        } else {
            self.known[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % KNOWN_MAX;
        }
    }
}

fn id(id: Option<wire::MessageId>) -> MessageId {
    id.map_or(MessageId::ZERO, Into::into)
}

#[cfg(test)]
mod tests {
    use petrel_protocol::codec::{Decoder, decode_to_broker};
    use petrel_protocol::limits::{TO_BROKER_FRAME_BYTES_MAX, TO_DEVICE_FRAME_BYTES_MAX};

    use super::*;

    fn to_broker(bytes: Bytes) -> Vec<to_broker::Frame> {
        let mut decoder = Decoder::default();
        decoder.handle_bytes(bytes);
        let mut frames = Vec::new();
        while let Some(body) = decoder.poll_frame(TO_BROKER_FRAME_BYTES_MAX).unwrap() {
            match decode_to_broker(body).unwrap() {
                Decoded::Frame(frame) => frames.push(frame),
                Decoded::Ignored => panic!("unknown"),
            }
        }
        assert_eq!(decoder.held_bytes(), 0);
        frames
    }

    fn deliver(run: &str, number: u32, sequence: u64) -> Bytes {
        let data = [
            (RUN, run.to_owned()),
            (NUMBER, number.to_string()),
            (STAMP, "77".to_owned()),
        ];
        body(to_device::Frame::Deliver(wire::Deliver {
            id: Some(wire::MessageId { epoch: 3, sequence }),
            data: data.map(|(key, value)| (key.to_owned(), value)).into(),
            ..wire::Deliver::default()
        }))
    }

    fn body(frame: to_device::Frame) -> Bytes {
        let mut decoder = Decoder::default();
        decoder.handle_bytes(codec::encode_to_device(frame));
        decoder
            .poll_frame(TO_DEVICE_FRAME_BYTES_MAX)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_device_greets_and_subscribes_in_one_write() {
        let frames = to_broker(hello("token", &[5; 32], Some("news")));
        match frames.as_slice() {
            [
                to_broker::Frame::Hello(hello),
                to_broker::Frame::Subscribe(subscribe),
            ] => {
                assert_eq!((hello.token.as_str(), hello.secret.len()), ("token", 32));
                assert_eq!(subscribe.topic, "news");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(to_broker(hello("token", &[5; 32], None)).len(), 1);
        assert!(matches!(
            to_broker(register("p", "k", &[5; 32]))[..],
            [to_broker::Frame::Register(_)]
        ));
        assert!(matches!(
            to_broker(still_there())[..],
            [to_broker::Frame::SetState(_)]
        ));
    }

    #[test]
    fn a_message_is_understood_and_acked_also_from_the_cache() {
        let mut reader = Reader::new(0xabc);
        // More than the cache holds, twice over.
        for _ in 0..2 {
            for number in 0..KNOWN_MAX as u32 + 2 {
                let Ok(Heard::Message(message)) =
                    reader.read(deliver("abc", number, 40 + u64::from(number)))
                else {
                    panic!("no message");
                };
                assert_eq!(message.mark, Some((number, 77)));
                match to_broker(message.ack).as_slice() {
                    [to_broker::Frame::Ack(ack)] => {
                        assert_eq!(
                            (ack.epoch, ack.sequences.as_slice()),
                            (3, &[40 + u64::from(number)][..])
                        );
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(reader.known.len(), KNOWN_MAX);
    }

    #[test]
    fn a_message_of_another_run_has_no_number() {
        let mut reader = Reader::new(0xabc);
        for run in ["abd", "", "what"] {
            match reader.read(deliver(run, 1, 1)) {
                Ok(Heard::Message(message)) => assert_eq!(message.mark, None),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_broker_s_other_words() {
        let mut reader = Reader::new(1);
        let mut hear = |frame| reader.read(body(frame)).unwrap();
        let refused = wire::Error {
            code: 4,
            message: "no".into(),
            retry_after_ms: 0,
        };
        assert_eq!(
            hear(to_device::Frame::Error(refused)),
            Heard::Refused {
                code: 4,
                message: "no".into()
            }
        );
        let result = wire::Result {
            request: 1,
            code: 0,
            message: String::new(),
        };
        assert_eq!(
            hear(to_device::Frame::Result(result.clone())),
            Heard::Subscribed(Ok(()))
        );
        let failed = wire::Result { code: 9, ..result };
        assert!(matches!(
            hear(to_device::Frame::Result(failed)),
            Heard::Subscribed(Err(_))
        ));
        assert_eq!(
            hear(to_device::Frame::Settled(wire::Settled::default())),
            Heard::Other
        );
        assert!(reader.read(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
