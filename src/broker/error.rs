//! Why a broker did not start. Each names the way out.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::data_dir::{DataDirError, FileError, TlsError};
use crate::store::StoreError;
use crate::store::maintenance::MaintenanceError;

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file of the data directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The transport keys are damaged.
    #[error("keys/transport.key is damaged: {0}; restore it from a backup")]
    TransportKeys(#[from] petrel_quic::KeysError),
    /// The device socket cannot be had.
    #[error("quic.listen: {0}; choose another address, or port 0 for a free one")]
    Quic(#[from] petrel_quic::BindError),
    /// A TCP socket cannot be had.
    #[error(
        "{key}: cannot listen on {address}: {source}; choose another address, or port 0 for a free one"
    )]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A socket does not know its own address.
    #[error("a socket failed: {0}")]
    Socket(io::Error),
    /// The store is damaged, or has lost what was durable, and nobody accepted the loss.
    #[error(
        "{error}. Nothing was moved or deleted: keep a copy of {copy}. A backup in its place, or an export by `petrel \
         store import FILE`, brings the data back. To go on without what is lost, start once with --accept-loss: what \
         cannot be opened is moved to {copy}.damaged-<time>, and devices that were in it register anew"
    )]
    Damaged {
        /// Where it lies.
        copy: PathBuf,
        /// What is wrong.
        error: StoreError,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What an interrupted compaction left cannot be put right.
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    /// There is no key to seal tokens with.
    #[error("keys/token.key holds no key; restore it from a backup")]
    NoSealingKey,
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; check the limits of processes and memory")]
    Thread(io::Error),
    /// Opening the store panicked.
    #[error(
        "opening the store failed badly; its log says why. Keep the data directory and start with another one"
    )]
    Panicked,
}

/// A drain ended while the store could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the store could not be written to the end; what was answered 200 is safe, the last acks may be asked for again. \
     The log says why: check disk space and permissions, then start again"
)]
pub struct NotDurable;
