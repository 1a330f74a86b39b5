//! Packet protection of 1-RTT packets with AES-128-GCM (RFC 9001 §5).
//!
//! Keys rest as raw bytes, 44 for each direction, and are expanded for each packet: the expanded form would take 848.
//! All of them are wiped when they are dropped.

use ring::{aead, hkdf};
use zeroize::Zeroize;

/// Length of the authentication tag (RFC 9001 §5.3).
pub(crate) const TAG_BYTES: usize = 16;

/// Length of the sample that header protection needs (RFC 9001 §5.4.3).
const SAMPLE_BYTES: usize = 16;

/// Packets that may be sealed with one key (RFC 9001 §6.6). An update begins well before.
pub(crate) const CONFIDENTIALITY_LIMIT: u64 = 1 << 23;

/// The reserved bits of a short header (RFC 9000 §17.3.1).
pub(crate) const RESERVED_BITS: u8 = 0x18;
/// The key phase bit of a short header.
pub(crate) const KEY_PHASE_BIT: u8 = 0x04;
/// The fixed bit of every QUIC version 1 packet.
pub(crate) const FIXED_BIT: u8 = 0x40;

/// A traffic secret, from which the keys of one direction and phase are derived.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

/// Key and IV of one direction in one key phase.
#[derive(Clone)]
pub(crate) struct PacketKey {
    key: [u8; 16],
    iv: [u8; 12],
}

/// Key that hides packet numbers; the same in all phases.
#[derive(Clone)]
pub(crate) struct HeaderKey([u8; 16]);

/// What is wrong with a packet that cannot be opened. It is dropped, as RFC 9001 §5.2 asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Undecryptable;

impl Secret {
    pub(crate) fn packet_key(&self) -> PacketKey {
        let mut key = PacketKey {
            key: [0; 16],
            iv: [0; 12],
        };
        self.expand(b"quic key", &mut key.key);
        self.expand(b"quic iv", &mut key.iv);
        key
    }

    pub(crate) fn header_key(&self) -> HeaderKey {
        let mut key = HeaderKey([0; 16]);
        self.expand(b"quic hp", &mut key.0);
        key
    }

    /// The secret of the next key phase (RFC 9001 §6.1).
    pub(crate) fn next(&self) -> Self {
        let mut next = Self([0; 32]);
        self.expand(b"quic ku", &mut next.0);
        next
    }

    /// HKDF-Expand-Label with SHA-256 and no context (RFC 8446 §7.1).
    fn expand<const N: usize>(&self, label: &[u8], out: &mut [u8; N]) {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let secret = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.0);
        let prefix = b"tls13 ";
        let info: [&[u8]; 5] = [
            &(N as u16).to_be_bytes(),
            &[(prefix.len() + label.len()) as u8],
            prefix,
            label,
            &[0],
        ];
        let okm = secret.expand(&info, Length(N));
        okm.and_then(|okm| okm.fill(out))
            .expect("32 bytes are within HKDF's bound of 255 blocks");
    }
}

impl PacketKey {
    pub(super) fn touch(&self) -> u8 {
        self.key[0] ^ self.iv[0]
    }

    fn expanded(&self) -> aead::LessSafeKey {
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, &self.key)
            .expect("the key has the algorithm's length");
        aead::LessSafeKey::new(key)
    }

    /// The packet number, padded to the left, XORed into the IV (RFC 9001 §5.3).
    fn nonce(&self, number: u64) -> aead::Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        aead::Nonce::assume_unique_for_key(nonce)
    }

    /// Decrypts `payload` in place; the plaintext is shorter by [`TAG_BYTES`].
    pub(crate) fn open<'a>(
        &self,
        number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Undecryptable> {
        self.expanded()
            .open_in_place(self.nonce(number), aead::Aad::from(header), payload)
            .map(|plaintext| &*plaintext)
            .map_err(|_| Undecryptable)
    }

    pub(crate) fn seal(&self, number: u64, header: &[u8], payload: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = self
            .expanded()
            .seal_in_place_separate_tag(self.nonce(number), aead::Aad::from(header), payload)
            .expect("a packet is far below the bound of AES-GCM");
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }
}

