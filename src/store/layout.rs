//! The keys of the embedded store, their schema version and its migration.
//!
//! One tree; the first byte says the kind, numbers are big-endian so that their order is the order of keys.
//!
//! | key | value |
//! |---|---|
//! | `M` name | meta: schema, epoch, reserved end of the sequence, next ordinal, next topic, last time, end of patience |
//! | `P` name | project number |
//! | `N` project(4) name | topic number |
//! | `R` ordinal(4) | registration record |
//! | `S` project(4) secret hash(32) | ordinal |
//! | `U` ordinal(4) topic(4) | subscription |
//! | `Q` ordinal(4) epoch(4) sequence(8) | queued message or gap |
//! | `H` chunk(4) | summaries of the queues of 1,024 devices |
//! | `J` record(8) | summaries that one commit changed, until the chunks have them |
//! | `L` epoch(4) sequence(8) | broadcast |
//! | `A` epoch(4) sequence(8) piece(2) | target set of a broadcast, in pieces of [`PIECE`] bytes |
//! | `Z` epoch(4) sequence(8) piece(2) | settled set of a broadcast, in the same way |
//! | `W` ordinal(4) project(4) topic | up to which broadcast the device was told of gaps; until settled sets say so |
//! | `V` bucket(1) written(8) counter(2) | leaf of the history of the devices of a bucket, see `embedded/history.rs` |
//! | `T` epoch(4) sequence(8) | what became of a broadcast, in counts |
//! | `E` ordinal(4) | a device that is gone and whose history is still to be erased |
//!
//! Every value begins with the CRC-32 of the rest ([`seal`], [`open`]). Sets go in pieces because sled puts leaves of
//! more than 128 KiB into files of their own, and writes a leaf whole when any of its keys changes.
//!
//! Versions: 1 had no summaries, and sets whole: the target set in the broadcast's record, the settled set under `Z`
//! without a piece. 2 is this. `V`, `T` and `E` came later: a program that does not know them leaves them alone, does not
//! bound them and does not erase them; nothing else is wrong with running it, so they needed no version of their own.

use std::ops::ControlFlow;

use petrel_core::UnixMillis;
use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::embedded::sets;
use super::ordered::{OrderedMap, Pair};
use super::records::BroadcastRecord;
use super::staged::Staged;
use super::{SecretHash, StoreError, TopicId};

/// What this program writes. A store without a version is new.
pub(super) const SCHEMA: u32 = 2;

/// The meta number that an import leaves where the export had left values out: summaries may be among them, so the next
/// load makes all of them anew.
pub(super) const SUMMARIZE: &str = "summarize";

/// Most bytes of a set under one key.
pub(super) const PIECE: usize = 16 << 10;

/// Brings what an older version wrote to this one, and writes the version. All of it is in one commit: summaries of
/// queues are made by whoever calls this, in the same one.
pub(super) fn migrate<M: OrderedMap>(map: &mut Staged<M>, found: u32) -> Result<(), StoreError> {
    if found > SCHEMA {
        return Err(StoreError::NewerSchema {
            found,
            known: SCHEMA,
        });
    }
    if found == 1 {
        put_sets_in_pieces(map)?;
    }
    if found < SCHEMA {
        let version = u64::from(SCHEMA).to_be_bytes();
        map.put(meta("schema"), seal(&version));
    }
    Ok(())
}

/// From 1 to 2. What cannot be read stays as it is, for the load to meet it.
fn put_sets_in_pieces<M: OrderedMap>(map: &mut Staged<M>) -> Result<(), StoreError> {
    for (key, value) in pairs_of(map, BROADCAST)? {
        let (Some(id), Some(mut record)) = (id_of(&key), BroadcastRecord::read(&value)) else {
            continue;
        };
        let bytes = std::mem::take(&mut record.targeted);
        if let Ok(targeted) = RoaringBitmap::deserialize_from(bytes.as_slice()) {
            sets::put(map, TARGETED, id, &targeted)?;
            map.put(key, record.write());
        }
    }
    for (key, value) in pairs_of(map, SETTLED)? {
        let set = open(&value).and_then(|bytes| RoaringBitmap::deserialize_from(bytes).ok());
        if let (Some(id), Some(settled)) = (id_of(&key), set) {
            map.remove(key);
            sets::put(map, SETTLED, id, &settled)?;
        }
    }
    Ok(())
}

