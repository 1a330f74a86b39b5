//! What a shard tells its application.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use quinn_proto::{ConnectionError, TransportErrorCode};
use thiserror::Error;

use crate::ConnId;

/// What happened to a connection.
///
/// For every connection of the server role: one `Opened`, any number of `Bytes` and `Writable`, one `Closed`. A
/// handshake that fails on the server side makes no event, only statistics. In the client role every successful
/// [`connect`](crate::ShardCore::connect) is followed by exactly one `Closed`, with or without `Opened` before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete and the stream exists: bytes can be sent.
    ///
    /// The client role opens the stream as soon as the handshake is done; the server learns of it with the client's
    /// first bytes. So the client speaks first.
    Opened {
        /// The connection.
        conn: ConnId,
        /// The peer's address now. It may change later (RFC 9000 §9).
        remote: SocketAddr,
    },
    /// The next bytes of the stream, in order, without gaps.
    ///
    /// They share the memory of the datagram they came in: copy out what is kept for long.
    Bytes {
        /// The connection.
        conn: ConnId,
        /// Never empty.
        bytes: Bytes,
    },
    /// There is room again after a `send` was answered [`Full`](crate::SendError::Full).
    Writable {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is gone. Its `ConnId` is stale from now on.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

impl Event {
    /// The connection the event speaks of.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        match self {
            Self::Opened { conn, .. }
            | Self::Bytes { conn, .. }
            | Self::Writable { conn }
            | Self::Closed { conn, .. } => *conn,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer's application closed it (RFC 9000 §19.19, frame 0x1d).
    #[error("closed by the peer with code {code}")]
    ByPeer {
        /// The peer's code.
        code: u64,
        /// The peer's words, as sent: not necessarily text.
        reason: Bytes,
    },
    /// A QUIC error (RFC 9000 §20.1).
    #[error("transport error {code:#x}: {reason}")]
    Transport {
        /// The transport error code.
        code: u64,
        /// For people.
        reason: String,
        /// True if the peer found the error, false if this side did.
        by_peer: bool,
    },
    /// The peer broke a rule of this crate: one stream, open for the life of the connection.
    #[error("the peer broke the rule of one lasting stream, closed with code {code:#x}")]
    BrokenRule {
        /// One of [`close_code`](crate::close_code), which was sent to the peer.
        code: u32,
    },
    /// Nothing was heard for the idle timeout (RFC 9000 §10.1).
    #[error("timed out")]
    TimedOut,
    /// The peer has forgotten the connection, and said so (stateless reset, RFC 9000 §10.3).
    #[error("reset by the peer")]
    Reset,
    /// [`close`](crate::ShardCore::close) was called on this side.
    #[error("closed on this side with code {code}")]
    Local {
        /// The code given to `close`.
        code: u32,
    },
    /// The connection never opened. Only in the client role.
    #[error("handshake failed: {0}")]
    HandshakeFailed(HandshakeFailure),
}

/// Why a handshake failed, as the client role sees it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeFailure {
    /// The server takes no connections at the moment (CONNECTION_REFUSED).
    #[error("refused")]
    Refused,
    /// No answer, or none that led to an end, within the handshake timeout.
    #[error("timed out")]
    TimedOut,
    /// TLS failed: bad certificate, no common ALPN… (RFC 9001 §4.8).
    #[error("TLS alert {alert}: {reason}")]
    Tls {
        /// The TLS alert number (RFC 8446 §6).
        alert: u8,
        /// For people.
        reason: String,
    },
    /// The server speaks no QUIC version of ours.
    #[error("no common QUIC version")]
    Version,
    /// Any other cause.
    #[error("{0}")]
    Other(String),
}

impl CloseReason {
    /// The reason for a connection that was open.
    pub(crate) fn of_open(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::ByPeer {
                code: close.error_code.into_inner(),
                reason: close.reason,
            },
            ConnectionError::ConnectionClosed(close) => Self::Transport {
                code: close.error_code.into(),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
                by_peer: true,
            },
            ConnectionError::TransportError(error) => Self::Transport {
                code: error.code.into(),
                reason: error.reason,
                by_peer: false,
            },
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            // The engine reports neither of these for an established connection; if it ever does, its own words
            // are the best answer.
            other @ (ConnectionError::VersionMismatch
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted) => Self::Transport {
                code: TransportErrorCode::INTERNAL_ERROR.into(),
                reason: other.to_string(),
                by_peer: false,
            },
        }
    }

    /// The reason for a connection that was still in its handshake.
    pub(crate) fn of_handshake(error: ConnectionError) -> Self {
        /// CRYPTO_ERROR codes are 0x0100 + the TLS alert (RFC 9001 §4.8).
        fn of_code(code: TransportErrorCode, reason: String) -> HandshakeFailure {
            let number = u64::from(code);
            match (number >> 8, u8::try_from(number & 0xff)) {
                _ if code == TransportErrorCode::CONNECTION_REFUSED => HandshakeFailure::Refused,
                (1, Ok(alert)) => HandshakeFailure::Tls { alert, reason },
                _ => HandshakeFailure::Other(format!("transport error {number:#x}: {reason}")),
            }
        }
        Self::HandshakeFailed(match error {
            ConnectionError::ConnectionClosed(close) => of_code(
                close.error_code,
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            ConnectionError::TransportError(error) => of_code(error.code, error.reason),
            ConnectionError::TimedOut => HandshakeFailure::TimedOut,
            ConnectionError::VersionMismatch => HandshakeFailure::Version,
            other => HandshakeFailure::Other(other.to_string()),
        })
    }
}

/// Why [`send`](crate::ShardCore::send) did not take the bytes.
#[derive(Clone, PartialEq, Eq, Error)]
pub enum SendError {
    /// Nothing was taken. [`Event::Writable`] says when to try again.
    #[error("no room: wait until the connection is writable")]
    Full(Bytes),
    /// The connection does not exist (any more).
    #[error("the connection is gone")]
    Gone,
}

/// Tells the length only: what is sent is nobody's business in a log.
impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// Why [`connect`](crate::ShardCore::connect) did not even start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The shard holds as many connections as its limits allow.
    #[error("the shard is full: raise connections_max")]
    TooMany,
    /// The server name is neither a DNS name nor an IP address.
    #[error("invalid server name {0:?}")]
    ServerName(String),
    /// Port 0, or an unspecified address.
    #[error("invalid remote address {0}")]
    RemoteAddress(SocketAddr),
    /// Anything else the engine objected to.
    #[error("{0}")]
    Other(String),
}

impl ConnectError {
    pub(crate) fn of(error: quinn_proto::ConnectError) -> Self {
        match error {
            quinn_proto::ConnectError::InvalidServerName(name) => Self::ServerName(name),
            quinn_proto::ConnectError::InvalidRemoteAddress(addr) => Self::RemoteAddress(addr),
            other => Self::Other(other.to_string()),
        }
    }
}
