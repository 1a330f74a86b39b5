//! The UDP socket that clients share.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// One UDP socket, for one client or for many of one process. Cheap to clone; closed when the last clone and the
/// last client on it are gone.
#[derive(Clone, Debug)]
pub struct Socket {
    pub(crate) endpoint: quinn::Endpoint,
}

impl Socket {
    /// Binds a free port of all addresses, IPv6 and IPv4 alike, or of IPv4 alone where the system has no IPv6.
    ///
    /// # Errors
    /// What the operating system says, or that there is no tokio runtime here.
    pub fn bind() -> io::Result<Self> {
        Self::bind_to(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
            .or_else(|_| Self::bind_to(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
    }

    /// Binds an address of the caller's choice; port 0 picks a free one. An IPv4 address reaches IPv4 brokers only.
    ///
    /// # Errors
    /// What the operating system says, or that there is no tokio runtime here.
    pub fn bind_to(address: SocketAddr) -> io::Result<Self> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(io::Error::other(
                "no tokio runtime: bind from within one, with its I/O and time drivers enabled",
            ));
        }
        Ok(Self {
            endpoint: quinn::Endpoint::client(address)?,
        })
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }
}
