//! Datagrams of all kinds into a shard that serves a connection at rest.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| petrel_quic::sim::hostile::datagrams(data));
