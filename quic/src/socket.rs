//! The UDP socket of a shard: many datagrams a system call in, many out.

pub(crate) mod syscall;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use tokio::io::Interest;

use self::syscall::{Envelopes, Source};
use crate::{
    Ecn, Received,
    out_ring::{Flush, OutRing},
};

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

/// A bound socket and its buffers, which are allocated once.
///
/// Reading and writing never wait, whether `Io` belongs to a runtime or not.
pub(crate) struct Socket<Io = UdpSocket> {
    io: Io,
    state: UdpSocketState,
    buffers: Box<[u8]>,
    buffer_bytes: usize,
    /// What the buffers were filled with, and how many of them.
    meta: [RecvMeta; BATCH_SIZE],
    filled: usize,
    envelopes: Envelopes,
    /// Datagrams that one message out may hold; 1 from the first time that a device cannot cut it.
    segments_max: usize,
    #[cfg(feature = "sim")]
    pub(crate) stutter: Stutter,
}

/// A socket that starves on purpose, for tests: loopback is never full by itself.
#[cfg(feature = "sim")]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stutter {
    /// Every how many calls one is served; 0: all are.
    pub(crate) served_every: u32,
    calls: u32,
}

#[cfg(feature = "sim")]
impl Stutter {
    /// Whether this call is to be refused.
    fn refuses(&mut self) -> bool {
        self.calls = self.calls.wrapping_add(1);
        self.served_every > 1 && !self.calls.is_multiple_of(self.served_every)
    }
}

/// How a socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody else may have the port, now or later.
    Alone,
    /// Joins those of the same user that share the port, if they let it (`SO_REUSEPORT`).
    Joining,
}

/// What became of a message: of a transmit, or of several that were joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Gone.
    Yes,
    /// The socket takes no more now; the message waits.
    Blocked,
    /// The system does not want it: for QUIC that is a lost datagram.
    Failed,
}

impl Socket {
    /// Binds a socket with buffers for payloads of this size.
    pub(crate) fn bind(
        addr: SocketAddr,
        sharing: Sharing,
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
        raw.set_reuse_port(sharing == Sharing::Joining)?;
        // Which mark a datagram bears, its transmit says; without one it bears none, whatever the system's default.
        raw.set_tos_v4(0)?;
        if addr.is_ipv6() {
            raw.set_tclass_v6(0)?;
        }
        raw.bind(&addr.into())?;
        let io = UdpSocket::from(raw);
        let state = UdpSocketState::new((&io).into())?;
        let buffer_bytes =
            (usize::from(payload_bytes_max) * state.gro_segments()).min(GRO_BYTES_MAX);
        Ok(Self {
            io,
            buffers: vec![0; buffer_bytes * BATCH_SIZE].into(),
            buffer_bytes,
            meta: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
            envelopes: Envelopes::new(Source::of(addr.ip())),
            segments_max: state.max_gso_segments(),
            state,
            #[cfg(feature = "sim")]
            stutter: Stutter::default(),
        })
    }

    /// Lets others join the port of a socket that was bound alone.
    pub(crate) fn share(&self) -> io::Result<()> {
        SockRef::from(&self.io).set_reuse_port(true)
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
            meta: self.meta,
            filled: self.filled,
            envelopes: self.envelopes,
            segments_max: self.segments_max,
            #[cfg(feature = "sim")]
            stutter: self.stutter,
        })
    }
}

impl<Io: AsFd> AsFd for Socket<Io> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
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
    /// Datagrams that one message may hold (GSO), at least 1. May fall while the socket lives.
    pub(crate) fn gso_segments_max(&self) -> usize {
        self.segments_max
    }

    /// Fetches what has come, at most one batch, for [`hand_out`](Self::hand_out).
    ///
    /// Answers how many buffers were filled; 0 if nothing has come.
    pub(crate) fn fetch(&mut self) -> io::Result<usize> {
        self.filled = 0;
        let mut buffers = self.buffers.chunks_exact_mut(self.buffer_bytes);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        match (self.state).recv((&self.io).into(), &mut slices, &mut self.meta) {
            Ok(filled) => {
                self.filled = filled;
                Ok(filled)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(0),
                // Echoes of datagrams sent earlier, which the transport notices by itself.
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable => Ok(1),
                _ => Err(error),
            },
        }
    }

    /// Shows the payloads of what was fetched, in order.
    pub(crate) fn show(&self, mut look: impl FnMut(&[u8])) {
        let buffers = self.buffers.chunks_exact(self.buffer_bytes);
        for (meta, buffer) in self.meta.iter().zip(buffers).take(self.filled) {
            for segment in buffer[..meta.len].chunks(meta.stride.max(1)) {
                look(segment);
            }
        }
    }

    /// Hands out what was fetched, segment by segment, once.
    pub(crate) fn hand_out(&mut self, mut take: impl FnMut(Received<'_>)) {
        let filled = std::mem::take(&mut self.filled);
        let buffers = self.buffers.chunks_exact_mut(self.buffer_bytes);
        for (meta, buffer) in self.meta.iter().zip(buffers).take(filled) {
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
    }

    /// Sends what waits, without waiting itself; the fate of each message is noted.
    pub(crate) fn flush(&mut self, ring: &mut OutRing, note: impl FnMut(Sent)) -> Flush {
        let Self {
            io,
            envelopes,
            segments_max,
            #[cfg(feature = "sim")]
            stutter,
            ..
        } = self;
        ring.flush(
            |ring| {
                #[cfg(feature = "sim")]
                if stutter.refuses() {
                    return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                }
                let result = envelopes.send(io.as_fd(), ring.waiting());
                // The device will not learn to cut; a segment that does not fit one way (EINVAL) says nothing of others.
                if result
                    .as_ref()
                    .is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
                {
                    *segments_max = 1;
                }
                result
            },
            note,
        )
    }
}

fn ecn_in(ecn: quinn_udp::EcnCodepoint) -> Ecn {
    match ecn {
        quinn_udp::EcnCodepoint::Ect0 => Ecn::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => Ecn::Ect1,
        quinn_udp::EcnCodepoint::Ce => Ecn::Ce,
    }
}
