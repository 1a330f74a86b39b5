//! Datagrams that the kernel threw away because a socket was full.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drops {
    /// `RcvbufErrors` of the whole network namespace, whoever the sockets belong to.
    pub(crate) rcvbuf_errors: u64,
    /// Of the broker's socket.
    pub(crate) server: u64,
    /// Of the generator's sockets.
    pub(crate) generator: u64,
}

impl Drops {
    /// Reads the counters of now.
    pub(crate) fn now(server: SocketAddr, generator: &BTreeSet<SocketAddr>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let sockets = read("/proc/net/udp");
        let of = |belongs: &dyn Fn(&SocketAddr) -> bool| {
            sockets
                .lines()
                .filter_map(socket)
                .filter(|(addr, _)| belongs(addr))
                .map(|(_, drops)| drops)
                .sum()
        };
        Self {
            rcvbuf_errors: rcvbuf_errors(&read("/proc/net/snmp")).unwrap_or(0),
            server: of(&|addr| *addr == server),
            generator: of(&|addr| generator.contains(addr)),
        }
    }

    /// What was dropped since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            rcvbuf_errors: self.rcvbuf_errors.saturating_sub(earlier.rcvbuf_errors),
            server: self.server.saturating_sub(earlier.server),
            generator: self.generator.saturating_sub(earlier.generator),
        }
    }
}

/// The two lines that begin with `Udp:` are names and values.
fn rcvbuf_errors(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names
        .split_whitespace()
        .position(|name| name == "RcvbufErrors")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// Local address and drops of a line of `/proc/net/udp`.
fn socket(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    // The address as the machine holds it in memory.
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::from((ip, port)), fields.last()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_understood() {
        let snmp = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 9 8 7 6 5 4\n";
        assert_eq!(rcvbuf_errors(snmp), Some(5));
        assert_eq!(rcvbuf_errors("Udp: InDatagrams\nUdp: 9\n"), None);
        let line = " 4536: 0100007F:9365 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 364717 2 0000000091f79ffe 12";
        let addr: SocketAddr = "127.0.0.1:37733".parse().unwrap();
        assert_eq!(socket(line), Some((addr, 12)));
        assert_eq!(socket("   sl  local_address rem_address   st"), None);
    }

    #[test]
    fn a_socket_that_overflows_is_seen() {
        let full = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = full.local_addr().unwrap();
        let before = Drops::now(addr, &BTreeSet::new());
        // Nobody reads, so at some time the buffer is full.
        for _ in 0..100_000 {
            sender.send_to(&[0; 1400], addr).unwrap();
            let dropped = Drops::now(addr, &BTreeSet::from([addr])).since(&before);
            if dropped.server > 0 {
                assert!(dropped.generator >= dropped.server && dropped.rcvbuf_errors > 0);
                return;
            }
        }
        panic!("no drop was seen");
    }
}
