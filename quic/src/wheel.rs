//! A hierarchical timing wheel with at most one entry per key (Varghese and Lauck, 1987).
//!
//! Keys are slab slots. Ticks are milliseconds since the wheel was made; an entry fires at the first tick that is not
//! before its deadline. Inserting, moving and removing cost a few writes and no allocation: the buckets are linked
//! lists through nodes that lie in pages, 16 bytes a key.
//!
//! The wheel is *lazy*: a deadline that moves later leaves its entry where it is. The owner of the key looks when the
//! entry fires, and schedules it again if the true deadline is still ahead. So the many deadlines of a busy connection,
//! each a little later than the one before, cost nothing.
//!
//! Work is bounded: moving an entry from a coarse bucket to a finer one takes from the same budget as firing it, so
//! that a million entries in one bucket do not stop a shard.

use std::time::{Duration, Instant};

use crate::slab::PAGE_SLOTS;

const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;
const LEVELS: usize = 7;
/// 2^42 ms, some 139 years: later deadlines fire then, and are looked at again.
const TICK_MAX: u64 = (1 << (BITS * LEVELS as u32)) - 1;

/// End of a list.
const NIL: u32 = u32::MAX;
/// In `prev`: the node is in no list.
const UNLINKED: u32 = u32::MAX;
/// In `prev`: the node is the first of the bucket whose number the other bits hold.
const HEAD: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Node {
    tick: u64,
    next: u32,
    prev: u32,
}

/// Deadlines by key. See the [module](self).
#[derive(Debug)]
pub(crate) struct Wheel {
    start: Instant,
    /// All ticks before this one have been served.
    elapsed: u64,
    occupied: [u64; LEVELS],
    heads: [[u32; BUCKETS]; LEVELS],
    pages: Vec<Box<[Node; PAGE_SLOTS]>>,
}

