//! What is read from `/proc`, from the broker's `/metrics`, and what is made of it. Reads only.

pub(crate) mod cpu;
pub(crate) mod fit;
pub(crate) mod latency;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod udp;
pub(crate) mod window;
