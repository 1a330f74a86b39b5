//! What was polled and has not left yet: the batch that one system call takes, and the rest that a full socket refused.
//!
//! A polled transmit cannot be given back to its connection, so what the socket refuses stays here, and while anything
//! does, nothing more is polled. That is the back-pressure: data waits in the connections, where it is bounded, may be
//! overtaken by what is more urgent, and is lost with nobody.

use std::io;

use crate::{Transmit, socket::Sent};

/// Messages in one batch at most; each is one entry of a `sendmmsg`, which takes up to 1024 (`UIO_MAXIOV`). Beyond some
/// dozens the saving per message no longer grows.
pub(crate) const MESSAGES_MAX: usize = 64;

/// A batch with so many bytes takes no more. One transmit may go beyond.
const BYTES_MAX: usize = 256 << 10;

/// Largest UDP payload over IPv4, and so of what one message may be before the kernel cuts it into segments.
const MESSAGE_BYTES_MAX: usize = 65_507;

/// One message: its payload is a range of the arena.
struct Message {
    transmit: Transmit,
    start: usize,
}

/// Messages in the order in which they were polled. Its memory is used again for each batch.
#[derive(Default)]
pub(crate) struct OutRing {
    payloads: Vec<u8>,
    messages: Vec<Message>,
    /// How many of `messages` are gone.
    sent: usize,
}

/// Why flushing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Everything is gone.
    Done,
    /// The socket's buffer is full; it tells when there is room.
    Full,
    /// The system has no memory, or the device no room, for it; nobody tells when there is again.
    Starved,
}

impl OutRing {
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether the batch takes another transmit.
    pub(crate) fn has_room(&self) -> bool {
        self.messages.len() < MESSAGES_MAX && self.payloads.len() < BYTES_MAX
    }

    /// Where the next payload is appended, before its [`push`](Self::push).
    pub(crate) fn payloads(&mut self) -> &mut Vec<u8> {
        &mut self.payloads
    }

    /// Adds a transmit whose payload is at the end of [`payloads`](Self::payloads).
    ///
    /// Where it goes the same way as the one before, both become one message of up to `segments_max` segments (GSO):
    /// one walk down the network stack instead of two.
    pub(crate) fn push(&mut self, transmit: Transmit, segments_max: usize) {
        if let Some(last) = self.messages.last_mut()
            && let Some(joined) = join(&last.transmit, &transmit, segments_max)
        {
            last.transmit = joined;
            return;
        }
        self.messages.push(Message {
            transmit,
            start: self.payloads.len() - transmit.bytes,
        });
    }

    /// What waits, the oldest first.
    pub(crate) fn waiting(&self) -> impl ExactSizeIterator<Item = (&Transmit, &[u8])> + Clone {
        self.messages[self.sent..].iter().map(|message| {
            let payload = &self.payloads[message.start..message.start + message.transmit.bytes];
            (&message.transmit, payload)
        })
    }

    /// Gives `send` what waits until nothing does, or until it takes no more.
    ///
    /// `send` answers how many messages went, at least one, or with the error of the first. An error that is the
    /// destination's fault loses that message, as the network might; each message's fate is noted.
    pub(crate) fn flush(
        &mut self,
        mut send: impl FnMut(&Self) -> io::Result<usize>,
        mut note: impl FnMut(Sent),
    ) -> Flush {
        while self.sent < self.messages.len() {
            let error = match send(self) {
                Ok(count) => {
                    (0..count).for_each(|_| note(Sent::Yes));
                    self.sent += count;
                    continue;
                }
                Err(error) => error,
            };
            let stopped = match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                // EIO: the way has no offload for checksums, which GSO needs. EINVAL: a segment does not fit the way
                // (`udp_send_skb` in the kernel's `net/ipv4/udp.c`).
                Some(libc::EIO | libc::EINVAL) if self.is_segmented() => {
                    self.split();
                    continue;
                }
                Some(libc::ENOBUFS | libc::ENOMEM) => Flush::Starved,
                _ if error.kind() == io::ErrorKind::WouldBlock => Flush::Full,
                _ => {
                    note(Sent::Failed);
                    self.sent += 1;
                    continue;
                }
            };
            note(Sent::Blocked);
            return stopped;
        }
        self.payloads.clear();
        self.messages.clear();
        self.sent = 0;
        Flush::Done
    }

    /// Whether the oldest message has segments.
    fn is_segmented(&self) -> bool {
        let oldest = self.messages.get(self.sent);
        oldest.is_some_and(|message| message.transmit.datagrams() > 1)
    }

    /// Makes every segment that waits a message of its own. The only place where a batch can exceed its bound, by the
    /// number of segments in a message; it is rare.
    fn split(&mut self) {
        let mut messages = Vec::new();
        for message in self.messages.drain(..).skip(self.sent) {
            let end = message.start + message.transmit.bytes;
            let size = message.transmit.segment_size.unwrap_or(usize::MAX).max(1);
            let mut start = message.start;
            while start < end {
                let bytes = size.min(end - start);
                let transmit = Transmit {
                    segment_size: None,
                    bytes,
                    ..message.transmit
                };
                messages.push(Message { transmit, start });
                start += bytes;
            }
        }
        self.messages = messages;
        self.sent = 0;
    }
}

