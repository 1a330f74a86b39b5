//! The UDP socket that clients share.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{EndpointConfig, TokioRuntime};
use socket2::{Domain, Protocol, Type};

use crate::keep_alive::NetworkId;

/// Asked of the kernel, which may grant less: what a broadcast sends to all devices of a socket comes at once, and
/// the default of some 200 KiB loses part of it at a few hundred devices.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Clients that share a socket tell of the same change one after the other, and systems tell of it more than once:
/// within this time it is one change.
const ONE_CHANGE: Duration = Duration::from_secs(1);

/// One UDP socket, for one client or for many of one process. Cheap to clone; closed when the last clone and the
/// last client on it are gone.
#[derive(Clone, Debug)]
pub struct Socket {
    pub(crate) endpoint: quinn::Endpoint,
    /// Which network it was last bound anew for, and when.
    rebound: Arc<Mutex<Option<(NetworkId, Instant)>>>,
}

impl Socket {
    /// Binds a free port of all addresses, IPv6 and IPv4 alike, or of IPv4 alone where the system has no IPv6. Asks
    /// for a receive buffer of 1 MiB; the kernel may grant less.
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
        let endpoint = quinn::Endpoint::new(
            EndpointConfig::default(),
            None,
            open(address)?,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            rebound: Arc::default(),
        })
    }

    /// The address that the socket is bound to. Its port changes with
    /// [`Client::network_changed`](crate::Client::network_changed).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Takes a new socket, on a free port of the same address, for all clients here: their connections move to it,
    /// and each sends a PING from it at once. Does nothing within a second of the last time for the same network.
    ///
    /// Call from within the runtime.
    ///
    /// # Errors
    /// What the operating system says; then everything stays on the socket that was there.
    pub(crate) fn rebind(&self, network: &NetworkId) -> io::Result<()> {
        // Held while binding, which does not block, so that of many clients one does it.
        let mut rebound = self.rebound.lock().unwrap_or_else(PoisonError::into_inner);
        if rebound
            .as_ref()
            .is_some_and(|(last, at)| last == network && at.elapsed() < ONE_CHANGE)
        {
            return Ok(());
        }
        let mut address = self.endpoint.local_addr()?;
        // Another port: the old socket is still open for what is on its way.
        address.set_port(0);
        self.endpoint.rebind(open(address)?)?;
        *rebound = Some((network.clone(), Instant::now()));
        Ok(())
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Where the system cannot, IPv6 alone is what there is.
        let _ = socket.set_only_v6(false);
    }
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer stays as the system makes it");
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_that_tell_of_one_change_rebind_once() {
        let socket = Socket::bind_to("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = || socket.local_addr().unwrap().port();
        let before = port();
        socket.rebind(&"train".into()).unwrap();
        let after = port();
        assert_ne!(after, before);
        socket.clone().rebind(&"train".into()).unwrap();
        assert_eq!(port(), after);
        socket.rebind(&"home".into()).unwrap();
        assert_ne!(port(), after);
    }

    #[tokio::test]
    async fn sockets_ask_for_room_for_a_broadcast() {
        let kernel_default = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let ours = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let size = |socket: &std::net::UdpSocket| {
            socket2::SockRef::from(socket).recv_buffer_size().unwrap()
        };
        // Kernels may grant less than was asked for, but more than by default where the default is less.
        let (granted, default) = (size(&ours), size(&kernel_default));
        assert!(
            granted >= RECEIVE_BUFFER_BYTES || granted > default,
            "{granted} {default}"
        );
    }
}
