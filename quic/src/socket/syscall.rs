//! The two system calls that no safe interface offers, and the only unsafe code of the crate: `sendmmsg` with
//! control messages, and the filter of a `SO_REUSEPORT` group. Linux only.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::{Ecn, Transmit, out_ring::MESSAGES_MAX};

/// The most that the control messages of one datagram take: congestion mark, segment size, source address.
const CONTROL_BYTES_MAX: usize = space(size_of::<libc::c_int>())
    + space(size_of::<u16>())
    + space(size_of::<libc::in6_pktinfo>());

/// Length of a control message's header (`struct cmsghdr`), which is also where its data begins: a multiple of the
/// alignment of all of them, the size of a `size_t` (cmsg(3)).
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// What a control message takes with its padding: `CMSG_SPACE`.
const fn space(data_bytes: usize) -> usize {
    CONTROL_HEADER_BYTES + data_bytes.next_multiple_of(size_of::<usize>())
}

/// The control messages of one datagram, as the kernel reads them.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control {
    data: [u8; CONTROL_BYTES_MAX],
    bytes: usize,
}

impl Control {
    /// Only what the socket does not do by itself: up to 36 bytes the kernel keeps on its stack, more it allocates for each
    /// datagram (`____sys_sendmsg` in the kernel's `net/socket.c`), and none it need not look at.
    fn of(transmit: &Transmit, source: Source) -> Self {
        let mut control = Self {
            data: [0; CONTROL_BYTES_MAX],
            bytes: 0,
        };
        // The socket marks nothing.
        if let Some(mark) = transmit.ecn {
            let mark = ecn_bits(mark).to_ne_bytes();
            // An IPv6 socket reaches IPv4 by mapped addresses, and marks such packets by the option of IPv4.
            if transmit.destination.ip().to_canonical().is_ipv4() {
                control.push(libc::IPPROTO_IP, libc::IP_TOS, &mark);
            } else {
                control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &mark);
            }
        }
        // One segment need not be cut, and some devices object to being asked (udp(7), `UDP_SEGMENT`).
        if transmit.datagrams() > 1
            && let Some(Ok(size)) = transmit.segment_size.map(u16::try_from)
        {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        match transmit.src_ip.filter(|_| source == Source::Any) {
            None => {}
            // `struct in_pktinfo`: interface (any), the address to send from, and one that is only told (ip(7)).
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&ip.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // `struct in6_pktinfo`: the address to send from, and the interface (any) (ipv6(7)).
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&ip.octets());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
        control
    }

    /// Appends one. What does not fit would be a fault of `CONTROL_BYTES_MAX`, and panics.
    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        const LEVEL_AT: usize = size_of::<usize>();
        const KIND_AT: usize = LEVEL_AT + size_of::<libc::c_int>();
        let bytes = CONTROL_HEADER_BYTES + data.len();
        let (message, _) = self.data[self.bytes..].split_at_mut(space(data.len()));
        // The length is a `size_t` to the kernel, whatever the C library calls it.
        message[..LEVEL_AT].copy_from_slice(&bytes.to_ne_bytes());
        message[LEVEL_AT..KIND_AT].copy_from_slice(&level.to_ne_bytes());
        message[KIND_AT..CONTROL_HEADER_BYTES].copy_from_slice(&kind.to_ne_bytes());
        message[CONTROL_HEADER_BYTES..bytes].copy_from_slice(data);
        self.bytes += space(data.len());
    }
}

/// The two low bits of the type-of-service byte (RFC 3168 §5).
fn ecn_bits(ecn: Ecn) -> libc::c_int {
    match ecn {
        Ecn::Ect1 => 0b01,
        Ecn::Ect0 => 0b10,
        Ecn::Ce => 0b11,
    }
}

/// Which addresses a socket sends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The one that it is bound to.
    Bound,
    /// All of the machine's: which one, each datagram says.
    Any,
}