/// Both as one message, if the kernel can cut it into the same datagrams: all of one size, only the last perhaps
/// shorter.
fn join(first: &Transmit, second: &Transmit, segments_max: usize) -> Option<Transmit> {
    let size = first.segment_size.unwrap_or(first.bytes);
    let bytes = first.bytes + second.bytes;
    let goes_the_same_way = first.destination == second.destination
        && first.src_ip == second.src_ip
        && first.ecn == second.ecn;
    let fits = size > 0
        && second.bytes > 0
        && first.bytes.is_multiple_of(size)
        && match second.segment_size {
            None => second.bytes <= size,
            Some(other) => other == size,
        }
        && bytes <= MESSAGE_BYTES_MAX
        && bytes.div_ceil(size) <= segments_max;
    (goes_the_same_way && fits).then_some(Transmit {
        segment_size: Some(size),
        bytes,
        ..*first
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn transmit(port: u16, bytes: usize, segment_size: Option<usize>) -> Transmit {
        Transmit {
            destination: (Ipv4Addr::LOCALHOST, port).into(),
            src_ip: None,
            ecn: None,
            segment_size,
            bytes,
        }
    }

    fn add(
        ring: &mut OutRing,
        port: u16,
        payload: &[u8],
        size: Option<usize>,
        segments_max: usize,
    ) {
        ring.payloads().extend_from_slice(payload);
        ring.push(transmit(port, payload.len(), size), segments_max);
    }

    /// Single datagrams with their ports.
    fn datagrams<'a>(
        messages: impl Iterator<Item = (&'a Transmit, &'a [u8])>,
    ) -> Vec<(u16, Vec<u8>)> {
        messages
            .flat_map(|(transmit, payload)| {
                transmit
                    .segments(payload)
                    .map(|segment| (transmit.destination.port(), segment.to_vec()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn what_goes_the_same_way_is_one_message() {
        let check = |bytes: &[(u16, usize, Option<usize>)], expect: &[(usize, Option<usize>)]| {
            let mut ring = OutRing::default();
            for &(port, bytes, size) in bytes {
                add(&mut ring, port, &vec![7; bytes], size, 10);
            }
            let messages: Vec<_> = ring
                .waiting()
                .map(|(t, _)| (t.bytes, t.segment_size))
                .collect();
            assert_eq!(messages, expect);
        };
        check(&[(1, 9, None), (1, 9, None)], &[(18, Some(9))]);
        check(&[(1, 9, None), (1, 4, None)], &[(13, Some(9))]);
        // A short one ends the message.
        check(
            &[(1, 9, None), (1, 4, None), (1, 4, None)],
            &[(13, Some(9)), (4, None)],
        );
        check(&[(1, 4, None), (1, 9, None)], &[(4, None), (9, None)]);
        check(&[(1, 9, None), (2, 9, None)], &[(9, None), (9, None)]);
        check(&[(1, 18, Some(9)), (1, 12, Some(9))], &[(30, Some(9))]);
        check(
            &[(1, 18, Some(9)), (1, 18, Some(6))],
            &[(18, Some(9)), (18, Some(6))],
        );
        // As many segments as allowed, and no more.
        check(&[(1, 9, None); 11], &[(90, Some(9)), (9, None)]);
        // The kernel takes no more in one message.
        check(
            &[(1, 65_000, None), (1, 507, None)],
            &[(65_507, Some(65_000))],
        );
        check(
            &[(1, 65_000, None), (1, 508, None)],
            &[(65_000, None), (508, None)],
        );
    }

    #[test]
    fn congestion_marks_and_source_addresses_are_kept_apart() {
        let plain = transmit(1, 5, None);
        let marked = Transmit {
            ecn: Some(crate::Ecn::Ect0),
            ..plain
        };
        let from = Transmit {
            src_ip: Some(Ipv4Addr::LOCALHOST.into()),
            ..plain
        };
        assert_eq!(join(&plain, &marked, 10), None);
        assert_eq!(join(&plain, &from, 10), None);
        assert_eq!(join(&plain, &plain, 1), None);
        assert!(join(&from, &from, 2).is_some());
    }

    #[test]
    fn a_batch_is_bounded_by_messages_and_by_bytes() {
        let mut ring = OutRing::default();
        let mut count = 0;
        while ring.has_room() {
            add(&mut ring, count, &[0], None, 1);
            count += 1;
        }
        assert_eq!(usize::from(count), MESSAGES_MAX);
        let mut ring = OutRing::default();
        let mut bytes = 0;
        while ring.has_room() {
            add(&mut ring, 1, &[0; 10_000], Some(1000), 10);
            bytes += 10_000;
        }
        assert!((BYTES_MAX..BYTES_MAX + 10_000).contains(&bytes));
    }

    /// What a kernel does with the first messages of a batch.
    #[derive(Debug, Clone, Copy)]
    enum Answer {
        Takes(usize),
        Errs(i32),
    }

    fn answers() -> impl Strategy<Value = Vec<Answer>> {
        let answer = prop_oneof![
            (1..5usize).prop_map(Answer::Takes),
            proptest::sample::select(vec![
                libc::EAGAIN,
                libc::EINTR,
                libc::ENOBUFS,
                libc::ENOMEM,
                libc::EIO,
                libc::EINVAL,
                libc::ECONNREFUSED,
                libc::EPERM,
                libc::EMSGSIZE,
            ])
            .prop_map(Answer::Errs),
        ];
        proptest::collection::vec(answer, 0..40)
    }

    /// Whether the error of a message means that its datagrams are lost.
    fn is_loss(code: i32, oldest: &Transmit) -> bool {
        match code {
            libc::ECONNREFUSED | libc::EPERM | libc::EMSGSIZE => true,
            libc::EIO | libc::EINVAL => oldest.datagrams() == 1,
            _ => false,
        }
    }

    proptest! {
        /// Whatever the kernel answers: every datagram goes once and in order, or is lost and noted as failed.
        #[test]
        fn nothing_is_doubled_reordered_or_lost_unnoted(
            transmits in proptest::collection::vec((1..3u16, 1..30usize, any::<bool>()), 1..40),
            answers in answers(),
        ) {
            let mut ring = OutRing::default();
            let mut expected = Vec::new();
            for (number, (port, bytes, is_segmented)) in (0u8..).zip(transmits) {
                let payload = vec![number; bytes];
                let size = is_segmented.then_some(7);
                let one = transmit(port, bytes, size);
                expected.extend(datagrams([(&one, &payload[..])].into_iter()));
                add(&mut ring, port, &payload, size, 4);
            }
            let mut answers = answers.into_iter();
            let (mut gone, mut lost, mut refused) = (Vec::new(), 0, None);
            let mut noted = (0, 0);
            let ended = std::iter::repeat_with(|| {
                let flush = ring.flush(
                    // A kernel out of surprises takes everything.
                    |ring| match answers.next().unwrap_or(Answer::Takes(usize::MAX)) {
                        Answer::Takes(count) => {
                            let count = count.min(ring.waiting().len());
                            gone.extend(datagrams(ring.waiting().take(count)));
                            Ok(count)
                        }
                        Answer::Errs(code) => {
                            refused = Some(code);
                            let (oldest, _) = ring.waiting().next().unwrap();
                            if is_loss(code, oldest) {
                                lost += 1;
                                gone.extend(datagrams(ring.waiting().take(1)));
                            }
                            Err(io::Error::from_raw_os_error(code))
                        }
                    },
                    |sent| match sent {
                        Sent::Yes => {}
                        Sent::Blocked => noted.0 += 1,
                        Sent::Failed => noted.1 += 1,
                    },
                );
                assert_eq!(ring.is_empty(), flush == Flush::Done);
                match flush {
                    Flush::Done => {}
                    Flush::Full => assert_eq!(refused, Some(libc::EAGAIN)),
                    Flush::Starved => {
                        assert!(matches!(refused, Some(libc::ENOBUFS | libc::ENOMEM)));
                    }
                }
                flush
            })
            .take_while(|flush| *flush != Flush::Done)
            .count();
            assert_eq!(gone, expected);
            assert_eq!(noted, (ended, lost));
            assert!(ring.has_room() && ring.payloads().is_empty());
        }
    }
}
