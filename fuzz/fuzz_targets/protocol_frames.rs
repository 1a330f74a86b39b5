//! Bytes of a stream into both ends of a session.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| petrel_fuzz::protocol::frames(data));
