//! Whom the device trusts: the CA given, and nobody else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::error::{CaName, Cause, CauseKind, StartError};

/// Where the CA's certificates come from.
#[derive(Clone, Debug)]
pub(crate) enum Ca {
    File(PathBuf),
    Pem(Vec<u8>),
}

/// The TLS side of every connection of one client.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<QuicClientConfig>,
    verifier: Arc<Verifier>,
    /// Empty where the CA came as bytes.
    ca: PathBuf,
}

impl Tls {
    pub(crate) fn new(ca: &Ca) -> Result<Self, StartError> {
        let (path, pem) = match ca {
            Ca::Pem(pem) => (PathBuf::new(), pem.clone()),
            Ca::File(path) => {
                let pem = std::fs::read(path).map_err(|e| broken(path, e.to_string()))?;
                (path.clone(), pem)
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate =
                certificate.map_err(|e| broken(&path, format!("is not PEM ({e:?})")))?;
            roots
                .add(certificate)
                .map_err(|e| broken(&path, format!("holds a certificate that is none ({e})")))?;
        }
        if roots.is_empty() {
            return Err(broken(&path, "holds no certificate".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|e| broken(&path, e.to_string()))?;
        let verifier = Arc::new(Verifier {
            inner,
            refused: Mutex::new(None),
        });
        Ok(Self {
            config: Arc::new(
                config(provider, Arc::clone(&verifier)).map_err(|e| broken(&path, e))?,
            ),
            verifier,
            ca: path,
        })
    }

    /// Why the last certificate was refused, if one was since the last call.
    pub(crate) fn take_refusal(&self, broker: &str) -> Option<Cause> {
        let mut refused = lock(&self.verifier.refused);
        refused.take().map(|error| self.explain(broker, &error))
    }

    fn explain(&self, broker: &str, error: &CertificateError) -> Cause {
        let ca = CaName(&self.ca);
        match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Cause::new(
                CauseKind::CertificateTime,
                format!(
                    "the certificate of {broker} is not valid now ({error}): check the clocks of device and broker"
                ),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Cause::new(
                    CauseKind::Certificate,
                    format!(
                        "the certificate of {broker} is not for this name ({error}): connect by a name that it holds, \
                         or add the name at the broker (petrel serve --name)"
                    ),
                )
            }
            _ => Cause::new(
                CauseKind::Certificate,
                format!(
                    "the certificate of {broker} is not signed by {ca} ({error}). If the broker got a new CA, copy \
                     its tls/ca.pem here; if not, this is not your broker"
                ),
            ),
        }
    }
}

fn config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
) -> Result<QuicClientConfig, String> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // PROTO-1: our ALPN name, and no 0-RTT (off by default).
    config.alpn_protocols = vec![petrel_protocol::ALPN.to_vec()];
    // One broker, so a ticket for now and one for later; the default store is sized for a browser.
    config.resumption = Resumption::in_memory_sessions(2);
    QuicClientConfig::try_from(config).map_err(|e| e.to_string())
}

fn broken(path: &Path, problem: String) -> StartError {
    StartError::Ca {
        path: path.to_path_buf(),
        problem,
    }
}

/// WebPKI's verifier, which also remembers why it refused: QUIC passes on an alert number only.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    refused: Mutex<Option<CertificateError>>,
}

fn lock(
    refused: &Mutex<Option<CertificateError>>,
) -> std::sync::MutexGuard<'_, Option<CertificateError>> {
    refused.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|error| {
                if let Error::InvalidCertificate(reason) = error {
                    *lock(&self.refused) = Some(reason.clone());
                }
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ca_files_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let error = |content: Option<&str>| {
            if let Some(text) = content {
                std::fs::write(&path, text).unwrap();
            }
            Tls::new(&Ca::File(path.clone())).err().unwrap().to_string()
        };
        for content in [
            None,
            Some(""),
            Some("no PEM at all"),
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ] {
            let text = error(content);
            assert!(text.contains(path.to_str().unwrap()), "{text}");
        }
    }
}
