//! The broker's own CA. Made once; what devices were told to trust is never replaced.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::own::certified_key;
use super::{DAY, TLS_CA_DAYS, TlsError, set_validity, unix_seconds};
use crate::data_dir::file;

/// A CA that signs.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl Authority {
    /// Reads the CA of a `tls/` directory, or makes it where neither file is there.
    ///
    /// The key is written first: `ca.key` alone is what a crash at the first start leaves, or an operator who deleted
    /// `ca.pem`. Both are healed by writing `ca.pem` again: name and key are the same, so whoever trusts an earlier
    /// one trusts this one.
    pub(crate) fn load_or_make(directory: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let path = directory.join("ca.pem");
        let key_path = directory.join("ca.key");
        let (certificate_pem, key_pem) = (file::read(&path)?, file::read(&key_path)?);
        let key = match (&key_pem, &certificate_pem) {
            (Some(pem), _) => parse_key(pem)
                .ok_or_else(|| TlsError::authority(&key_path, "it holds no P-256 key"))?,
            (None, Some(_)) => {
                return Err(TlsError::authority(
                    &key_path,
                    "it is missing, while ca.pem is there",
                ));
            }
            (None, None) => make_key(&key_path)?,
        };
        let params = params(&key, now);
        let certificate = match certificate_pem {
            Some(pem) => matching(&path, &pem, &key)?,
            None => {
                let made = params
                    .self_signed(&key)
                    .map_err(|error| TlsError::authority(&path, error.to_string()))?;
                file::write(&path, made.pem().as_bytes())?;
                made.der().clone()
            }
        };
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
            path,
        })
    }

    /// PEM file that devices must trust.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// SHA-256 of the certificate, in hexadecimal.
    pub(crate) fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.certificate).as_ref())
    }
}

/// The certificate of `ca.pem`, known to be of this key: otherwise the next renewal would fail, months later.
fn matching(path: &Path, pem: &[u8], key: &KeyPair) -> Result<CertificateDer<'static>, TlsError> {
    let key_pem = Zeroizing::new(key.serialize_pem());
    let certified = certified_key(pem, key_pem.as_bytes()).map_err(|fault| {
        let reason = match fault.is_key {
            true => "it and ca.key do not belong together".to_owned(),
            false => fault.reason,
        };
        TlsError::authority(path, reason)
    })?;
    match certified.cert.into_iter().next() {
        Some(certificate) => Ok(certificate),
        None => Err(TlsError::authority(
            path,
            "it holds no certificate in PEM form",
        )),
    }
}

fn make_key(path: &Path) -> Result<KeyPair, TlsError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| TlsError::authority(path, format!("no key can be made: {error}")))?;
    let pem = Zeroizing::new(key.serialize_pem());
    file::write(path, pem.as_bytes())?;
    Ok(key)
}

fn parse_key(pem: &[u8]) -> Option<KeyPair> {
    let text = std::str::from_utf8(pem).ok()?;
    KeyPair::from_pem_and_sign_algo(text, &PKCS_ECDSA_P256_SHA256).ok()
}

/// The CA's certificate but for key and signature. Its name follows from the key, so that it need not be read back
/// from `ca.pem`, and the CAs of two brokers in one trust store have different names.
fn params(key: &KeyPair, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let fingerprint = digest(&SHA256, &key.subject_public_key_info());
    let short: String = hex(fingerprint.as_ref()).chars().take(16).collect();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Petrel CA {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, unix_seconds(now), TLS_CA_DAYS * DAY.as_secs());
    params
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
