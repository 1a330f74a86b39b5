//! TLS whose QUIC keys wear out soon.
//!
//! s2n-quic has no call for a key update: it makes one by itself when the confidentiality limit of the keys is near
//! (RFC 9001 section 6.6), and asks the cryptography for that limit. So the cipher suites here are rustls's own, except
//! that they name a limit which a few packets reach.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use petrel_protocol::ALPN;
use petrel_protocol::limits::SECRET_BYTES;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, Tls13CipherSuite};

/// s2n-quic updates keys when so many packets are left until the limit (its `KEY_UPDATE_WINDOW`).
const UPDATE_WINDOW_PACKETS: u64 = 10_000;

/// How many packets one set of keys encrypts. Enough that the round trips of one update are over before the next.
const PACKETS_PER_KEY: u64 = 100;

/// A client's TLS that trusts the authority in a file and nobody else.
pub(crate) fn config(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = provider
        .cipher_suites
        .into_iter()
        .filter_map(with_short_lived_keys)
        .collect();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A new secret for a registration (PROTO-14).
pub(crate) fn random_bytes() -> Result<[u8; SECRET_BYTES]> {
    let mut bytes = [0; SECRET_BYTES];
    let CryptoProvider { secure_random, .. } = aws_lc_rs::default_provider();
    secure_random
        .fill(&mut bytes)
        .map_err(|_| anyhow!("no random bytes"))?;
    Ok(bytes)
}

/// The suite with other QUIC keys. rustls wants it for as long as the process lives, hence the leaks; a process has one
/// device.
fn with_short_lived_keys(suite: SupportedCipherSuite) -> Option<SupportedCipherSuite> {
    let suite = suite.tls13()?;
    let quic: &'static dyn Algorithm = Box::leak(Box::new(ShortLived(suite.quic?)));
    let suite = Tls13CipherSuite {
        common: CipherSuiteCommon { ..suite.common },
        quic: Some(quic),
        ..*suite
    };
    Some(SupportedCipherSuite::Tls13(Box::leak(Box::new(suite))))
}

struct ShortLived(&'static dyn Algorithm);

impl Algorithm for ShortLived {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        Box::new(ShortLivedKey(self.0.packet_key(key, iv)))
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        self.0.header_protection_key(key)
    }

    fn aead_key_len(&self) -> usize {
        self.0.aead_key_len()
    }
}

struct ShortLivedKey(Box<dyn PacketKey>);

impl PacketKey for ShortLivedKey {
    fn encrypt_in_place(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &mut [u8],
    ) -> Result<Tag, rustls::Error> {
        self.0.encrypt_in_place(packet_number, header, payload)
    }

    fn decrypt_in_place<'a>(
        &self,
        packet_number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], rustls::Error> {
        self.0.decrypt_in_place(packet_number, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        UPDATE_WINDOW_PACKETS + PACKETS_PER_KEY
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}
