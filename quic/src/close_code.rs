//! Application close codes (RFC 9000 §19.19) which this crate itself sends.
//!
//! Codes from [`FIRST`] to [`LAST`] belong to this crate; an application keeps its own out of that range.

/// First code of the range that belongs to this crate.
pub const FIRST: u32 = 0x7100;
/// Last code of the range that belongs to this crate.
pub const LAST: u32 = 0x71ff;

/// The peer finished the one stream of the connection.
pub const STREAM_FINISHED: u32 = FIRST;
/// The peer reset the one stream (RESET_STREAM).
pub const STREAM_RESET: u32 = FIRST + 1;
/// The peer asked this side to stop sending on the one stream (STOP_SENDING).
pub const STREAM_STOPPED: u32 = FIRST + 2;
/// The handshake was complete, but the client opened no stream within the handshake timeout.
pub const STREAM_MISSING: u32 = FIRST + 3;
/// The server does not let the client open the one stream.
pub const STREAM_REFUSED: u32 = FIRST + 4;
