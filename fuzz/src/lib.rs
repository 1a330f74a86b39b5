//! The bodies of the targets that read Petrel's own protocol. Those of the transport are in `petrel_quic::sim::hostile`.

pub mod protocol;
