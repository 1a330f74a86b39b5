//! Datagrams in and out, as the core sees them.

use std::net::{IpAddr, SocketAddr};

use quinn_proto::EcnCodepoint;

/// Explicit congestion notification of an IP packet (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ecn {
    /// ECT(0).
    Ect0,
    /// ECT(1).
    Ect1,
    /// Congestion experienced.
    Ce,
}

impl From<EcnCodepoint> for Ecn {
    fn from(value: EcnCodepoint) -> Self {
        match value {
            EcnCodepoint::Ect0 => Self::Ect0,
            EcnCodepoint::Ect1 => Self::Ect1,
            EcnCodepoint::Ce => Self::Ce,
        }
    }
}

impl From<Ecn> for EcnCodepoint {
    fn from(value: Ecn) -> Self {
        match value {
            Ecn::Ect0 => Self::Ect0,
            Ecn::Ect1 => Self::Ect1,
            Ecn::Ce => Self::Ce,
        }
    }
}

/// One datagram that came in. A buffer that the kernel filled with several (GRO) is cut into its segments first.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub remote: SocketAddr,
    /// The address it was sent to, where the system tells. Answers leave from it.
    pub local_ip: Option<IpAddr>,
    /// Its congestion mark.
    pub ecn: Option<Ecn>,
    /// The UDP payload. Protection is removed in place, so it is scrambled afterwards.
    pub payload: &'a mut [u8],
}

/// One or several datagrams to send to one destination. The payload itself was appended to the buffer that was given
/// to [`poll_transmit`](crate::ShardCore::poll_transmit).
///
/// A transmit that was polled cannot be given back: what the socket refuses the caller has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// The address to send from, if known.
    pub src_ip: Option<IpAddr>,
    /// The congestion mark to set.
    pub ecn: Option<Ecn>,
    /// If set, the payload is several datagrams of this many bytes each, the last perhaps shorter (GSO).
    pub segment_size: Option<usize>,
    /// Length of the payload, in bytes: that many last bytes of the buffer.
    pub bytes: usize,
}

impl Transmit {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.segment_size
            .map_or(1, |size| self.bytes.div_ceil(size.max(1)))
    }

    /// The single datagrams, in order, of this transmit's payload.
    pub fn segments<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // A chunk size of 0 would panic; a transmit without payload has no segments at any size.
        let size = self.segment_size.unwrap_or(payload.len()).max(1);
        payload.chunks(size)
    }

    pub(crate) fn of(transmit: &quinn_proto::Transmit) -> Self {
        Self {
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            ecn: transmit.ecn.map(Ecn::from),
            segment_size: transmit.segment_size,
            bytes: transmit.size,
        }
    }
}
