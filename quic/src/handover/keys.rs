//! The keys that quinn-proto seals and opens 1-RTT packets with: small, and in sight of the tap.

use bytes::BytesMut;
use quinn_proto::crypto::{self, CryptoError};

use super::{tap::SharedTap, unpad::unpad};
use crate::resident::protect::{CONFIDENTIALITY_LIMIT, HeaderKey, PacketKey, TAG_BYTES};

/// Packets that may fail authentication under AES-128-GCM (RFC 9001 §6.6).
const INTEGRITY_LIMIT: u64 = 1 << 52;

/// Length of the sample for header protection (RFC 9001 §5.4.3).
const SAMPLE_BYTES: usize = 16;

/// Where the packet number would begin if it took four bytes, the sample begins behind it (RFC 9001 §5.4.2).
const SAMPLE_AFTER: usize = 4;

/// The bits of a short header's first byte that are hidden (RFC 9001 §5.4.1).
const HIDDEN_BITS: u8 = 0x1f;

/// Bits that tell the length of the packet number (RFC 9000 §17.3.1).
const NUMBER_LEN_MASK: u8 = 0x03;

/// A packet key of one direction and generation.
pub(super) struct ObservedKey {
    key: PacketKey,
    generation: u64,
    tap: SharedTap,
}

impl ObservedKey {
    pub(super) fn boxed(
        key: PacketKey,
        generation: u64,
        tap: &SharedTap,
    ) -> Box<dyn crypto::PacketKey> {
        Box::new(Self {
            key,
            generation,
            tap: tap.clone(),
        })
    }
}

impl crypto::PacketKey for ObservedKey {
    fn encrypt(&self, number: u64, packet: &mut [u8], header_len: usize) {
        let (header, rest) = packet.split_at_mut(header_len);
        let (payload, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        self.tap
            .lock()
            .sealed(self.generation, number, destination(header), payload);
        tag.copy_from_slice(&self.key.seal(number, header, payload));
    }

    fn decrypt(
        &self,
        number: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let opened = self.key.open(number, header, payload);
        let plaintext = opened.map_err(|_| CryptoError)?;
        self.tap.lock().opened(self.generation, number, plaintext);
        let length = plaintext.len();
        payload.truncate(length);
        unpad(payload);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        CONFIDENTIALITY_LIMIT
    }

    fn integrity_limit(&self) -> u64 {
        INTEGRITY_LIMIT
    }
}

/// The connection ID in a short header whose packet number is in plain.
fn destination(header: &[u8]) -> &[u8] {
    let number_len = header
        .first()
        .map_or(1, |first| usize::from(first & NUMBER_LEN_MASK) + 1);
    let end = header.len().saturating_sub(number_len);
    header.get(1..end).unwrap_or_default()
}

/// A header key of one direction, for short headers.
pub(super) struct ShortHeaderKey(HeaderKey);

impl ShortHeaderKey {
    pub(super) fn boxed(key: HeaderKey) -> Box<dyn crypto::HeaderKey> {
        Box::new(Self(key))
    }

    fn mask(&self, number_at: usize, packet: &[u8]) -> [u8; 5] {
        let sample_at = number_at + SAMPLE_AFTER;
        // quinn-proto drops packets that are too short for `sample_size` before it comes here.
        self.0.mask(&packet[sample_at..sample_at + SAMPLE_BYTES])
    }
}

/// Hides or shows a packet number whose length `first` tells in plain.
fn flip_number(number_at: usize, packet: &mut [u8], first: u8, mask: &[u8; 5]) {
    let length = usize::from(first & NUMBER_LEN_MASK) + 1;
    let number = &mut packet[number_at..number_at + length];
    for (byte, mask) in number.iter_mut().zip(&mask[1..]) {
        *byte ^= mask;
    }
}

impl crypto::HeaderKey for ShortHeaderKey {
    fn decrypt(&self, number_at: usize, packet: &mut [u8]) {
        let mask = self.mask(number_at, packet);
        packet[0] ^= mask[0] & HIDDEN_BITS;
        flip_number(number_at, packet, packet[0], &mask);
    }

    fn encrypt(&self, number_at: usize, packet: &mut [u8]) {
        let mask = self.mask(number_at, packet);
        flip_number(number_at, packet, packet[0], &mask);
        packet[0] ^= mask[0] & HIDDEN_BITS;
    }

    fn sample_size(&self) -> usize {
        SAMPLE_BYTES
    }
}
