//! What can go wrong with certificates. Every message names the file and the way out.

use std::path::{Path, PathBuf};

use crate::data_dir::FileError;

/// Why the broker has no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The CA cannot be used. Devices trust it, so it is not replaced.
    #[error(
        "{}: {reason}; restore tls/ca.pem and tls/ca.key from a backup; deleting both makes a new CA, and every device \
         must be given the new ca.pem",
        path.display()
    )]
    Authority {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate cannot be issued: a name that cannot stand in one.
    #[error("no certificate can be made for {names}: {reason}; correct tls.names")]
    Issue {
        /// The names asked for.
        names: String,
        /// Why.
        reason: String,
    },
    /// A PEM file of the operator's own cannot be used.
    #[error("{}: {reason}; correct the file, or {key} in the configuration", path.display())]
    Own {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The key of the configuration that names it.
        key: &'static str,
    },
    /// The TLS library refuses its own parameters.
    #[error("TLS cannot be set up: {0}; this is a fault of the broker, please report it")]
    Setup(rustls::Error),
}

impl TlsError {
    pub(crate) fn authority(path: &Path, reason: impl Into<String>) -> Self {
        Self::Authority {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
