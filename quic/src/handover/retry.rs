//! The integrity tag of Retry packets (RFC 9001 §5.8).

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Length of the tag.
const TAG_BYTES: usize = 16;

/// Key and nonce of QUIC version 1. They are public: the tag only shows that the sender saw the client's packet.
const KEY: [u8; 16] = [
    0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e,
];
const NONCE: [u8; 12] = [
    0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb,
];

/// The tag of a Retry packet that answers a client's first packet to `original`.
pub(super) fn tag(original: &[u8], packet: &[u8]) -> [u8; TAG_BYTES] {
    let tag = key()
        .seal_in_place_separate_tag(nonce(), Aad::from(pseudo_packet(original, packet)), &mut [])
        .expect("a packet is far below the bound of AES-GCM");
    let mut bytes = [0; TAG_BYTES];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// Whether a Retry packet of these two parts, the second of which ends with the tag, is genuine.
pub(super) fn is_valid(original: &[u8], header: &[u8], payload: &[u8]) -> bool {
    let Some((payload, tag)) = payload.split_last_chunk::<TAG_BYTES>() else {
        return false;
    };
    let packet = [header, payload].concat();
    key()
        .open_in_place(
            nonce(),
            Aad::from(pseudo_packet(original, &packet)),
            &mut tag.to_owned(),
        )
        .is_ok()
}

fn key() -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&AES_128_GCM, &KEY).expect("the key has the algorithm's length"),
    )
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key(NONCE)
}

/// The packet behind the connection ID that it answers (RFC 9001 §5.8, figure 8).
fn pseudo_packet(original: &[u8], packet: &[u8]) -> Vec<u8> {
    // At most 20 bytes (RFC 9000 §17.2).
    [&[original.len() as u8][..], original, packet].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 9001 §A.4.
        let original = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
        let packet = b"\xff\x00\x00\x00\x01\x00\x08\xf0\x67\xa5\x50\x2a\x42\x62\xb5token";
        let expected = [
            0x04, 0xa2, 0x65, 0xba, 0x2e, 0xff, 0x4d, 0x82, 0x90, 0x58, 0xfb, 0x3f, 0x0f, 0x24,
            0x96, 0xba,
        ];
        assert_eq!(tag(&original, packet), expected);
        let (header, token) = packet.split_at(15);
        let mut payload = [token, &expected].concat();
        assert!(is_valid(&original, header, &payload));
        assert!(!is_valid(&original[1..], header, &payload));
        payload[0] ^= 1;
        assert!(!is_valid(&original, header, &payload));
        assert!(!is_valid(&original, header, b"too short"));
    }
}