impl Source {
    /// Of a socket that is bound to this address.
    pub(crate) fn of(bound: IpAddr) -> Self {
        if bound.is_unspecified() {
            Self::Any
        } else {
            Self::Bound
        }
    }
}

/// A destination, as the kernel reads it, in as little room as it takes.
enum Name {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Name {
    fn of(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(addr) => Self::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(addr.ip().octets()),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(addr) => Self::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: addr.port().to_be(),
                // In the order of the network, as the standard library has it.
                sin6_flowinfo: addr.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: addr.ip().octets(),
                },
                sin6_scope_id: addr.scope_id(),
            }),
        }
    }

    fn as_ptr(&self) -> *const libc::c_void {
        match self {
            Self::V4(name) => std::ptr::from_ref(name).cast(),
            Self::V6(name) => std::ptr::from_ref(name).cast(),
        }
    }

    fn len(&self) -> libc::socklen_t {
        let bytes = match self {
            Self::V4(name) => size_of_val(name),
            Self::V6(name) => size_of_val(name),
        };
        bytes as libc::socklen_t
    }
}

/// Addresses and control messages of one batch, allocated once.
pub(crate) struct Envelopes {
    source: Source,
    names: Vec<Name>,
    controls: Vec<Control>,
}

impl Envelopes {
    /// For a socket that marks no datagram by itself.
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            names: Vec::with_capacity(MESSAGES_MAX),
            controls: Vec::with_capacity(MESSAGES_MAX),
        }
    }

    /// Sends the first of `messages`, as many as one call takes, without waiting; how many went. `messages` must not be
    /// empty.
    ///
    /// # Errors
    ///
    /// What the system says of the first message. What it says of a later one shows when that one is the first.
    pub(crate) fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = (&'a Transmit, &'a [u8])> + Clone,
    ) -> io::Result<usize> {
        let messages = messages.take(MESSAGES_MAX);
        self.names.clear();
        self.controls.clear();
        for (transmit, _) in messages.clone() {
            self.names.push(Name::of(transmit.destination));
            self.controls.push(Control::of(transmit, self.source));
        }
        self.call(socket, messages.map(|(_, payload)| payload))
    }

    #[allow(
        unsafe_code,
        reason = "safe interfaces to sendmmsg know neither ECN nor GSO nor source addresses"
    )]
    fn call<'a>(
        &self,
        socket: BorrowedFd<'_>,
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut vectors = [nothing; MESSAGES_MAX];
        // SAFETY: `mmsghdr` is plain data for which zeros are valid: null pointers with lengths of 0. It cannot be
        // written out field by field, since some C libraries pad it with private fields.
        let mut headers: [libc::mmsghdr; MESSAGES_MAX] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let parts = payloads.zip(&self.names).zip(&self.controls);
        for (((payload, name), control), (vector, header)) in
            parts.zip(vectors.iter_mut().zip(&mut headers))
        {
            vector.iov_base = payload.as_ptr().cast_mut().cast();
            vector.iov_len = payload.len();
            let header = &mut header.msg_hdr;
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.data.as_ptr().cast_mut().cast();
            // Of a type that differs between C libraries.
            header.msg_controllen = control.bytes as _;
            count += 1;
        }
        // SAFETY: The first `count` headers are filled in; each points to one address, one vector with one payload, and
        // control messages, of the lengths given beside them. All of them live until after the call, in `self`, in the
        // payloads that were borrowed for `'a`, and in the arrays above. The kernel reads them and writes nothing but
        // `msg_len` of the headers (sendmmsg(2)).
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Gives a `SO_REUSEPORT` group, by one of its sockets, the program that chooses among them (socket(7),
/// `SO_ATTACH_REUSEPORT_CBPF`). Needs no privilege. Linux 4.5 or newer.
///
/// # Errors
///
/// The program is refused, the socket is in no group, or the system does not have it.
#[allow(
    unsafe_code,
    reason = "no safe interface offers this socket option, and it takes a pointer"
)]
pub(crate) fn attach_reuseport_filter(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let bpf = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: The option takes a `sock_fprog`, which is what pointer and length describe; its pointer and length
    // describe `program`. Both live until after the call, which copies the instructions and writes nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const bpf).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C library's own description of the same bytes.
    #[test]
    fn control_messages_have_the_layout_of_the_system() {
        let transmit = Transmit {
            destination: "[2001:db8::1]:1".parse().unwrap(),
            src_ip: Some("2001:db8::2".parse().unwrap()),
            ecn: Some(Ecn::Ce),
            segment_size: Some(0x0102),
            bytes: 1000,
        };
        let control = Control::of(&transmit, Source::Any);
        assert_eq!(control.bytes, CONTROL_BYTES_MAX);
        let at_offset = std::mem::offset_of!(libc::cmsghdr, cmsg_level);
        assert_eq!(at_offset, size_of::<usize>());
        let mut rest = &control.data[..control.bytes];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| i32::from_ne_bytes(rest[at..at + 4].try_into().unwrap());
            let bytes = usize::from_ne_bytes(rest[..at_offset].try_into().unwrap());
            let data = rest[CONTROL_HEADER_BYTES..bytes].to_vec();
            found.push((word(at_offset), word(at_offset + 4), data));
            rest = &rest[bytes.next_multiple_of(align_of::<usize>())..];
        }
        let mut info = "2001:db8::2"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .to_vec();
        info.extend([0; 4]);
        let expect = [
            (
                libc::IPPROTO_IPV6,
                libc::IPV6_TCLASS,
                3i32.to_ne_bytes().to_vec(),
            ),
            (
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                0x0102u16.to_ne_bytes().to_vec(),
            ),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info),
        ];
        assert_eq!(found, expect);
    }

    #[test]
    fn nothing_is_said_that_the_socket_does_by_itself() {
        let plain = Transmit {
            destination: "127.0.0.1:1".parse().unwrap(),
            src_ip: Some("127.0.0.1".parse().unwrap()),
            ecn: None,
            segment_size: None,
            bytes: 1000,
        };
        let marked = Transmit {
            ecn: Some(Ecn::Ect0),
            ..plain
        };
        let info = space(size_of::<libc::in_pktinfo>());
        let mark = space(size_of::<libc::c_int>());
        for (transmit, source, bytes) in [
            (plain, Source::Bound, 0),
            (plain, Source::Any, info),
            (marked, Source::Bound, mark),
            (marked, Source::Any, mark + info),
        ] {
            assert_eq!(Control::of(&transmit, source).bytes, bytes);
        }
        assert!(info <= 36, "more the kernel would allocate");
    }

    /// The system's own words for the same addresses.
    #[test]
    fn names_are_those_of_the_system() {
        for text in ["127.0.0.1:4433", "[2001:db8::1]:65535", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            let expect = socket2::SockAddr::from(addr);
            let name = Name::of(addr);
            assert_eq!(name.len(), expect.len());
            match name {
                Name::V4(name) => {
                    assert_eq!(i32::from(name.sin_family), libc::AF_INET);
                    let ip = name.sin_addr.s_addr.to_ne_bytes();
                    let found = (ip, u16::from_be(name.sin_port)).into();
                    assert_eq!(expect.as_socket(), Some(found));
                }
                Name::V6(name) => {
                    assert_eq!(i32::from(name.sin6_family), libc::AF_INET6);
                    let ip = name.sin6_addr.s6_addr.into();
                    let port = u16::from_be(name.sin6_port);
                    let (flow, scope) = (name.sin6_flowinfo, name.sin6_scope_id);
                    let found = std::net::SocketAddrV6::new(ip, port, flow, scope);
                    assert_eq!(expect.as_socket(), Some(found.into()));
                }
            }
        }
    }
}
