//! The certificate that the listeners show. Swapped while they run; connections that exist keep what they saw.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{TlsError, TlsStore, own};
use crate::config;
use crate::data_dir::DataDir;

/// Where the certificate comes from.
enum Source {
    /// Issued by the broker's own CA.
    Made(Box<TlsStore>),
    /// The operator's files.
    Own { certificate: PathBuf, key: PathBuf },
}

/// The certificate in force: a resolver for as many TLS and QUIC listeners as hold it. It has one certificate and
/// shows it under every name.
pub struct ServerCertificate {
    current: ArcSwap<CertifiedKey>,
    /// Locked while a certificate is issued or read, never by a handshake.
    source: Mutex<Source>,
    ca: PathBuf,
}

impl ServerCertificate {
    /// The certificate that the configuration asks for: the operator's files, or one of the broker's own for `listen`
    /// and `tls.names`.
    ///
    /// # Errors
    /// As [`TlsStore::load_or_make`] and [`ServerCertificate::own`].
    pub fn open(
        data_dir: &DataDir,
        tls: &config::Tls,
        listen: &[IpAddr],
        now: SystemTime,
    ) -> Result<Arc<Self>, TlsError> {
        match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Self::own(certificate.clone(), key.clone()),
            _ => TlsStore::load_or_make(data_dir, &tls.names, listen, now).map(Self::made),
        }
    }

    /// A certificate that the broker issues itself.
    #[must_use]
    pub fn made(store: TlsStore) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::new(store.current()),
            ca: store.ca_path().to_owned(),
            source: Mutex::new(Source::Made(Box::new(store))),
        })
    }

    /// A certificate of the operator's own: two PEM files, the first with the chain, the broker's certificate first.
    ///
    /// # Errors
    /// A file cannot be read, is not PEM, or the two do not belong together.
    pub fn own(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            current: ArcSwap::new(own::load(&certificate, &key)?),
            ca: certificate.clone(),
            source: Mutex::new(Source::Own { certificate, key }),
        }))
    }

    /// The PEM file to hand to devices: the CA, or with files of the operator's own their chain, of which devices
    /// must trust a signer.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.ca.clone()
    }

    /// The certificate in force, with its key.
    #[must_use]
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.current.load_full()
    }

    /// Issues and shows a new certificate if the broker's own is about to expire. Whether it did. Call it once a day
    /// or more often. Writes files.
    ///
    /// # Errors
    /// As [`TlsStore::renew_if_due`]; the certificate in force stays.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, TlsError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Source::Made(store) = &mut *source else {
            return Ok(false);
        };
        let is_new = store.renew_if_due(now)?;
        if is_new {
            self.current.store(store.current());
        }
        Ok(is_new)
    }

    /// Reads the files again, as a start does, and shows what they hold. Whether that is another certificate. Those of
    /// the broker's own are issued anew where they no longer serve. Reads files, and may write some.
    ///
    /// # Errors
    /// As [`ServerCertificate::open`]; the certificate in force stays.
    pub fn reload(&self, now: SystemTime) -> Result<bool, TlsError> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match &mut *source {
            Source::Made(store) => {
                store.reload(now)?;
                store.current()
            }
            Source::Own { certificate, key } => own::load(certificate, key)?,
        };
        let is_new = read.cert != self.current.load().cert;
        self.current.store(read);
        Ok(is_new)
    }

    /// The TLS side of a listener that speaks the given protocols, the preferred one first.
    ///
    /// # Errors
    /// The TLS library refuses its own parameters.
    pub fn server_config(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("ca", &self.ca)
            .finish_non_exhaustive()
    }
}
