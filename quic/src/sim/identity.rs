//! Certificates, keys and configurations for tests.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{ClientSetup, Engine, Limits, ServerSetup, ShardConfig, ShardIndex, TransportKeys};

/// The name in every test certificate.
pub const SERVER_NAME: &str = "localhost";

/// The ALPN name that [`Identity::new`] uses on both sides.
pub const TEST_ALPN: &[u8] = b"petrel-test";

/// A server's certificate and persistent keys, and what its clients need to trust it.
///
/// The signature scheme is Ed25519: its signatures have a fixed length, so that runs repeat exactly.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    /// What outlives a restart. Replace it to play a server that lost its data directory.
    pub keys: Arc<TransportKeys>,
    /// Limits of every configuration made from here on.
    pub limits: Limits,
    /// Who serves the connections of every configuration made from here on.
    pub engine: Engine,
    /// Application protocols of both sides.
    pub alpn: Vec<Vec<u8>>,
}

impl Identity {
    /// A new self-signed certificate for [`SERVER_NAME`], new keys, default limits.
    ///
    /// # Panics
    ///
    /// If the certificate cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("an Ed25519 key can be made");
        let cert = CertificateParams::new(vec![SERVER_NAME.to_owned()])
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate for a valid name can be made");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signer = rustls::crypto::ring::sign::any_supported_type(&key)
            .expect("ring can sign with an Ed25519 key");
        Self {
            certified: Arc::new(CertifiedKey::new(vec![cert.der().clone()], signer)),
            keys: Arc::new(TransportKeys::generate()),
            limits: Limits::default(),
            engine: Engine::default(),
            alpn: vec![TEST_ALPN.to_vec()],
        }
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    /// Certificate and signing key, for a resolver of one's own.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// A server with this identity.
    #[must_use]
    pub fn server_config(&self) -> ShardConfig {
        let resolver = SingleCertAndKey::from(Arc::clone(&self.certified));
        let server = ServerSetup {
            cert_resolver: Arc::new(resolver),
            alpn: self.alpn.clone(),
        };
        ShardConfig {
            server: Some(server),
            ..self.client_config()
        }
    }

    /// A host that takes no connections.
    #[must_use]
    pub fn client_config(&self) -> ShardConfig {
        ShardConfig {
            server: None,
            keys: Arc::clone(&self.keys),
            limits: self.limits.clone(),
            shard: ShardIndex::SINGLE,
            engine: self.engine,
        }
    }

    /// TLS for a client that trusts this identity and nobody else. It remembers session tickets.
    ///
    /// # Panics
    ///
    /// If the certificate cannot be trusted.
    #[must_use]
    pub fn client_tls(&self) -> rustls::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certificate().clone())
            .expect("a certificate that was just made can be read");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols.clone_from(&self.alpn);
        tls
    }

    /// A client of this identity.
    ///
    /// # Panics
    ///
    /// If the limits are out of bounds.
    #[must_use]
    pub fn client_setup(&self) -> ClientSetup {
        ClientSetup::new(Arc::new(self.client_tls()), &self.limits)
            .expect("the configuration of a test works")
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}
