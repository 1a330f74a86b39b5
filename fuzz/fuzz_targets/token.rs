//! Texts that claim to be device tokens.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| petrel_fuzz::protocol::token(data));
