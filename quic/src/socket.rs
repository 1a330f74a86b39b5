//! The UDP socket of a shard: many datagrams a system call in, one transmit a call out.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::Interest;
use tracing::trace;

use crate::{Ecn, Received, Transmit};

/// The largest buffer the kernel can fill with coalesced segments (GRO): an IP packet's worth.
const GRO_BYTES_MAX: usize = 65_535;

/// What the kernel granted, in bytes of payload and bookkeeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBuffers {
    /// For datagrams that came in and were not fetched yet. A burst beyond it is lost.
    pub receive_bytes: usize,
    /// For datagrams that wait for the network card.
    pub send_bytes: usize,
}

/// A bound socket and its receive buffers, which are allocated once.
///
/// Reading and writing never wait, whether `Io` belongs to a runtime or not.
pub(crate) struct Socket<Io = UdpSocket> {
    io: Io,
    state: UdpSocketState,
    buffers: Box<[u8]>,
    buffer_bytes: usize,
}

/// What became of a transmit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Gone.
    Yes,
    /// The socket is full.
    Blocked,
    /// The system does not want it: for QUIC that is a lost datagram.
    Failed,
}

impl Socket {
    /// Binds without `SO_REUSEPORT`: a second process has to fail with "address in use" instead of taking half of the
    /// packets.
    pub(crate) fn bind(
        addr: SocketAddr,
        wanted: SocketBuffers,
        payload_bytes_max: u16,
    ) -> io::Result<Self> {
        let raw = RawSocket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            // `[::]` takes IPv4 as well, whatever the system's default.
            raw.set_only_v6(false)?;
        }
        // The kernel caps what it grants; `granted` tells.
        raw.set_recv_buffer_size(wanted.receive_bytes)?;
        raw.set_send_buffer_size(wanted.send_bytes)?;
        raw.bind(&addr.into())?;
        let io = UdpSocket::from(raw);
        let state = UdpSocketState::new((&io).into())?;
        let buffer_bytes =
            (usize::from(payload_bytes_max) * state.gro_segments()).min(GRO_BYTES_MAX);
        Ok(Self {
            io,
            state,
            buffers: vec![0; buffer_bytes * BATCH_SIZE].into(),
            buffer_bytes,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    pub(crate) fn granted(&self) -> io::Result<SocketBuffers> {
        // Linux reserves, and reports, twice what it was asked for.
        let share = if cfg!(target_os = "linux") { 2 } else { 1 };
        Ok(SocketBuffers {
            receive_bytes: self.state.recv_buffer_size((&self.io).into())? / share,
            send_bytes: self.state.send_buffer_size((&self.io).into())? / share,
        })
    }

    /// Hands the socket over to a runtime, which will say when it is ready.
    pub(crate) fn into_tokio(self) -> io::Result<Socket<tokio::net::UdpSocket>> {
        Ok(Socket {
            io: tokio::net::UdpSocket::from_std(self.io)?,
            state: self.state,
            buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
        })
    }
}

impl Socket<tokio::net::UdpSocket> {
    /// Sleeps until a datagram comes.
    ///
    /// The readiness is used up before the caller tries the socket, so that what comes after that wakes anew.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await?;
        self.use_up(Interest::READABLE);
        Ok(())
    }

    /// Sleeps until the socket takes datagrams.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await?;
        self.use_up(Interest::WRITABLE);
        Ok(())
    }

    fn use_up(&self, interest: Interest) {
        let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // "Would block" is what clears the readiness, and so the answer every time.
        let _ = self.io.try_io(interest, blocked);
    }
}

impl<Io: AsFd> Socket<Io> {
    pub(crate) fn gso_segments_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Fetches what has come, at most one batch, and hands out its segments one by one.
    ///
    /// Answers how many buffers were filled; 0 if nothing has come.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Received<'_>)) -> io::Result<usize> {
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = self.buffers.chunks_exact_mut(self.buffer_bytes);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        let filled = match self.state.recv((&self.io).into(), &mut slices, &mut meta) {
            Ok(filled) => filled,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(0),
                    // Echoes of datagrams sent earlier, which the transport notices by itself.
                    io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable => Ok(1),
                    _ => Err(error),
                };
            }
        };
        for (meta, buffer) in meta.iter().zip(&mut slices).take(filled) {
            // A stride of 0 would be an empty datagram, which is no QUIC packet.
            for segment in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                take(Received {
                    remote: meta.addr,
                    local_ip: meta.dst_ip,
                    ecn: meta.ecn.map(ecn_in),
                    payload: segment,
                });
            }
        }
        Ok(filled)
    }

    pub(crate) fn send(&self, transmit: &Transmit, contents: &[u8]) -> Sent {
        let result = self.state.try_send(
            (&self.io).into(),
            &quinn_udp::Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn.map(ecn_out),
                contents,
                segment_size: transmit.segment_size,
                src_ip: transmit.src_ip,
            },
        );
        match result {
            Ok(()) => Sent::Yes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            Err(error) => {
                trace!(destination = %transmit.destination, %error, "datagram not sent");
                Sent::Failed
            }
        }
    }
}

fn ecn_in(ecn: quinn_udp::EcnCodepoint) -> Ecn {
    match ecn {
        quinn_udp::EcnCodepoint::Ect0 => Ecn::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => Ecn::Ect1,
        quinn_udp::EcnCodepoint::Ce => Ecn::Ce,
    }
}

fn ecn_out(ecn: Ecn) -> quinn_udp::EcnCodepoint {
    match ecn {
        Ecn::Ect0 => quinn_udp::EcnCodepoint::Ect0,
        Ecn::Ect1 => quinn_udp::EcnCodepoint::Ect1,
        Ecn::Ce => quinn_udp::EcnCodepoint::Ce,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const WANTED: SocketBuffers = SocketBuffers {
        receive_bytes: 64 << 10,
        send_bytes: 64 << 10,
    };

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let first = Socket::bind((Ipv4Addr::LOCALHOST, 0).into(), WANTED, 1472).unwrap();
        let error = Socket::bind(first.local_addr().unwrap(), WANTED, 1472)
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn says_what_the_kernel_granted() {
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into(), WANTED, 1472).unwrap();
        assert_eq!(socket.granted().unwrap(), WANTED);
    }

    #[test]
    fn segments_come_out_as_they_were_sent() {
        let mut receiver = Socket::bind((Ipv4Addr::LOCALHOST, 0).into(), WANTED, 1472).unwrap();
        let sender = Socket::bind((Ipv4Addr::LOCALHOST, 0).into(), WANTED, 1472).unwrap();
        assert_eq!(receiver.receive(|_| panic!("nothing was sent")).unwrap(), 0);
        let contents: Vec<u8> = (0..250u8).collect();
        let transmit = Transmit {
            destination: receiver.local_addr().unwrap(),
            src_ip: None,
            ecn: Some(Ecn::Ect0),
            segment_size: (sender.gso_segments_max() > 2).then_some(100),
            bytes: contents.len(),
        };
        assert_eq!(sender.send(&transmit, &contents), Sent::Yes);
        let mut got = Vec::new();
        // Loopback delivers before the call returns.
        while got.len() < transmit.datagrams() {
            receiver
                .receive(|d| got.push((d.payload.to_vec(), d.ecn, d.remote)))
                .unwrap();
        }
        assert!(
            got.iter()
                .map(|d| &d.0[..])
                .eq(transmit.segments(&contents))
        );
        assert!(got.iter().all(|d| d.1 == Some(Ecn::Ect0)));
        assert!(got.iter().all(|d| d.2 == sender.local_addr().unwrap()));
    }
}
