//! Petrel: a self-hosted push provider. Devices over QUIC, publishers over HTTP, nothing lost.
//!
//! This is the broker. Its rooms, each of which imports only what stands before it:
//! [`config`], [`telemetry`] (leaves); [`data_dir`]; [`store`], [`presence`]; [`directory`]; [`delivery`]; [`fanout`];
//! [`shard`], [`api`]; [`broker`]. The commands of the binary are in [`cli`]. `ARCHITECTURE.md` is the map.

#[cfg(not(target_os = "linux"))]
compile_error!("Petrel runs on Linux: its data plane uses Linux's UDP socket interfaces");

pub mod api;
pub mod broker;
pub mod cli;
pub mod config;
pub mod data_dir;
pub mod delivery;
pub mod directory;
pub mod fanout;
pub mod presence;
pub mod shard;
pub mod store;
pub mod telemetry;