impl Wheel {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            elapsed: 0,
            occupied: [0; LEVELS],
            heads: [[NIL; BUCKETS]; LEVELS],
            pages: Vec::new(),
        }
    }

    /// Makes sure that `key` fires at `at` or earlier.
    ///
    /// Keys are below 2^31.
    pub(crate) fn schedule(&mut self, key: u32, at: Instant) {
        debug_assert!(key < HEAD, "keys are slab slots");
        while self.pages.len() * PAGE_SLOTS <= key as usize {
            self.pages.push(Box::new(
                [Node {
                    tick: 0,
                    next: NIL,
                    prev: UNLINKED,
                }; PAGE_SLOTS],
            ));
        }
        let tick = self.tick_not_before(at).clamp(self.elapsed, TICK_MAX);
        let node = self.node(key);
        if node.prev != UNLINKED {
            if node.tick <= tick {
                return;
            }
            self.unlink(key);
        }
        self.link(key, tick);
    }

    /// Forgets `key`.
    pub(crate) fn remove(&mut self, key: u32) {
        if (key as usize) < self.pages.len() * PAGE_SLOTS && self.node(key).prev != UNLINKED {
            self.unlink(key);
        }
    }

    /// When [`pop`](Self::pop) should be called next: never after the next entry's tick, sometimes before it.
    pub(crate) fn next(&self) -> Option<Instant> {
        let tick = if self.due_bucket().is_some() {
            self.elapsed
        } else {
            self.next_bucket()?
        };
        Some(self.start + Duration::from_millis(tick))
    }

    /// Takes out a key whose tick has come, in order of ticks.
    ///
    /// Every step takes one from `budget`. `None` with an empty budget means that there may be more.
    pub(crate) fn pop(&mut self, now: Instant, budget: &mut u32) -> Option<u32> {
        let now = self.tick_at(now).min(TICK_MAX);
        while *budget > 0 {
            match self.due_bucket() {
                Some(bucket) => {
                    *budget -= 1;
                    let key = self.heads[bucket / BUCKETS][bucket % BUCKETS];
                    let tick = self.node(key).tick;
                    self.unlink(key);
                    if bucket < BUCKETS {
                        return Some(key);
                    }
                    self.link(key, tick);
                }
                None => match self.next_bucket() {
                    Some(tick) if tick <= now => self.elapsed = tick,
                    // Nothing begins up to `now`, so that no bucket is skipped.
                    _ => {
                        self.elapsed = self.elapsed.max(now);
                        return None;
                    }
                },
            }
        }
        None
    }

    /// Bytes of the pages.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_SLOTS * size_of::<Node>()) as u64
    }

    /// A bucket whose time has come: coarse ones first, since their entries may be due at this very tick.
    fn due_bucket(&self) -> Option<usize> {
        (0..LEVELS).rev().find_map(|level| {
            let slot = self.slot(level, self.elapsed);
            (self.occupied[level] >> slot & 1 == 1).then_some(level * BUCKETS + slot)
        })
    }

    /// First tick of the earliest bucket that is still ahead.
    fn next_bucket(&self) -> Option<u64> {
        // A finer level lies wholly before the next bucket of a coarser one, and no list is occupied behind
        // `elapsed`, so the first occupied bit is the earliest.
        (0..LEVELS)
            .find(|&level| self.occupied[level] != 0)
            .map(|level| {
                let slot = u64::from(self.occupied[level].trailing_zeros());
                let shift = BITS * level as u32;
                let base = self.elapsed >> (shift + BITS) << (shift + BITS);
                base + (slot << shift)
            })
    }

    fn slot(&self, level: usize, tick: u64) -> usize {
        (tick >> (BITS * level as u32)) as usize % BUCKETS
    }

    fn link(&mut self, key: u32, tick: u64) {
        // The level is that of the highest bit in which the tick differs from now.
        let differ = (self.elapsed ^ tick) | (BUCKETS as u64 - 1);
        let level = ((u64::BITS - 1 - differ.leading_zeros()) / BITS) as usize;
        let slot = self.slot(level, tick);
        let next = self.heads[level][slot];
        *self.node_mut(key) = Node {
            tick,
            next,
            prev: HEAD | (level * BUCKETS + slot) as u32,
        };
        if next != NIL {
            self.node_mut(next).prev = key;
        }
        self.heads[level][slot] = key;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let Node { next, prev, .. } = *self.node(key);
        self.node_mut(key).prev = UNLINKED;
        if next != NIL {
            self.node_mut(next).prev = prev;
        }
        if prev & HEAD == 0 {
            self.node_mut(prev).next = next;
            return;
        }
        let bucket = (prev & !HEAD) as usize;
        let (level, slot) = (bucket / BUCKETS, bucket % BUCKETS);
        self.heads[level][slot] = next;
        if next == NIL {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn node(&self, key: u32) -> &Node {
        &self.pages[key as usize / PAGE_SLOTS][key as usize % PAGE_SLOTS]
    }

    fn node_mut(&mut self, key: u32) -> &mut Node {
        &mut self.pages[key as usize / PAGE_SLOTS][key as usize % PAGE_SLOTS]
    }

    /// The last tick that has begun at `now`.
    fn tick_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// The first tick that does not begin before `at`.
    fn tick_not_before(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn drain(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut budget = u32::MAX;
        std::iter::from_fn(|| wheel.pop(now, &mut budget)).collect()
    }

    #[test]
    fn fires_at_its_tick_and_not_before() {
        let start = Instant::now();
        for millis in [
            0,
            1,
            63,
            64,
            65,
            4095,
            4096,
            300_000,
            86_400_000,
            40_000_000_000,
        ] {
            let mut wheel = Wheel::new(start);
            let at = start + Duration::from_millis(millis);
            wheel.schedule(3, at);
            if millis > 0 {
                assert_eq!(drain(&mut wheel, at - Duration::from_nanos(1)), []);
            }
            assert!(wheel.next().unwrap() <= at);
            assert_eq!(drain(&mut wheel, at), [3]);
            assert_eq!(wheel.next(), None);
        }
    }

    #[test]
    fn a_part_of_a_tick_is_rounded_up() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        wheel.schedule(0, start + Duration::from_micros(1500));
        assert_eq!(drain(&mut wheel, start + Duration::from_micros(1999)), []);
        assert_eq!(drain(&mut wheel, start + Duration::from_micros(2000)), [0]);
    }

    #[test]
    fn later_deadlines_are_lazy_and_earlier_ones_move_the_entry() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut wheel = Wheel::new(start);
        wheel.schedule(7, at(100));
        wheel.schedule(7, at(900));
        assert_eq!(drain(&mut wheel, at(100)), [7]);
        wheel.schedule(7, at(900));
        wheel.schedule(7, at(200));
        assert_eq!(drain(&mut wheel, at(200)), [7]);
        assert_eq!(drain(&mut wheel, at(2000)), [], "one entry per key");
    }

    #[test]
    fn a_crowded_bucket_is_emptied_within_the_budget_of_each_turn() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let at = start + Duration::from_secs(300);
        for key in 0..10_000 {
            wheel.schedule(key, at);
        }
        let mut fired = 0;
        let mut turns = 0;
        while wheel.next().is_some() {
            let mut budget = 500;
            while wheel.pop(at, &mut budget).is_some() {
                fired += 1;
            }
            turns += 1;
        }
        assert_eq!(fired, 10_000);
        assert!(turns > 20, "the budget bounds a turn, {turns} turns");
    }

    #[derive(Debug, Clone)]
    enum Op {
        Schedule(u32, u64),
        Remove(u32),
        Advance(u64, u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let delay = prop_oneof![0u64..70, 0u64..5000, 0u64..400_000, 0u64..20_000_000];
        prop_oneof![
            5 => (0u32..600, delay.clone()).prop_map(|(k, d)| Op::Schedule(k, d)),
            1 => (0u32..600).prop_map(Op::Remove),
            3 => (delay, 1u32..40).prop_map(|(d, b)| Op::Advance(d, b)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        /// Against a sorted map: the same keys fire, each when its tick has come, in order of ticks.
        #[test]
        fn behaves_as_a_sorted_map(ops in prop::collection::vec(op(), 1..300)) {
            let start = Instant::now();
            let mut wheel = Wheel::new(start);
            let mut model = BTreeMap::<u32, u64>::new();
            let mut now = 0u64;
            for op in ops {
                match op {
                    Op::Schedule(key, delay) => {
                        let tick = now + delay;
                        wheel.schedule(key, start + Duration::from_millis(tick));
                        model.entry(key).and_modify(|t| *t = (*t).min(tick)).or_insert(tick);
                    }
                    Op::Remove(key) => {
                        wheel.remove(key);
                        model.remove(&key);
                    }
                    Op::Advance(by, mut budget) => {
                        now += by;
                        let mut last = 0;
                        while let Some(key) = wheel.pop(start + Duration::from_millis(now), &mut budget) {
                            let tick = model.remove(&key);
                            prop_assert!(tick.is_some_and(|t| t <= now), "{key} fired early or twice");
                            prop_assert!(tick >= Some(last), "out of order");
                            last = tick.unwrap_or(0);
                        }
                        if budget > 0 {
                            prop_assert!(model.values().all(|&t| t > now), "something due did not fire");
                        } else {
                            // The rest of this turn, so that the order of later ones can be judged.
                            for key in drain(&mut wheel, start + Duration::from_millis(now)) {
                                prop_assert!(model.remove(&key).is_some_and(|t| t <= now));
                            }
                        }
                    }
                }
                let earliest = model.values().min().map(|&t| start + Duration::from_millis(t));
                prop_assert_eq!(wheel.next().is_some(), earliest.is_some());
                prop_assert!(wheel.next() <= earliest);
            }
        }
    }
}
