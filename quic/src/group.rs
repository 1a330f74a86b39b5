//! One UDP port for several shards (`SO_REUSEPORT`), with the kernel's choice among them by [`steering`].
//!
//! A reuseport group takes in any socket of the same user that asks, and gives it a share of the packets, which for a
//! second broker would be half of the first one's devices. So the first socket is bound alone: that fails if anybody
//! has the port, shared or not, and is decided by the kernel at one instant, also between two that start together.
//! Only then it lets the others join. (In the kernel's `udp_lib_lport_inuse` a port is free for a socket only if both it
//! and every socket there may share; `reuseport_add_sock` makes a group of a socket that was bound before it may.)
//!
//! A program that asks for `SO_REUSEPORT` first and never binds alone can still join later. Nothing here does.

use std::{io, net::SocketAddr, os::fd::AsFd};

use tracing::warn;

use crate::{
    SocketBuffers,
    driver::Steering,
    socket::{Sharing, Socket, syscall},
    steering,
};

/// Binds as many sockets as there are shards; the one for shard `n` is the kernel's `n`th of the group.
///
/// # Errors
///
/// [`io::ErrorKind::AddrInUse`] if anybody has the port, even if willing to share it.
pub(crate) fn bind(
    addr: SocketAddr,
    shards: u16,
    steering: Steering,
    buffers: SocketBuffers,
    payload_bytes_max: u16,
) -> io::Result<Vec<Socket>> {
    let first = Socket::bind(addr, Sharing::Alone, buffers, payload_bytes_max)?;
    // With the port that the system picked.
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    if shards > 1 {
        sockets[0].share()?;
        for _ in 1..shards {
            sockets.push(Socket::bind(
                addr,
                Sharing::Joining,
                buffers,
                payload_bytes_max,
            )?);
        }
        steer(&sockets[0], shards, steering);
    }
    Ok(sockets)
}

/// Has the kernel choose the right socket, where it can.
fn steer(member: &Socket, shards: u16, steering: Steering) {
    let attached = match steering {
        Steering::ByKernel => {
            syscall::attach_reuseport_filter(member.as_fd(), &steering::program(shards))
        }
        Steering::ByForwarding => return,
    };
    if let Err(error) = attached {
        warn!(
            %error,
            shards,
            "the kernel cannot steer packets to their shards (SO_ATTACH_REUSEPORT_CBPF): shards hand them over among \
             themselves, which costs CPU. Way out: Linux 4.5 or newer, in a sandbox that allows this socket option; \
             or one shard"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr, UdpSocket},
        sync::{Arc, Barrier},
    };

    use super::*;

    const BUFFERS: SocketBuffers = SocketBuffers {
        receive_bytes: 64 << 10,
        send_bytes: 64 << 10,
    };

    fn group(addr: SocketAddr, shards: u16, steering: Steering) -> io::Result<Vec<Socket>> {
        bind(addr, shards, steering, BUFFERS, 1472)
    }

    fn localhost() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn is_in_use<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    /// The kernel asks for the same user, not for the same process, so sockets of this one show it all.
    #[test]
    fn nobody_joins_a_group_by_the_front_door() {
        for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let first = group((ip, 0).into(), 3, Steering::ByKernel).unwrap();
            let addr = first[0].local_addr().unwrap();
            assert!(first.iter().all(|s| s.local_addr().unwrap() == addr));
            for shards in [1, 2, 3] {
                assert!(is_in_use(group(addr, shards, Steering::ByKernel)));
            }
            assert!(is_in_use(UdpSocket::bind(addr)));
            drop(first);
            assert!(group(addr, 2, Steering::ByKernel).is_ok());
        }
    }

    #[test]
    fn a_port_that_a_willing_stranger_shares_is_refused() {
        let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        raw.set_reuse_port(true).unwrap();
        raw.bind(&localhost().into()).unwrap();
        let addr = raw.local_addr().unwrap().as_socket().unwrap();
        assert!(is_in_use(group(addr, 2, Steering::ByKernel)));
    }

    #[test]
    fn of_those_that_start_together_one_gets_the_port() {
        let addr = UdpSocket::bind(localhost()).unwrap().local_addr().unwrap();
        for _ in 0..50 {
            let barrier = Arc::new(Barrier::new(4));
            let starters: Vec<_> = (0..4)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    std::thread::spawn(move || {
                        barrier.wait();
                        let result = group(addr, 2, Steering::ByKernel);
                        // Nobody closes before all have tried.
                        barrier.wait();
                        match result {
                            Ok(sockets) => sockets.len(),
                            Err(error) => {
                                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                                0
                            }
                        }
                    })
                })
                .collect();
            let got: usize = starters.into_iter().map(|s| s.join().unwrap()).sum();
            assert_eq!(got, 2);
        }
    }

    /// Sends every steering byte in both header forms, each from a socket of its own; what came to which socket.
    fn deliver(sockets: &mut [Socket], ip: std::net::IpAddr) -> Vec<Vec<Vec<u8>>> {
        let to = (ip, sockets[0].local_addr().unwrap().port());
        let mut got = vec![Vec::new(); sockets.len()];
        for byte in 0..=255 {
            let client = UdpSocket::bind((ip, 0)).unwrap();
            client.send_to(&[0x40, byte, 1, 2], to).unwrap();
            let long = [0xc0, 0, 0, 0, 1, 8, byte, 1, 2];
            client.send_to(&long, to).unwrap();
            // Loopback delivers before the sending call returns.
            for (socket, got) in sockets.iter_mut().zip(&mut got) {
                while socket.receive(|d| got.push(d.payload.to_vec())).unwrap() > 0 {}
            }
        }
        got
    }

    #[test]
    fn the_kernel_steers_by_the_same_rule() {
        for (ip, any) in [
            (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
            (
                std::net::IpAddr::from(Ipv6Addr::LOCALHOST),
                std::net::IpAddr::from(Ipv6Addr::UNSPECIFIED),
            ),
        ] {
            for (bind_ip, shards) in [(ip, 2), (any, 3), (ip, 7)] {
                let mut sockets = group((bind_ip, 0).into(), shards, Steering::ByKernel).unwrap();
                let got = deliver(&mut sockets, ip);
                assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 512);
                for (index, datagrams) in got.iter().enumerate() {
                    for datagram in datagrams {
                        let byte = steering::steering_byte(datagram).unwrap();
                        assert_eq!(usize::from(u16::from(byte) % shards), index);
                    }
                }
            }
        }
    }

    #[test]
    fn without_the_filter_datagrams_go_astray() {
        let mut sockets = group(localhost(), 2, Steering::ByForwarding).unwrap();
        let got = deliver(&mut sockets, Ipv4Addr::LOCALHOST.into());
        let is_astray = |index: usize, datagram: &[u8]| {
            steering::steering_byte(datagram).is_some_and(|byte| usize::from(byte % 2) != index)
        };
        let astray = (0..2).flat_map(|index| {
            got[index]
                .iter()
                .filter(move |datagram| is_astray(index, datagram))
        });
        // Each with one half: all but impossible that fewer than a quarter do.
        assert!(astray.count() > 128);
    }
}