impl HeaderKey {
    pub(super) fn touch(&self) -> u8 {
        self.0[0]
    }

    /// Five bytes of mask for a sample (RFC 9001 §5.4.3).
    pub(crate) fn mask(&self, sample: &[u8]) -> [u8; 5] {
        aead::quic::HeaderProtectionKey::new(&aead::quic::AES_128, &self.0)
            .and_then(|key| key.new_mask(sample))
            .expect("key and sample have the algorithm's lengths")
    }
}

/// The header of a packet whose header protection was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unmasked {
    pub(crate) first: u8,
    /// The low bits of the packet number, and how many bytes of them there were.
    pub(crate) truncated: u32,
    pub(crate) number_len: usize,
}

/// Removes header protection in place (RFC 9001 §5.4.1). `None` if the packet is too short to be sampled.
pub(crate) fn unmask(key: &HeaderKey, packet: &mut [u8], number_at: usize) -> Option<Unmasked> {
    let sample = packet.get(number_at + 4..number_at + 4 + SAMPLE_BYTES)?;
    let mask = key.mask(sample);
    packet[0] ^= mask[0] & 0x1f;
    let first = packet[0];
    let number_len = usize::from(first & 0x03) + 1;
    let mut truncated = 0;
    for (byte, mask) in packet[number_at..number_at + number_len]
        .iter_mut()
        .zip(&mask[1..])
    {
        *byte ^= mask;
        truncated = truncated << 8 | u32::from(*byte);
    }
    Some(Unmasked {
        first,
        truncated,
        number_len,
    })
}

