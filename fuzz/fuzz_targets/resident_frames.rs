//! Frames of all kinds, properly sealed, into the resident engine after a real handshake.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| petrel_quic::sim::hostile::resident_frames(data));
