//! Connection IDs that carry the number of their shard (RFC 9000 §5.1).
//!
//! The first byte is random but congruent to the shard's index modulo the number of shards, so that a packet filter
//! can steer by it; the other seven are random. None is a function of the connection: the handshake engine asks again
//! until an ID is new to it, and would ask for ever. It does not know the IDs of connections that it gave away, so IDs
//! are drawn ahead and compared with those first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use crate::ShardIndex;

/// Length of every connection ID that this crate hands out, in bytes.
pub const CID_BYTES: usize = 8;

/// IDs drawn ahead: more than one datagram or command can use up.
const AHEAD: usize = 16;

/// Where the IDs of one shard come from. Both engines draw from it, on one thread; the lock is never waited for.
#[derive(Clone)]
pub(crate) struct SharedCids(Arc<Mutex<Source>>);

struct Source {
    shard: ShardIndex,
    rng: StdRng,
    ahead: VecDeque<[u8; CID_BYTES]>,
}

impl SharedCids {
    pub(crate) fn new(shard: ShardIndex, seed: [u8; 32]) -> Self {
        Self(Arc::new(Mutex::new(Source {
            shard,
            rng: StdRng::from_seed(seed),
            ahead: VecDeque::with_capacity(AHEAD),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws ahead, leaving out what is in use. To be called before anything that may need IDs.
    pub(crate) fn refill(&self, is_in_use: impl Fn([u8; CID_BYTES]) -> bool) {
        let mut source = self.lock();
        while source.ahead.len() < AHEAD {
            let id = source.random();
            if !is_in_use(id) && !source.ahead.contains(&id) {
                source.ahead.push_back(id);
            }
        }
    }

    /// An ID that no connection has.
    pub(crate) fn draw(&self) -> [u8; CID_BYTES] {
        let mut source = self.lock();
        match source.ahead.pop_front() {
            Some(id) => id,
            None => source.random(),
        }
    }
}

impl Source {
    fn random(&mut self) -> [u8; CID_BYTES] {
        let mut bytes = [0; CID_BYTES];
        self.rng.fill_bytes(&mut bytes);
        let (index, count) = (u16::from(self.shard.index()), self.shard.count());
        // Every value congruent to the index, each as likely as the others: there are `ceil((256 - index) / count)`.
        let choices = (256 - index).div_ceil(count);
        let byte = index + count * self.rng.random_range(0..choices);
        // At most `index + count * (choices - 1)`, which is below 256 by the definition of `choices`.
        bytes[0] = u8::try_from(byte).unwrap_or(self.shard.index());
        bytes
    }
}

impl ConnectionIdGenerator for SharedCids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.draw())
    }

    /// An ID of another shard is not ours: a packet that carries one gets no stateless reset from here.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        match cid.first() {
            Some(&byte) if self.lock().shard.owns(byte) => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn first_byte_names_the_shard_and_takes_every_value_it_may() {
        for (index, count) in [
            (0, 1),
            (0, 2),
            (1, 2),
            (2, 3),
            (6, 7),
            (255, 256),
            (99, 100),
        ] {
            let shard = ShardIndex::new(index, count).unwrap();
            let mut cids = SharedCids::new(shard, [7; 32]);
            let mut seen = HashMap::<u8, u32>::new();
            let mut all = HashSet::new();
            for _ in 0..4000 {
                let cid = cids.generate_cid();
                assert_eq!(cid.len(), CID_BYTES);
                assert_eq!(u16::from(cid[0]) % count, u16::from(index));
                assert!(cids.validate(&cid).is_ok());
                *seen.entry(cid[0]).or_default() += 1;
                assert!(all.insert(cid.to_vec()), "a connection ID came twice");
            }
            let choices = (0..=255u16)
                .filter(|b| b % count == u16::from(index))
                .count();
            assert_eq!(seen.len(), choices, "shard {index} of {count}");
        }
    }

    #[test]
    fn an_id_in_use_is_not_drawn_again() {
        let first = SharedCids::new(ShardIndex::SINGLE, [9; 32]);
        first.refill(|_| false);
        let taken: HashSet<_> = (0..AHEAD).map(|_| first.draw()).collect();
        let again = SharedCids::new(ShardIndex::SINGLE, [9; 32]);
        again.refill(|id| taken.contains(&id));
        assert!((0..AHEAD).all(|_| !taken.contains(&again.draw())));
    }

    #[test]
    fn an_id_of_another_shard_is_invalid() {
        let mut other = SharedCids::new(ShardIndex::new(1, 4).unwrap(), [1; 32]);
        let mine = SharedCids::new(ShardIndex::new(2, 4).unwrap(), [1; 32]);
        assert!(mine.validate(&other.generate_cid()).is_err());
    }
}
