//! The first life of a connection, in which the handshake engine serves it. Some never leave it.

use std::{net::IpAddr, time::Instant};

use bytes::Bytes;
use quinn_proto::{Connection, ConnectionHandle, Dir, ReadError, Side, StreamId, WriteError};

use crate::{
    SendError,
    handover::{Handover, Progress, SharedTap},
};

/// A connection of the handshake engine, and what belongs to it.
pub(super) struct First {
    pub(super) proto: Connection,
    /// What sees its packets; `None` if it will never be handed over.
    tap: Option<SharedTap>,
    /// What of the last accepted `send` the engine has not taken yet; finished before anything else.
    remainder: Bytes,
    /// Bytes of the stream that the engine took, and gave.
    progress: Progress,
    /// A connection still in `Setup` at this time is forgotten.
    pub(super) setup_deadline: Instant,
    /// Not handed over before this time, in tests that want to see it later.
    pub(super) rests_from: Option<Instant>,
    handle: u32,
    pub(super) side: Side,
    /// The last visit stopped before the stream was read to its end.
    pub(super) is_unread: bool,
    /// The handshake is complete.
    pub(super) is_connected: bool,
    /// The stream exists.
    pub(super) has_stream: bool,
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

impl First {
    pub(super) fn new(
        handle: ConnectionHandle,
        proto: Connection,
        tap: Option<SharedTap>,
        setup_deadline: Instant,
    ) -> Self {
        let side = proto.side();
        Self {
            proto,
            tap,
            remainder: Bytes::new(),
            progress: Progress {
                written: 0,
                read: 0,
            },
            setup_deadline,
            rests_from: None,
            handle: u32::try_from(handle.0).expect("a shard holds at most 2^30 connections"),
            side,
            is_unread: false,
            is_connected: false,
            has_stream: false,
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
    pub(super) fn deadline(&mut self, is_setup: bool) -> Option<Instant> {
        let engine = self.proto.poll_timeout();
        let own = if is_setup {
            Some(self.setup_deadline)
        } else {
            self.rests_from
                .filter(|_| self.tap.is_some() && !self.proto.is_closed())
        };
        engine.into_iter().chain(own).min()
    }

    /// Takes the connection away from the engine, if it is quiet. To be asked when there is nothing to transmit.
    pub(super) fn take(&mut self, now: Instant) -> Option<Handover> {
        let tap = self.tap.as_ref()?;
        if self.rests_from.is_some_and(|from| from > now) {
            return None;
        }
        // From here on every turn asks again, and no timer is needed for it.
        self.rests_from = None;
        if !self.remainder.is_empty() || self.proto.is_closed() {
            return None;
        }
        let result = tap.lock().take(self.progress);
        match result {
            Ok(handover) => Some(handover),
            Err(reason) => {
                if reason.is_final() {
                    tracing::debug!(%reason, "stays with the handshake engine");
                    self.tap = None;
                }
                None
            }
        }
    }

    /// The address that the peer reaches us at, where the system tells.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.proto.local_ip()
    }

    /// Opens the stream (client) or takes the one the client opened (server).
    pub(super) fn obtain_stream(&mut self) -> bool {
        let mut streams = self.proto.streams();
        let id = match self.side {
            Side::Client => streams.open(Dir::Bi),
            Side::Server => streams.accept(Dir::Bi),
        };
        self.has_stream |= id == Some(Self::stream());
        self.has_stream
    }

    pub(super) fn remainder_bytes(&self) -> u64 {
        self.remainder.len() as u64
    }

    /// Takes all of `bytes` or nothing.
    pub(super) fn send(&mut self, bytes: Bytes) -> Result<(), SendError> {
        if !self.remainder.is_empty() {
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
                Ok(written) => self.progress.written += written.bytes as u64,
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
                    self.progress.read += chunk.bytes.len() as u64;
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
