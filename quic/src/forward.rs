//! Datagrams that came to the wrong shard, on their way to the right one.
//!
//! With the kernel's filter in place almost nothing comes this way; without it, all but one of as many datagrams as there
//! are shards do. Either way the memory is that of two arenas for each shard, which grow to their bound and stay.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{Ecn, Received};

/// Bytes that wait for one shard at most. What comes while there are as many is dropped, as the kernel drops what does
/// not fit a receive buffer; the peer sends it again.
pub(crate) const WAITING_BYTES_MAX: usize = 1 << 20;

/// Datagrams that wait for one shard at most, so that tiny ones are bounded as well.
pub(crate) const WAITING_DATAGRAMS_MAX: usize = 4096;

/// One datagram without its payload.
struct Head {
    remote: SocketAddr,
    local_ip: Option<IpAddr>,
    ecn: Option<Ecn>,
    bytes: usize,
}

/// Datagrams in the order in which they came, their payloads one behind the other.
#[derive(Default)]
struct Letters {
    heads: Vec<Head>,
    payloads: Vec<u8>,
}

impl Letters {
    fn push(&mut self, datagram: &Received<'_>) -> bool {
        let bytes = datagram.payload.len();
        if self.heads.len() >= WAITING_DATAGRAMS_MAX
            || self.payloads.len() + bytes > WAITING_BYTES_MAX
        {
            return false;
        }
        self.payloads.extend_from_slice(datagram.payload);
        self.heads.push(Head {
            remote: datagram.remote,
            local_ip: datagram.local_ip,
            ecn: datagram.ecn,
            bytes,
        });
        true
    }

    fn drain(&mut self, mut take: impl FnMut(Received<'_>)) {
        let mut rest = &mut self.payloads[..];
        for head in self.heads.drain(..) {
            let (payload, behind) = rest.split_at_mut(head.bytes);
            rest = behind;
            take(Received {
                remote: head.remote,
                local_ip: head.local_ip,
                ecn: head.ecn,
                payload,
            });
        }
        self.payloads.clear();
    }
}

/// Where one shard's datagrams wait.
struct Inbox {
    /// `None` once the shard has stopped.
    letters: Mutex<Option<Letters>>,
    /// Whether there is anything, so that a turn need not lock to see that there is not.
    has_letters: AtomicBool,
    owner: Arc<Notify>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Option<Letters>> {
        // Nothing panics between two consistent states of the letters.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard's access to its siblings. Dropped, it closes the shard's own inbox.
pub(crate) struct Postbox {
    inboxes: Arc<[Inbox]>,
    own: usize,
    /// Swapped with the inbox, so that its lock is held for moments only and both arenas are used again.
    taken: Letters,
}

impl Postbox {
    /// A postbox for each shard of a group, in order, each given what wakes it.
    pub(crate) fn group(wakers: impl IntoIterator<Item = Arc<Notify>>) -> Vec<Self> {
        let inboxes: Arc<[Inbox]> = wakers
            .into_iter()
            .map(|owner| Inbox {
                letters: Mutex::new(Some(Letters::default())),
                has_letters: AtomicBool::new(false),
                owner,
            })
            .collect();
        (0..inboxes.len())
            .map(|own| Self {
                inboxes: Arc::clone(&inboxes),
                own,
                taken: Letters::default(),
            })
            .collect()
    }

    /// Hands a datagram to the shard `owner`. False if it was dropped: that shard has stopped, or too much waits for
    /// it.
    pub(crate) fn forward(&self, owner: usize, datagram: &Received<'_>) -> bool {
        let Some(inbox) = self.inboxes.get(owner) else {
            return false;
        };
        let is_taken = inbox
            .lock()
            .as_mut()
            .is_some_and(|letters| letters.push(datagram));
        // Set and woken also when it was full: nothing is lost if the owner looks once too often.
        inbox.has_letters.store(true, Ordering::Release);
        inbox.owner.notify_one();
        is_taken
    }

    /// Takes everything that siblings have handed over; how much it was.
    pub(crate) fn take(&mut self, take: impl FnMut(Received<'_>)) -> usize {
        let inbox = &self.inboxes[self.own];
        if !inbox.has_letters.swap(false, Ordering::Acquire) {
            return 0;
        }
        if let Some(letters) = &mut *inbox.lock() {
            std::mem::swap(letters, &mut self.taken);
        }
        let count = self.taken.heads.len();
        self.taken.drain(take);
        count
    }
}

impl Drop for Postbox {
    fn drop(&mut self) {
        *self.inboxes[self.own].lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn pair() -> (Postbox, Postbox) {
        let mut group = Postbox::group([Arc::default(), Arc::default()]);
        let second = group.pop().unwrap();
        (group.pop().unwrap(), second)
    }

    fn send(from: &Postbox, to: usize, mut payload: Vec<u8>) -> bool {
        from.forward(
            to,
            &Received {
                remote: (Ipv4Addr::LOCALHOST, 7).into(),
                local_ip: Some(Ipv4Addr::LOCALHOST.into()),
                ecn: Some(Ecn::Ce),
                payload: &mut payload,
            },
        )
    }

    fn take(postbox: &mut Postbox) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let count = postbox.take(|datagram| {
            assert_eq!(datagram.remote, (Ipv4Addr::LOCALHOST, 7).into());
            assert_eq!(datagram.local_ip, Some(Ipv4Addr::LOCALHOST.into()));
            assert_eq!(datagram.ecn, Some(Ecn::Ce));
            got.push(datagram.payload.to_vec());
        });
        assert_eq!(count, got.len());
        got
    }

    #[test]
    fn datagrams_arrive_whole_in_order_and_once() {
        let (a, mut b) = pair();
        assert!(take(&mut b).is_empty());
        for round in 0..3u8 {
            let sent: Vec<Vec<u8>> = (0..5).map(|n| vec![round; n]).collect();
            sent.iter()
                .for_each(|one| assert!(send(&a, 1, one.clone())));
            assert_eq!(take(&mut b), sent);
            assert!(take(&mut b).is_empty());
        }
    }

    #[test]
    fn what_is_beyond_a_bound_is_dropped_and_room_comes_back() {
        let (a, mut b) = pair();
        for _ in 0..WAITING_DATAGRAMS_MAX {
            assert!(send(&a, 1, vec![1]));
        }
        assert!(!send(&a, 1, vec![2]));
        assert_eq!(take(&mut b), vec![vec![1]; WAITING_DATAGRAMS_MAX]);
        let half = vec![3; WAITING_BYTES_MAX / 2];
        assert!(send(&a, 1, half.clone()) && send(&a, 1, half.clone()));
        assert!(!send(&a, 1, vec![4]));
        assert_eq!(take(&mut b), [half.clone(), half]);
        assert!(send(&a, 1, vec![5]));
    }

    #[test]
    fn a_shard_that_stopped_or_never_was_takes_nothing() {
        let (a, b) = pair();
        drop(b);
        assert!(!send(&a, 1, vec![1]));
        assert!(!send(&a, 2, vec![1]));
    }

    #[tokio::test]
    async fn the_owner_is_woken() {
        let wakers = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let group = Postbox::group(wakers.clone());
        assert!(send(&group[0], 1, vec![1]));
        wakers[1].notified().await;
    }
}
