//! One connection, served by the handshake engine.
//!
//! | phase     | means                                        | goes to                              |
//! |-----------|----------------------------------------------|--------------------------------------|
//! | `Setup`   | handshake, or no stream yet                  | `Open`, `Closing`, or freed in silence |
//! | `Open`    | `Opened` was told; bytes flow                | `Closing`                            |
//! | `Closing` | `Closed` was told; lingers (RFC 9000 §10.2)  | freed                                |

use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Connection, ConnectionHandle, Dir, ReadError, Side, StreamId, WriteError};

use crate::SendError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Setup,
    Open,
    Closing,
}

/// What a connection is to be done with. A connection is in a work list at most once.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags {
    /// In the list of those to be asked for events.
    pub(super) ready: bool,
    /// In the list of those to be asked for transmits.
    pub(super) sending: bool,
    /// The last visit stopped before the stream was read to its end.
    pub(super) unread: bool,
    /// The application wants no bytes now.
    pub(super) paused: bool,
    /// A `send` was answered `Full`: the application waits for `Writable`.
    pub(super) refused: bool,
    /// The handshake is complete.
    pub(super) connected: bool,
    /// The stream exists.
    pub(super) stream: bool,
}

/// What lies in a slab slot.
pub(super) struct Conn {
    pub(super) proto: Connection,
    /// What of the last accepted `send` the engine has not taken yet; finished before anything else.
    remainder: Bytes,
    /// A connection still in `Setup` at this time is forgotten.
    pub(super) setup_deadline: Instant,
    handle: u32,
    pub(super) phase: Phase,
    pub(super) side: Side,
    pub(super) flags: Flags,
}

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// Nothing more now.
    Empty,
    /// The limit of this visit is reached.
    Limit,
    /// The peer finished the stream.
    Finished,
    /// The peer reset the stream.
    Reset,
}

/// What became of the remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// There is none (any more).
    Done,
    /// No room for all of it yet.
    Blocked,
    /// The stream takes nothing any more.
    Dead,
}

impl Conn {
    pub(super) fn new(
        handle: ConnectionHandle,
        proto: Connection,
        setup_deadline: Instant,
    ) -> Self {
        let side = proto.side();
        Self {
            proto,
            remainder: Bytes::new(),
            setup_deadline,
            handle: u32::try_from(handle.0).expect("a shard holds at most 2^30 connections"),
            phase: Phase::Setup,
            side,
            flags: Flags::default(),
        }
    }

    /// The engine's own index of the connection.
    pub(super) fn handle(&self) -> ConnectionHandle {
        ConnectionHandle(self.handle as usize)
    }

    /// The one stream: the first bidirectional one of the client (RFC 9000 §2.1).
    fn stream() -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, 0)
    }

    /// The true deadline.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let engine = self.proto.poll_timeout();
        if self.phase == Phase::Setup {
            Some(engine.map_or(self.setup_deadline, |at| at.min(self.setup_deadline)))
        } else {
            engine
        }
    }

    /// Opens the stream (client) or takes the one the client opened (server).
    pub(super) fn obtain_stream(&mut self) -> bool {
        let mut streams = self.proto.streams();
        let id = match self.side {
            Side::Client => streams.open(Dir::Bi),
            Side::Server => streams.accept(Dir::Bi),
        };
        self.flags.stream |= id == Some(Self::stream());
        self.flags.stream
    }

    pub(super) fn remainder_bytes(&self) -> u64 {
        self.remainder.len() as u64
    }

    /// Takes all of `bytes` or nothing.
    pub(super) fn send(&mut self, bytes: Bytes) -> Result<(), SendError> {
        if self.phase == Phase::Closing {
            return Err(SendError::Gone);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.phase == Phase::Setup || !self.remainder.is_empty() {
            self.flags.refused = true;
            return Err(SendError::Full(bytes));
        }
        let len = bytes.len();
        self.remainder = bytes;
        match self.flush() {
            Flush::Dead => {
                self.remainder = Bytes::new();
                Err(SendError::Gone)
            }
            // The engine took nothing at all, so the caller can have everything back.
            Flush::Blocked if self.remainder.len() == len => {
                self.flags.refused = true;
                Err(SendError::Full(std::mem::take(&mut self.remainder)))
            }
            Flush::Blocked | Flush::Done => Ok(()),
        }
    }

    /// Gives the engine as much of the remainder as it takes.
    pub(super) fn flush(&mut self) -> Flush {
        let mut stream = self.proto.send_stream(Self::stream());
        // Asked until it is blocked, since only then it will tell when there is room again.
        while !self.remainder.is_empty() {
            let chunk = std::slice::from_mut(&mut self.remainder);
            match stream.write_chunks(chunk) {
                Ok(_) => {}
                Err(WriteError::Blocked) => return Flush::Blocked,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return Flush::Dead,
            }
        }
        self.remainder = Bytes::new();
        Flush::Done
    }

    /// Whether there is room for more, asked right after bytes were taken; if not, the engine will tell when.
    ///
    /// Only then: an empty write to a stream with nothing to send would make an empty frame.
    pub(super) fn room_after_write(&mut self) -> bool {
        self.proto
            .send_stream(Self::stream())
            .write_chunks(&mut [])
            .is_ok()
    }

    pub(super) fn drop_remainder(&mut self) {
        self.remainder = Bytes::new();
    }

    /// Hands at most about `limit` bytes to `take`.
    pub(super) fn read(&mut self, limit: usize, mut take: impl FnMut(Bytes)) -> ReadEnd {
        let mut stream = self.proto.recv_stream(Self::stream());
        // A stream that was read to its end has nothing more to say.
        let Ok(mut chunks) = stream.read(true) else {
            return ReadEnd::Empty;
        };
        let mut left = limit;
        let end = loop {
            if left == 0 {
                break ReadEnd::Limit;
            }
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left = left.saturating_sub(chunk.bytes.len());
                    take(chunk.bytes);
                }
                Ok(None) => break ReadEnd::Finished,
                Err(ReadError::Blocked) => break ReadEnd::Empty,
                Err(ReadError::Reset(_)) => break ReadEnd::Reset,
            }
        };
        // Whether credit is to be sent does not matter: the connection is asked for transmits after every visit.
        let _ = chunks.finalize();
        end
    }
}
