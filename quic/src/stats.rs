//! What a shard counts, for the caller to export.

use std::ops::AddAssign;

/// A snapshot of a shard. Gauges say what is; counters (`*_total`) only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Open connections: after `Opened`, before `Closed`.
    pub connections: u32,
    /// Server handshakes in progress.
    pub handshakes: u32,
    /// Client handshakes in progress.
    pub connecting: u32,
    /// Connections that linger for three round trips after closing (RFC 9000 §10.2).
    pub lingering: u32,
    /// Open and lingering connections that the resident engine serves.
    pub residents: u32,
    /// Slots allocated, used or not. Memory follows this number.
    pub slots: u32,

    /// Server handshakes begun.
    pub handshakes_started_total: u64,
    /// Server connections that opened.
    pub handshakes_completed_total: u64,
    /// Connections of both roles that went over to the resident engine.
    pub residents_total: u64,
    /// Server handshakes that ended in an error, including those that timed out.
    pub handshakes_failed_total: u64,
    /// Server handshakes that were forgotten at the handshake timeout.
    pub handshakes_timed_out_total: u64,
    /// Session tickets accepted: handshakes that were resumed.
    pub tickets_accepted_total: u64,
    /// Retry packets sent.
    pub retries_total: u64,
    /// Clients refused because of a limit, or because the shard no longer accepts.
    pub refused_total: u64,
    /// Clients that got no answer at all because the budget of refusals was spent.
    pub ignored_total: u64,
    /// Handshakes beyond what their source may begin a second: asked to prove their address, or refused.
    pub sources_limited_total: u64,
    /// Connections closed because the peer broke a rule of [`close_code`](crate::close_code).
    pub rules_broken_total: u64,

    /// Stateless resets sent.
    pub resets_total: u64,
    /// Stateless resets not sent because the budget was spent.
    pub resets_suppressed_total: u64,
    /// Answers without a connection dropped because too many waited for the socket.
    pub replies_dropped_total: u64,

    /// Datagrams received, and their bytes.
    pub datagrams_received_total: u64,
    /// Bytes of UDP payload received.
    pub bytes_received_total: u64,
    /// Datagrams polled to be sent; each segment counts.
    pub datagrams_sent_total: u64,
    /// Bytes of UDP payload polled to be sent.
    pub bytes_sent_total: u64,
    /// Times the socket was full. What it refused waits, and nothing more is polled meanwhile.
    pub sends_blocked_total: u64,
    /// Messages that the system refused for good: lost, as the network may lose them.
    pub sends_failed_total: u64,
    /// Datagrams that came to this shard's socket, belong to a sibling, and were handed over to it.
    pub forwarded_total: u64,
    /// Those that were dropped because too many waited for the sibling, or because it has stopped.
    pub forwards_dropped_total: u64,
    /// Datagrams of this shard that its siblings handed over.
    pub handed_over_total: u64,
    /// Stream bytes accepted by `send`.
    pub stream_bytes_sent_total: u64,
    /// Stream bytes handed to the application.
    pub stream_bytes_received_total: u64,

    /// Bytes of the records and tables of all connections, used or not, beside what the handshake engine holds.
    pub memory_bytes: u64,
    /// Bytes held in the unfinished halves of sends, at most one for each connection. Beside these a connection holds
    /// at most `send_window_bytes` that were sent and not acknowledged, and `receive_window_bytes` received out of
    /// order.
    pub remainder_bytes: u64,
    /// Bytes in events not yet polled.
    pub event_bytes: u64,
    /// Bytes in answers without a connection that wait for the socket.
    pub reply_bytes: u64,
}

/// Adds field by field. A field that is missing here does not compile.
macro_rules! add_fields {
    ($($field:ident,)*) => {
        /// The sum over shards: gauges and counters alike add up.
        impl AddAssign for Stats {
            fn add_assign(&mut self, other: Self) {
                let Self { $($field,)* } = other;
                $( self.$field += $field; )*
            }
        }
    };
}

add_fields! {
    connections,
    handshakes,
    connecting,
    lingering,
    residents,
    slots,
    handshakes_started_total,
    handshakes_completed_total,
    residents_total,
    handshakes_failed_total,
    handshakes_timed_out_total,
    tickets_accepted_total,
    retries_total,
    refused_total,
    ignored_total,
    sources_limited_total,
    rules_broken_total,
    resets_total,
    resets_suppressed_total,
    replies_dropped_total,
    datagrams_received_total,
    bytes_received_total,
    datagrams_sent_total,
    bytes_sent_total,
    sends_blocked_total,
    sends_failed_total,
    forwarded_total,
    forwards_dropped_total,
    handed_over_total,
    stream_bytes_sent_total,
    stream_bytes_received_total,
    memory_bytes,
    remainder_bytes,
    event_bytes,
    reply_bytes,
}
