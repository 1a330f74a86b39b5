//! Connections in fixed pages: a connection never moves, and a slot is used again with the next generation.
//!
//! A page is boxed once and never freed; memory follows the largest number of connections ever held. Boxing
//! connections one by one would round each up to the allocator's next size class, and a growing `Vec` would copy
//! gigabytes.

use crate::ConnId;

/// Slots in a page.
pub(crate) const PAGE_SLOTS: usize = 256;

const NIL: u32 = u32::MAX;

/// A place for one value.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

/// Values by [`ConnId`].
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Box<[Slot<T>]>>,
    free_head: u32,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            pages: Vec::new(),
            free_head: NIL,
            len: 0,
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many slots are allocated, used or not.
    pub(crate) fn capacity(&self) -> usize {
        self.pages.len() * PAGE_SLOTS
    }

    /// Puts a value in; the slot freed last is used first.
    pub(crate) fn insert(&mut self, value: T) -> ConnId {
        if self.free_head == NIL {
            self.grow();
        }
        let index = self.free_head;
        let slot = self
            .slot_mut(index)
            .expect("the free list holds only slots of existing pages");
        let generation = slot.generation;
        let next_free = slot.next_free;
        slot.value = Some(value);
        self.free_head = next_free;
        self.len += 1;
        ConnId {
            slot: index,
            generation,
        }
    }

    /// The value, unless the ID is stale.
    pub(crate) fn get(&self, id: ConnId) -> Option<&T> {
        let index = id.slot as usize;
        let slot = self
            .pages
            .get(index / PAGE_SLOTS)?
            .get(index % PAGE_SLOTS)?;
        if slot.generation == id.generation {
            slot.value.as_ref()
        } else {
            None
        }
    }

    /// The value, unless the ID is stale.
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let slot = self.slot_mut(id.slot)?;
        if slot.generation == id.generation {
            slot.value.as_mut()
        } else {
            None
        }
    }

    /// The value in a slot, whatever its generation.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        let slot = self
            .pages
            .get(index / PAGE_SLOTS)?
            .get(index % PAGE_SLOTS)?;
        slot.value.as_ref()
    }

    /// The value in a slot and its ID, whatever its generation.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<(ConnId, &mut T)> {
        let slot = self.slot_mut(index)?;
        let id = ConnId {
            slot: index,
            generation: slot.generation,
        };
        slot.value.as_mut().map(|value| (id, value))
    }

    /// Takes a value out and makes its ID stale.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let free_head = self.free_head;
        let slot = self.slot_mut(id.slot)?;
        if slot.generation != id.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = free_head;
        self.free_head = id.slot;
        self.len -= 1;
        Some(value)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let index = index as usize;
        self.pages
            .get_mut(index / PAGE_SLOTS)?
            .get_mut(index % PAGE_SLOTS)
    }

    fn grow(&mut self) {
        let first =
            u32::try_from(self.capacity()).expect("a shard holds fewer than 2^31 connections");
        let page = (0..PAGE_SLOTS as u32)
            .map(|i| Slot {
                generation: 1,
                // Lowest slot first; the last one ends the list.
                next_free: if i + 1 == PAGE_SLOTS as u32 {
                    NIL
                } else {
                    first + i + 1
                },
                value: None,
            })
            .collect();
        self.pages.push(page);
        self.free_head = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_with_another_generation() {
        let mut slab = Slab::new();
        let a = slab.insert("a");
        let b = slab.insert("b");
        assert_eq!((a.slot, b.slot), (0, 1));
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!(slab.remove(a), None);
        let c = slab.insert("c");
        assert_eq!(c.slot, a.slot);
        assert_ne!(c.generation, a.generation);
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.get_mut(c), Some(&mut "c"));
        assert_eq!(slab.at_mut(0), Some((c, &mut "c")));
        assert_eq!(slab.len(), 2);
    }

    #[test]
    fn grows_by_pages_and_never_moves_a_value() {
        let mut slab = Slab::new();
        let ids: Vec<_> = (0..PAGE_SLOTS * 3 + 1).map(|i| slab.insert(i)).collect();
        assert_eq!(slab.capacity(), PAGE_SLOTS * 4);
        let place = std::ptr::from_ref(slab.get_mut(ids[5]).unwrap());
        for i in 0..PAGE_SLOTS * 4 {
            slab.insert(i);
        }
        assert_eq!(place, std::ptr::from_ref(slab.get_mut(ids[5]).unwrap()));
        for (i, id) in ids.into_iter().enumerate() {
            assert_eq!(slab.remove(id), Some(i));
        }
        assert_eq!(slab.len(), PAGE_SLOTS * 4);
    }

    #[test]
    fn unknown_ids_match_nothing() {
        let mut slab = Slab::new();
        let id = slab.insert(1);
        for stale in [
            ConnId {
                slot: 0,
                generation: 0,
            },
            ConnId {
                slot: 1,
                generation: 1,
            },
            ConnId {
                slot: u32::MAX,
                generation: id.generation,
            },
        ] {
            assert_eq!(slab.get(stale), None);
            assert_eq!(slab.get_mut(stale), None);
            assert_eq!(slab.remove(stale), None);
        }
    }
}
