//! The keys of the embedded store, their schema version and its migration.
//!
//! One tree; the first byte says the kind, numbers are big-endian so that their order is the order of keys.
//!
//! | key | value |
//! |---|---|
//! | `M` name | meta: schema, epoch, reserved end of the sequence, next ordinal, next topic, last time |
//! | `P` name | project number |
//! | `N` project(4) name | topic number |
//! | `R` ordinal(4) | registration record |
//! | `S` project(4) secret hash(32) | ordinal |
//! | `U` ordinal(4) topic(4) | subscription |
//! | `Q` ordinal(4) epoch(4) sequence(8) | queued message or gap |
//! | `L` epoch(4) sequence(8) | broadcast with its target set |
//! | `Z` epoch(4) sequence(8) | settled set of a broadcast |
//!
//! Every value begins with the CRC-32 of the rest ([`seal`], [`open`]).

use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};

use super::{SecretHash, StoreError, TopicId};

/// What this program writes. A store without a version is new.
pub(super) const SCHEMA: u32 = 1;

/// Checks the version that a store was written with. Version 1 is the first, so nothing is migrated yet; a later version
/// migrates here, step by step, before anything else is read.
pub(super) fn migrate(found: u32) -> Result<(), StoreError> {
    if found <= SCHEMA {
        Ok(())
    } else {
        Err(StoreError::NewerSchema {
            found,
            known: SCHEMA,
        })
    }
}

pub(super) const META: u8 = b'M';
pub(super) const PROJECT: u8 = b'P';
pub(super) const TOPIC: u8 = b'N';
pub(super) const REGISTRATION: u8 = b'R';
pub(super) const SECRET: u8 = b'S';
pub(super) const SUBSCRIPTION: u8 = b'U';
pub(super) const QUEUE: u8 = b'Q';
pub(super) const BROADCAST: u8 = b'L';
pub(super) const SETTLED: u8 = b'Z';

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// All keys of a kind: from the first up to, not including, the second.
pub(super) fn kind_range(kind: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![kind], vec![kind + 1])
}

pub(super) fn meta(name: &str) -> Vec<u8> {
    key(META, &[name.as_bytes()])
}

pub(super) fn project(name: &str) -> Vec<u8> {
    key(PROJECT, &[name.as_bytes()])
}

pub(super) fn topic(project: ProjectId, name: &TopicName) -> Vec<u8> {
    key(TOPIC, &[&project.0.to_be_bytes(), name.as_str().as_bytes()])
}

pub(super) fn registration(device: Ordinal) -> Vec<u8> {
    key(REGISTRATION, &[&device.0.to_be_bytes()])
}

pub(super) fn secret(project: ProjectId, hash: &SecretHash) -> Vec<u8> {
    key(SECRET, &[&project.0.to_be_bytes(), hash])
}

pub(super) fn subscription(device: Ordinal, topic: TopicId) -> Vec<u8> {
    key(
        SUBSCRIPTION,
        &[&device.0.to_be_bytes(), &topic.0.to_be_bytes()],
    )
}

pub(super) fn queue(device: Ordinal, id: MessageId) -> Vec<u8> {
    key(
        QUEUE,
        &[
            &device.0.to_be_bytes(),
            &id.epoch.to_be_bytes(),
            &id.sequence.to_be_bytes(),
        ],
    )
}

pub(super) fn broadcast(id: MessageId) -> Vec<u8> {
    key(
        BROADCAST,
        &[&id.epoch.to_be_bytes(), &id.sequence.to_be_bytes()],
    )
}

pub(super) fn settled(id: MessageId) -> Vec<u8> {
    key(
        SETTLED,
        &[&id.epoch.to_be_bytes(), &id.sequence.to_be_bytes()],
    )
}

/// All keys of a kind that belong to a device.
pub(super) fn device_range(kind: u8, device: Ordinal) -> (Vec<u8>, Vec<u8>) {
    let from = key(kind, &[&device.0.to_be_bytes()]);
    let to = match device.0.checked_add(1) {
        Some(next) => key(kind, &[&next.to_be_bytes()]),
        None => vec![kind + 1],
    };
    (from, to)
}

/// The big-endian number at a place of a key, if the key is that long.
pub(super) fn number_at(key: &[u8], at: usize) -> Option<u32> {
    let bytes = key.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The message id at the end of a queue, broadcast or settled key.
pub(super) fn id_of(key: &[u8]) -> Option<MessageId> {
    let start = key.len().checked_sub(12)?;
    let sequence = key.get(start + 4..)?.try_into().ok()?;
    Some(MessageId {
        epoch: number_at(key, start)?,
        sequence: u64::from_be_bytes(sequence),
    })
}

/// The name at the end of a key.
pub(super) fn name_at(key: &[u8], at: usize) -> Option<&str> {
    std::str::from_utf8(key.get(at..)?).ok()
}

/// Puts the checksum in front of a value.
pub(super) fn seal(payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + payload.len());
    value.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// Checks and takes off the checksum.
pub(super) fn open(value: &[u8]) -> Option<&[u8]> {
    let (sum, payload) = value.split_at_checked(4)?;
    (crc32fast::hash(payload).to_le_bytes() == sum).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_device_are_one_range_in_order() {
        let id = |epoch, sequence| MessageId { epoch, sequence };
        for device in [Ordinal(0), Ordinal(255), Ordinal(u32::MAX)] {
            let (from, to) = device_range(QUEUE, device);
            let mut before = from.clone();
            for message in [id(0, 1), id(1, 0), id(1, 256), id(1, 1 << 63), id(2, 3)] {
                let key = queue(device, message);
                assert!(key > before && key < to);
                assert_eq!(id_of(&key), Some(message));
                assert_eq!(number_at(&key, 1), Some(device.0));
                before = key;
            }
        }
        let (_, to) = device_range(QUEUE, Ordinal(7));
        assert!(queue(Ordinal(8), MessageId::ZERO) >= to);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let value = seal(b"some payload");
        assert_eq!(open(&value), Some(&b"some payload"[..]));
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&flipped), None);
        }
        assert_eq!(open(b"abc"), None);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        assert!(migrate(SCHEMA).is_ok());
        assert!(migrate(SCHEMA + 1).is_err());
    }
}
