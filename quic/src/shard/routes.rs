//! From what a packet carries to the slot of its resident connection.

use hashbrown::HashTable;

use crate::resident::{LocalId, ResetToken};

/// A part of what is looked for, and the slot: eight bytes. Whether it is the right one is asked of the connection.
type Entry = (u32, u32);

/// Slots by connection ID of ours, and by reset token of the peer. Both are random bytes of somebody's making, so an
/// entry may share its fingerprint with others.
#[derive(Default)]
pub(super) struct Routes {
    ids: HashTable<Entry>,
    tokens: HashTable<Entry>,
}

impl Routes {
    pub(super) fn by_id(&self, id: LocalId, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        find(&self.ids, id_fingerprint(id), is_its)
    }

    pub(super) fn add_id(&mut self, id: LocalId, slot: u32) {
        add(&mut self.ids, id_fingerprint(id), slot);
    }

    pub(super) fn remove_id(&mut self, id: LocalId, slot: u32) {
        remove(&mut self.ids, id_fingerprint(id), slot);
    }

    pub(super) fn by_token(&self, token: &ResetToken, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        find(&self.tokens, token_fingerprint(token), is_its)
    }

    pub(super) fn add_token(&mut self, token: &ResetToken, slot: u32) {
        add(&mut self.tokens, token_fingerprint(token), slot);
    }

    pub(super) fn remove_token(&mut self, token: &ResetToken, slot: u32) {
        remove(&mut self.tokens, token_fingerprint(token), slot);
    }

    /// How many IDs and tokens there are.
    #[cfg(feature = "sim")]
    pub(super) fn len(&self) -> usize {
        self.ids.len() + self.tokens.len()
    }

    /// Bytes of memory that the tables take.
    pub(super) fn memory_bytes(&self) -> u64 {
        (self.ids.allocation_size() + self.tokens.allocation_size()) as u64
    }
}

/// The first byte is the same for many, since it names the shard.
fn id_fingerprint(id: LocalId) -> u32 {
    u32::from_le_bytes([id[1], id[2], id[3], id[4]])
}

fn token_fingerprint(token: &ResetToken) -> u32 {
    u32::from_le_bytes([token[0], token[1], token[2], token[3]])
}

/// Spreads a fingerprint over 64 bits (Knuth's multiplicative method). A peer that chooses tokens of one fingerprint
/// makes only the search for its own connections longer: the bound is two for each connection.
fn hash(fingerprint: u32) -> u64 {
    u64::from(fingerprint).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn find(table: &HashTable<Entry>, fingerprint: u32, is_its: impl Fn(u32) -> bool) -> Option<u32> {
    table
        .find(hash(fingerprint), |&(known, slot)| {
            known == fingerprint && is_its(slot)
        })
        .map(|&(_, slot)| slot)
}

fn add(table: &mut HashTable<Entry>, fingerprint: u32, slot: u32) {
    table.insert_unique(hash(fingerprint), (fingerprint, slot), |&(known, _)| {
        hash(known)
    });
}

fn remove(table: &mut HashTable<Entry>, fingerprint: u32, slot: u32) {
    if let Ok(entry) = table.find_entry(hash(fingerprint), |&known| known == (fingerprint, slot)) {
        entry.remove();
    }
}
