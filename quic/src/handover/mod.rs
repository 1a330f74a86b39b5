//! What the resident engine must know of a connection to take it over from quinn-proto.
//!
//! Every connection begins on quinn-proto. Here are the TLS sessions and packet keys that it runs on, made by
//! [`ServerCrypto`] and [`ClientCrypto`] through its public traits. The keys see every 1-RTT packet of both directions
//! in plain, and tell a [tap](SharedTap) what it takes to go on with the connection: secrets, packet numbers, connection IDs,
//! stream offsets, credit. Nothing here sends, waits or decides: a shard asks [`Tap::take`](tap::Tap::take) whenever it likes, and
//! gets a [`Handover`], or the first reason why [`NotYet`].
//!
//! A connection is handed over when its peer could not tell the difference: the handshake is confirmed, all that was
//! said is acknowledged in both directions, and nothing is under way, be it a key update or the validation of a path.
//! Any other connection stays where it is, and is served as well.
//!
//! ```text
//!  quinn_proto::Connection ── Session ─────────── rustls::quic::Connection
//!        │                       │ secrets, transport parameters
//!        │ 1-RTT packets         ▼
//!        └────── packet keys ──▶ Tap ── take() ──▶ Handover | NotYet
//! ```

mod generations;
mod ids;
mod keys;
mod ledger;
mod numbers;
mod parameters;
mod ranges;
mod retry;
mod secrets;
mod session;
mod tap;
#[cfg(test)]
mod tests;
mod unpad;
mod watch;

use std::time::Duration;

use quinn_proto::{ConnectionId, Side};
use thiserror::Error;

pub(crate) use self::{
    session::{ClientCrypto, ServerCrypto, provider, take_tap},
    tap::SharedTap,
};
use crate::{
    CID_BYTES,
    resident::{
        frame::RESET_TOKEN_BYTES,
        protect::{HeaderKey, Secret},
    },
};

/// The acknowledgement delay that a server declares (RFC 9000 §18.2): the resident engine may take its time, so that
/// an acknowledgement rides with an answer. A client declares the default of 25 ms.
pub(crate) const OWN_MAX_ACK_DELAY: Duration = Duration::from_millis(250);

/// All that the resident engine goes on with. Address and round-trip time are asked of quinn-proto.
pub(crate) struct Handover {
    pub(crate) role: Side,
    /// Secret of what is sent, in the current key phase.
    pub(crate) tx_secret: Secret,
    /// Secret of what is received, in the current key phase.
    pub(crate) rx_secret: Secret,
    pub(crate) tx_header_key: HeaderKey,
    pub(crate) rx_header_key: HeaderKey,
    /// The key phase bit, the same in both directions (RFC 9001 §6).
    pub(crate) key_phase: bool,
    /// The first packet that was sent in this phase.
    pub(crate) phase_first_number: u64,
    /// Whether the peer acknowledged a packet of this phase, without which no update may begin (RFC 9001 §6.1).
    pub(crate) is_phase_acked: bool,
    /// The number of the next packet to send.
    pub(crate) next_number: u64,
    /// The largest packet number that the peer acknowledged.
    pub(crate) largest_acked: Option<u64>,
    /// The largest packet number received.
    pub(crate) received_largest: u64,
    /// Bit i stands for `received_largest - i`; bit 0 is set.
    pub(crate) received_mask: u64,
    /// Our connection IDs that the peer may use, with their sequence numbers: one or two.
    pub(crate) local_ids: Vec<(u64, [u8; CID_BYTES])>,
    pub(crate) next_local_sequence: u64,
    /// The connection ID that our packets carry.
    pub(crate) remote_id: RemoteId,
    pub(crate) spare_remote_id: Option<RemoteId>,
    /// The largest Retire Prior To of the peer (RFC 9000 §19.15).
    pub(crate) retire_prior_to: u64,
    /// Bytes sent on the stream, all of them acknowledged.
    pub(crate) send_offset: u64,
    /// Bytes received on the stream, all of them read.
    pub(crate) recv_offset: u64,
    /// How many bytes the peer takes on all streams, and on ours.
    pub(crate) peer_max_data: u64,
    pub(crate) peer_max_stream_data: u64,
    /// How many bytes we said that we take on all streams, and on ours.
    pub(crate) own_max_data: u64,
    pub(crate) own_max_stream_data: u64,
    pub(crate) peer: PeerParameters,
}

