//! Over loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::Transmit;

impl Socket {
    /// Both steps; what is shown has to be what is handed out.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Received<'_>)) -> io::Result<usize> {
        let filled = self.fetch()?;
        let mut shown = Vec::new();
        self.show(|payload| shown.push(payload.to_vec()));
        let mut shown = shown.into_iter();
        self.hand_out(|datagram| {
            assert_eq!(shown.next().as_deref(), Some(&*datagram.payload));
            take(datagram);
        });
        assert_eq!(shown.next(), None);
        Ok(filled)
    }
}

const WANTED: SocketBuffers = SocketBuffers {
    receive_bytes: 64 << 10,
    send_bytes: 64 << 10,
};

fn socket_at(ip: IpAddr) -> Socket {
    Socket::bind((ip, 0).into(), Sharing::Alone, WANTED, 1472).unwrap()
}

fn socket() -> Socket {
    socket_at(Ipv4Addr::LOCALHOST.into())
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let first = socket();
    for sharing in [Sharing::Alone, Sharing::Joining] {
        let error = Socket::bind(first.local_addr().unwrap(), sharing, WANTED, 1472)
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}

#[test]
fn says_what_the_kernel_granted() {
    assert_eq!(socket().granted().unwrap(), WANTED);
}

/// Sends transmits in one flush; what arrives at `receivers` must be their segments, in order, with their marks.
fn check(sender: &mut Socket, receivers: &mut [Socket], transmits: &[(Transmit, Vec<u8>)]) {
    let mut ring = OutRing::default();
    for (transmit, payload) in transmits {
        ring.payloads().extend_from_slice(payload);
        ring.push(*transmit, sender.gso_segments_max());
    }
    let flush = sender.flush(&mut ring, |sent| assert_eq!(sent, Sent::Yes));
    assert_eq!(flush, Flush::Done);
    for receiver in receivers {
        let to = receiver.local_addr().unwrap();
        let expect: Vec<_> = transmits
            .iter()
            .filter(|(transmit, _)| transmit.destination.port() == to.port())
            .flat_map(|(transmit, payload)| {
                let ecn = transmit.ecn;
                transmit.segments(payload).map(move |s| (s.to_vec(), ecn))
            })
            .collect();
        let mut got = Vec::new();
        let from = sender.local_addr().unwrap().port();
        // Loopback delivers before the call returns.
        while receiver
            .receive(|d| {
                assert_eq!(d.remote.port(), from);
                got.push((d.payload.to_vec(), d.ecn));
            })
            .unwrap()
            > 0
        {}
        assert!(got == expect, "{} of {}", got.len(), expect.len());
    }
}

fn to(receiver: &Socket, bytes: usize) -> Transmit {
    Transmit {
        destination: receiver.local_addr().unwrap(),
        src_ip: None,
        ecn: None,
        segment_size: None,
        bytes,
    }
}

#[test]
fn segments_come_out_as_they_were_sent() {
    let (mut sender, mut receiver) = (socket(), socket());
    assert_eq!(receiver.receive(|_| panic!("nothing was sent")).unwrap(), 0);
    let contents: Vec<u8> = (0..250u8).collect();
    let transmit = Transmit {
        src_ip: Some(Ipv4Addr::LOCALHOST.into()),
        ecn: Some(Ecn::Ect0),
        segment_size: (sender.gso_segments_max() > 2).then_some(100),
        ..to(&receiver, contents.len())
    };
    check(
        &mut sender,
        std::slice::from_mut(&mut receiver),
        &[(transmit, contents)],
    );
}

/// A socket of all addresses is told which one to answer from; one of a single address answers from that.
#[test]
fn datagrams_leave_from_the_address_that_was_asked_for() {
    let other = Ipv4Addr::new(127, 0, 0, 5);
    let mut receiver = socket();
    for (bound, asked, expect) in [
        (Ipv4Addr::UNSPECIFIED, Some(other), other),
        (Ipv4Addr::UNSPECIFIED, None, Ipv4Addr::LOCALHOST),
        (other, Some(other), other),
        (other, None, other),
    ] {
        let mut sender = socket_at(bound.into());
        let transmit = Transmit {
            src_ip: asked.map(IpAddr::from),
            ..to(&receiver, 1)
        };
        let mut ring = OutRing::default();
        ring.payloads().push(7);
        ring.push(transmit, 1);
        sender.flush(&mut ring, |sent| assert_eq!(sent, Sent::Yes));
        let mut got = Vec::new();
        receiver.receive(|d| got.push(d.remote.ip())).unwrap();
        assert_eq!(got, [IpAddr::from(expect)], "{bound} {asked:?}");
    }
}

#[test]
fn a_batch_to_many_destinations_arrives_exactly() {
    let mut sender = socket();
    let mut receivers: Vec<Socket> = (0..7).map(|_| socket()).collect();
    let marks = [None, Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)];
    let transmits: Vec<_> = (0..200usize)
        .map(|n| {
            let payload = vec![n as u8; 1 + n * 7 % 1472];
            // Runs of two and three to one destination.
            let transmit = Transmit {
                ecn: marks[n / 3 % 4],
                ..to(&receivers[n / 3 % 7], payload.len())
            };
            (transmit, payload)
        })
        .collect();
    check(&mut sender, &mut receivers, &transmits);
}

#[test]
fn ipv6_and_mapped_ipv4_addresses_carry_marks_as_well() {
    let mut sender = socket_at(Ipv6Addr::UNSPECIFIED.into());
    let mut receivers = [socket(), socket_at(Ipv6Addr::LOCALHOST.into())];
    let mapped = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), addr.port()).into(),
        IpAddr::V6(_) => addr,
    };
    let transmits: Vec<_> = receivers
        .iter()
        .map(|receiver| {
            let transmit = Transmit {
                destination: mapped(receiver.local_addr().unwrap()),
                ecn: Some(Ecn::Ce),
                ..to(receiver, 3)
            };
            (transmit, vec![1, 2, 3])
        })
        .collect();
    check(&mut sender, &mut receivers, &transmits);
}

#[test]
fn a_destination_that_cannot_be_reached_takes_no_other_along() {
    let (mut sender, mut receiver) = (socket(), socket());
    let mut ring = OutRing::default();
    for number in 0..9u8 {
        let mut transmit = to(&receiver, 1);
        if number % 3 == 1 {
            // Another family, which this socket cannot send to.
            transmit.destination = (Ipv6Addr::LOCALHOST, 9).into();
        }
        ring.payloads().push(number);
        ring.push(transmit, 1);
    }
    let mut noted = Vec::new();
    let flush = sender.flush(&mut ring, |sent| noted.push(sent));
    assert_eq!(flush, Flush::Done);
    let failed = noted.iter().filter(|sent| **sent == Sent::Failed).count();
    assert_eq!((noted.len(), failed), (9, 3));
    let mut got = Vec::new();
    while receiver.receive(|d| got.push(d.payload[0])).unwrap() > 0 {}
    assert_eq!(got, [0, 2, 3, 5, 6, 8]);
}
