//! Datagrams in and out, as the core sees them.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
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
pub struct Received {
    /// Who sent it.
    pub remote: SocketAddr,
    /// The address it was sent to, where the system tells. Answers leave from it.
    pub local_ip: Option<IpAddr>,
    /// Its congestion mark.
    pub ecn: Option<Ecn>,
    /// The UDP payload.
    pub payload: BytesMut,
}

/// One or several datagrams to send to one destination.
///
/// A transmit that was polled cannot be given back: what the socket refuses the caller has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// Where to.
    pub destination: SocketAddr,
    /// The address to send from, if known.
    pub src_ip: Option<IpAddr>,
    /// The congestion mark to set.
    pub ecn: Option<Ecn>,
    /// If set, `contents` is several datagrams of this many bytes each, the last perhaps shorter (GSO).
    pub segment_size: Option<usize>,
    /// UDP payload.
    pub contents: &'a [u8],
}

impl<'a> Transmit<'a> {
    /// The single datagrams, in order.
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> {
        // A chunk size of 0 would panic; a transmit without contents has no segments at any size.
        let size = self.segment_size.unwrap_or(self.contents.len()).max(1);
        self.contents.chunks(size)
    }
}

/// Everything about a [`Transmit`] except its contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) destination: SocketAddr,
    pub(crate) src_ip: Option<IpAddr>,
    pub(crate) ecn: Option<Ecn>,
    pub(crate) segment_size: Option<usize>,
}

impl Envelope {
    pub(crate) fn with(self, contents: &[u8]) -> Transmit<'_> {
        Transmit {
            destination: self.destination,
            src_ip: self.src_ip,
            ecn: self.ecn,
            segment_size: self.segment_size,
            contents,
        }
    }
}

impl From<&quinn_proto::Transmit> for Envelope {
    fn from(t: &quinn_proto::Transmit) -> Self {
        Self {
            destination: t.destination,
            src_ip: t.src_ip,
            ecn: t.ecn.map(Ecn::from),
            segment_size: t.segment_size,
        }
    }
}

impl From<&Transmit<'_>> for Envelope {
    fn from(t: &Transmit<'_>) -> Self {
        Self {
            destination: t.destination,
            src_ip: t.src_ip,
            ecn: t.ecn,
            segment_size: t.segment_size,
        }
    }
}
