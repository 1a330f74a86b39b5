//! PEM files of the operator's own, and certificates with their keys in general.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::TlsError;
use crate::data_dir::{FileError, file};

/// What is wrong with a pair of certificate and key, and with which of them.
pub(crate) struct Fault {
    pub(crate) is_key: bool,
    pub(crate) reason: String,
}

/// Reads the operator's files.
pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let own = |is_key: bool, reason: String| TlsError::Own {
        path: if is_key { key } else { certificate }.to_owned(),
        reason,
        key: if is_key { "tls.key" } else { "tls.certificate" },
    };
    let read = |is_key: bool| match file::read(if is_key { key } else { certificate }) {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(own(is_key, "there is no such file".to_owned())),
        Err(FileError::Read { source, .. }) => {
            Err(own(is_key, format!("it cannot be read: {source}")))
        }
        Err(error) => Err(error.into()),
    };
    let (chain_pem, key_pem) = (read(false)?, read(true)?);
    certified_key(&chain_pem, &key_pem)
        .map(Arc::new)
        .map_err(|fault| own(fault.is_key, fault.reason))
}

/// A certificate with its chain and its key, the two known to belong together.
pub(crate) fn certified_key(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, Fault> {
    let fault = |is_key: bool, reason: String| Fault { is_key, reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| fault(false, format!("it is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(fault(
            false,
            "it holds no certificate in PEM form".to_owned(),
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
        pem::Error::NoItemsFound => fault(
            true,
            "it holds no private key in PEM form, or an encrypted one".to_owned(),
        ),
        error => fault(true, format!("it is not PEM: {error}")),
    })?;
    let provider = rustls::crypto::ring::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| fault(true, format!("its key cannot be used: {error}")))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(fault(
            true,
            "it is the key of another certificate".to_owned(),
        )),
        Err(error) => Err(fault(
            false,
            format!("its first certificate cannot be used: {error}"),
        )),
    }
}