/// The full packet number that is nearest to what is expected next (RFC 9000 §A.3).
pub(crate) fn full_number(largest: u64, truncated: u32, number_len: usize) -> u64 {
    let window = 1u64 << (8 * number_len);
    let expected = largest + 1;
    let candidate = (expected & !(window - 1)) | u64::from(truncated);
    if candidate + window / 2 <= expected && candidate + window < 1 << 62 {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

/// How many bytes tell a packet number apart from all that may be on the way (RFC 9000 §A.2).
pub(crate) fn number_len(number: u64, largest_acked: Option<u64>) -> usize {
    let unacked = largest_acked.map_or(number + 1, |acked| number.saturating_sub(acked));
    // One more bit than the distance.
    match unacked {
        0..0x80 => 1,
        0x80..0x8000 => 2,
        0x8000..0x80_0000 => 3,
        _ => 4,
    }
}

/// A packet that is being written at the end of a buffer.
#[derive(Debug)]
pub(crate) struct PacketStart {
    /// Where it begins in the buffer.
    pub(crate) at: usize,
    number: u64,
    number_at: usize,
    payload_at: usize,
}

impl PacketStart {
    /// Writes a short header (RFC 9000 §17.3.1). The spin bit stays 0, as §17.4 allows.
    pub(crate) fn write(
        out: &mut Vec<u8>,
        remote_cid: &[u8],
        number: u64,
        largest_acked: Option<u64>,
        key_phase: bool,
    ) -> Self {
        let at = out.len();
        let length = number_len(number, largest_acked);
        let phase = if key_phase { KEY_PHASE_BIT } else { 0 };
        out.push(FIXED_BIT | phase | (length as u8 - 1));
        out.extend_from_slice(remote_cid);
        let number_at = out.len();
        out.extend_from_slice(&number.to_be_bytes()[8 - length..]);
        Self {
            at,
            number,
            number_at,
            payload_at: out.len(),
        }
    }

    /// Bytes of payload so far.
    pub(crate) fn payload_len(&self, out: &[u8]) -> usize {
        out.len() - self.payload_at
    }

    /// Pads, seals and masks the packet. `datagram_len` is the least size it shall have in the end.
    pub(crate) fn finish(
        self,
        out: &mut Vec<u8>,
        key: &PacketKey,
        header_key: &HeaderKey,
        datagram_len: usize,
    ) {
        // Enough to sample four bytes after the start of the packet number (RFC 9001 §5.4.2).
        let sampled = self.number_at + 4 + SAMPLE_BYTES - TAG_BYTES;
        let wanted = sampled.max((self.at + datagram_len).saturating_sub(TAG_BYTES));
        if out.len() < wanted {
            out.resize(wanted, 0);
        }
        let packet = &mut out[self.at..];
        let (header, payload) = packet.split_at_mut(self.payload_at - self.at);
        let tag = key.seal(self.number, header, payload);
        out.extend_from_slice(&tag);
        let sample = &out[self.number_at + 4..self.number_at + 4 + SAMPLE_BYTES];
        let mask = header_key.mask(sample);
        out[self.at] ^= mask[0] & 0x1f;
        for (byte, mask) in out[self.number_at..self.payload_at]
            .iter_mut()
            .zip(&mask[1..])
        {
            *byte ^= mask;
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for PacketKey {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl Drop for HeaderKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
        text.as_bytes()
            .chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }

    /// RFC 9001 §A.1: the client's Initial keys, which are derived from their secret just as 1-RTT keys are.
    #[test]
    fn keys_of_the_rfc() {
        let secret = Secret(
            hex("c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea")
                .try_into()
                .unwrap(),
        );
        let key = secret.packet_key();
        assert_eq!(key.key[..], hex("1f369613dd76d5467730efcbe3b1a22d"));
        assert_eq!(key.iv[..], hex("fa044b2f42a3fd3b46fb255c"));
        let header = secret.header_key();
        assert_eq!(header.0[..], hex("9f50449e04a0e810283a1e9933adedd2"));
        // RFC 9001 §A.2.
        let mask = header.mask(&hex("d1b1c98dd7689fb8ec11d242b123dc9b"));
        assert_eq!(mask[..], hex("437b9aec36"));
    }

    #[test]
    fn numbers_of_the_rfc() {
        // RFC 9000 §A.3 and §A.2.
        assert_eq!(full_number(0xa82f_30ea, 0x9b32, 2), 0xa82f_9b32);
        assert_eq!(number_len(0x00ac_5c02, Some(0x00ab_e8b3)), 2);
        assert_eq!(number_len(0x00ac_e8fe, Some(0x00ab_e8b3)), 3);
    }

    #[test]
    fn numbers_are_found_again_within_half_a_window() {
        for largest in [0u64, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 40] {
            for ahead in [0u64, 1, 50, 127, 128, 30_000, 1 << 20] {
                let number = largest + 1 + ahead;
                let length = number_len(number, Some(largest));
                let truncated = (number & ((1u64 << (8 * length)) - 1)) as u32;
                assert_eq!(full_number(largest, truncated, length), number);
            }
        }
    }

    #[test]
    fn what_was_sealed_can_be_opened_and_nothing_else() {
        let secret = Secret([7; 32]);
        let (key, header_key) = (secret.packet_key(), secret.header_key());
        for (number, payload) in [(0u64, &b"x"[..]), (300, b"hello"), (70_000, &[9; 1200])] {
            let mut out = b"before".to_vec();
            let start = PacketStart::write(&mut out, &[5; 8], number, None, number == 300);
            out.extend_from_slice(payload);
            start.finish(&mut out, &key, &header_key, 0);
            let mut packet = out[6..].to_vec();
            let header = unmask(&header_key, &mut packet, 9).unwrap();
            assert_eq!(header.first & FIXED_BIT, FIXED_BIT);
            assert_eq!(header.first & RESERVED_BITS, 0);
            assert_eq!(header.first & KEY_PHASE_BIT != 0, number == 300);
            let found = full_number(
                number.saturating_sub(1),
                header.truncated,
                header.number_len,
            );
            assert_eq!(found, number);
            let (head, body) = packet.split_at_mut(9 + header.number_len);
            for (other, is_it) in [(number + 1, false), (number, true)] {
                let mut body = body.to_vec();
                let opened = key.open(other, head, &mut body);
                assert_eq!(opened.is_ok(), is_it);
                assert!(opened.is_err() || opened.unwrap().starts_with(payload));
            }
            let other = secret.next().packet_key();
            assert!(other.open(number, head, body).is_err());
        }
    }
}