/// A connection ID of the peer (RFC 9000 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteId {
    pub(crate) sequence: u64,
    /// 0 to 20 bytes.
    pub(crate) id: ConnectionId,
    /// Tells a stateless reset (RFC 9000 §10.3). A client's first ID has none.
    pub(crate) token: Option<[u8; RESET_TOKEN_BYTES]>,
}

/// What the peer declared once and for all (RFC 9000 §18.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerParameters {
    /// At most 20.
    pub(crate) ack_delay_exponent: u8,
    /// Below 2^14 ms.
    pub(crate) max_ack_delay: Duration,
    /// At least 1200.
    pub(crate) max_udp_payload: u16,
    pub(crate) max_idle_timeout: Option<Duration>,
    /// At least 2, as declared: quinn-proto was told no more than 2.
    pub(crate) active_connection_id_limit: u64,
}

/// How far the application got with the stream, by its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that quinn-proto took to send.
    pub(crate) written: u64,
    /// Bytes that quinn-proto gave.
    pub(crate) read: u64,
}

/// The first reason why a connection cannot be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NotYet {
    /// Never: the peers agreed on a suite that the resident engine does not speak.
    #[error("the cipher suite is not AES-128-GCM with SHA-256")]
    OtherSuite,
    /// Never: a stream beside the first was used, or the first was finished, reset or stopped.
    #[error("another stream was used, or the stream ended")]
    Streams,
    /// Never: the connection ends.
    #[error("the connection is closing")]
    Closing,
    /// Never: more was under way at once than the tap remembers, or something that it cannot read.
    #[error("the tap lost track")]
    Untracked,
    /// The handshake is not confirmed at both ends: the server's HANDSHAKE_DONE has not been acknowledged, or not
    /// reached the client (RFC 9001 §4.1.2).
    #[error("the handshake is not confirmed")]
    Handshake,
    /// The peer's address is being validated, or a PATH_CHALLENGE awaits its response (RFC 9000 §8.2).
    #[error("a path is being validated")]
    Path,
    /// Both directions have not arrived in the same key phase, or the peer has acknowledged nothing of it yet
    /// (RFC 9001 §6).
    #[error("a key update is under way")]
    KeyUpdate,
    /// A connection ID of ours has not been acknowledged.
    #[error("a new connection ID is not acknowledged")]
    LocalIds,
    /// A connection ID of the peer is to be retired, or its retirement has not been acknowledged, or the peer issued
    /// more of them than it may.
    #[error("a connection ID is being retired")]
    RemoteIds,
    /// A session ticket has not been acknowledged, or has arrived in part.
    #[error("TLS has bytes under way")]
    Crypto,
    /// The newest MAX_DATA or MAX_STREAM_DATA of ours has not been acknowledged.
    #[error("credit is not acknowledged")]
    Credit,
    /// quinn-proto has bytes that it has not sent.
    #[error("stream bytes wait to be sent")]
    Unsent,
    /// Bytes that were sent are not acknowledged.
    #[error("stream bytes are not acknowledged")]
    Unacked,
    /// quinn-proto has bytes that the application has not read.
    #[error("stream bytes wait to be read")]
    Unread,
    /// Bytes beyond a gap have arrived.
    #[error("stream bytes are missing")]
    Gap,
    /// The newest packet that elicits an acknowledgement has got none.
    #[error("a packet is in flight")]
    InFlight,
    /// A packet that elicits an acknowledgement has arrived since the last one we sent.
    #[error("an acknowledgement is owed")]
    AckOwed,
}

impl NotYet {
    /// Whether waiting cannot help.
    pub(crate) fn is_final(self) -> bool {
        matches!(
            self,
            Self::OtherSuite | Self::Streams | Self::Closing | Self::Untracked
        )
    }
}