fn pairs_of<M: OrderedMap>(map: &Staged<M>, kind: u8) -> Result<Vec<Pair>, StoreError> {
    let mut pairs = Vec::new();
    let (from, to) = kind_range(kind);
    map.visit(&from, &to, |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(pairs)
}

pub(super) const META: u8 = b'M';
pub(super) const PROJECT: u8 = b'P';
pub(super) const TOPIC: u8 = b'N';
pub(super) const REGISTRATION: u8 = b'R';
pub(super) const SECRET: u8 = b'S';
pub(super) const SUBSCRIPTION: u8 = b'U';
pub(super) const QUEUE: u8 = b'Q';
pub(super) const SUMMARIES: u8 = b'H';
pub(super) const JOURNAL: u8 = b'J';
pub(super) const BROADCAST: u8 = b'L';
pub(super) const TARGETED: u8 = b'A';
pub(super) const SETTLED: u8 = b'Z';
pub(super) const TOLD: u8 = b'W';
pub(super) const HISTORY: u8 = b'V';
pub(super) const BROADCAST_HISTORY: u8 = b'T';
pub(super) const ERASING: u8 = b'E';

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

/// Devices of one chunk of summaries.
const CHUNK_BITS: u32 = 10;

/// The chunk of summaries that a device is in.
pub(super) fn chunk_of(device: Ordinal) -> u32 {
    device.0 >> CHUNK_BITS
}

/// The devices of a chunk.
pub(super) fn devices_of(chunk: u32) -> impl Iterator<Item = Ordinal> {
    let first = chunk << CHUNK_BITS;
    (first..=first | ((1 << CHUNK_BITS) - 1)).map(Ordinal)
}

pub(super) fn summaries(chunk: u32) -> Vec<u8> {
    key(SUMMARIES, &[&chunk.to_be_bytes()])
}

pub(super) fn journal(record: u64) -> Vec<u8> {
    key(JOURNAL, &[&record.to_be_bytes()])
}

pub(super) fn told(device: Ordinal, project: ProjectId, topic: &TopicName) -> Vec<u8> {
    key(
        TOLD,
        &[
            &device.0.to_be_bytes(),
            &project.0.to_be_bytes(),
            topic.as_str().as_bytes(),
        ],
    )
}

/// The number of a journal record.
pub(super) fn record_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// The key of one piece of a set; `kind` is [`TARGETED`] or [`SETTLED`].
pub(super) fn piece(kind: u8, id: MessageId, piece: u16) -> Vec<u8> {
    key(
        kind,
        &[
            &id.epoch.to_be_bytes(),
            &id.sequence.to_be_bytes(),
            &piece.to_be_bytes(),
        ],
    )
}

/// All keys of the pieces of a set.
pub(super) fn piece_range(kind: u8, id: MessageId) -> (Vec<u8>, Vec<u8>) {
    let mut to = piece(kind, id, u16::MAX);
    to.push(0);
    (piece(kind, id, 0), to)
}

/// The message id and the number of a piece.
pub(super) fn piece_of(key: &[u8]) -> Option<(MessageId, u16)> {
    let (head, piece) = key.split_last_chunk::<2>()?;
    (head.len() == 13).then_some(())?;
    Some((id_of(head)?, u16::from_be_bytes(*piece)))
}

/// Which bucket the history of a device is in.
pub(super) fn bucket(device: Ordinal) -> u8 {
    device.0.to_le_bytes()[0]
}

/// The key of a leaf of history; the counter tells those of one bucket and millisecond apart.
pub(super) fn history(bucket: u8, written: UnixMillis, counter: u16) -> Vec<u8> {
    let (written, counter) = (written.0.to_be_bytes(), counter.to_be_bytes());
    key(HISTORY, &[&[bucket], &written, &counter])
}

/// All leaves of a bucket.
pub(super) fn history_range(bucket: u8) -> (Vec<u8>, Vec<u8>) {
    let to = match bucket.checked_add(1) {
        Some(next) => key(HISTORY, &[&[next]]),
        None => vec![HISTORY + 1],
    };
    (key(HISTORY, &[&[bucket]]), to)
}

/// When a leaf was written.
pub(super) fn written_at(key: &[u8]) -> Option<UnixMillis> {
    let written = key.get(2..10)?.try_into().ok()?;
    (key.len() == 12).then_some(UnixMillis(u64::from_be_bytes(written)))
}

pub(super) fn broadcast_history(id: MessageId) -> Vec<u8> {
    key(
        BROADCAST_HISTORY,
        &[&id.epoch.to_be_bytes(), &id.sequence.to_be_bytes()],
    )
}

pub(super) fn erasing(device: Ordinal) -> Vec<u8> {
    key(ERASING, &[&device.0.to_be_bytes()])
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
    fn every_device_is_in_the_chunk_that_names_it() {
        for device in [0, 1, 1023, 1024, 70_000, u32::MAX].map(Ordinal) {
            let chunk = chunk_of(device);
            assert!(devices_of(chunk).any(|d| d == device));
            assert!(devices_of(chunk).all(|d| chunk_of(d) == chunk));
            assert_eq!(devices_of(chunk).count(), 1024);
        }
        assert_eq!(record_of(&journal(77)), Some(77));
    }

    #[test]
    fn leaves_of_one_bucket_are_one_range_in_order_of_time() {
        for bucket in [0, 7, u8::MAX] {
            let (from, to) = history_range(bucket);
            let mut before = from.clone();
            for (written, counter) in [(0, 1), (5, 0), (5, 1), (256, 0), (u64::MAX, u16::MAX)] {
                let key = history(bucket, UnixMillis(written), counter);
                assert!(key > before && key < to);
                assert_eq!(written_at(&key), Some(UnixMillis(written)));
                before = key;
            }
        }
        assert_eq!(bucket(Ordinal(0x0102_0304)), 4);
        assert_eq!(written_at(&broadcast(MessageId::ZERO)), None);
    }

    #[test]
    fn pieces_of_one_set_are_one_range_in_order() {
        let id = |sequence| MessageId { epoch: 7, sequence };
        let (from, to) = piece_range(SETTLED, id(5));
        for number in [0, 1, 255, 256, u16::MAX] {
            let key = piece(SETTLED, id(5), number);
            assert!(key >= from && key < to);
            assert_eq!(piece_of(&key), Some((id(5), number)));
        }
        assert!(piece(SETTLED, id(6), 0) >= to);
        assert!(piece(SETTLED, id(4), u16::MAX) < from);
        assert_eq!(piece_of(&broadcast(id(5))), None);
    }
}
