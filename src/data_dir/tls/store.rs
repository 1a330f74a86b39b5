//! The certificate that the CA signs for the broker: issued when missing, nearly over, or no longer fitting.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::authority::Authority;
use super::own::certified_key;
use super::{
    DAY, DIRECTORY, TLS_RENEW_BELOW_DAYS, TLS_SERVER_DAYS, TlsError, set_validity, unix_seconds,
};
use crate::data_dir::{DataDir, file};

/// Why a certificate was issued. For the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IssueReason {
    /// There was none, or what belongs to it was missing.
    Missing,
    /// Less than [`TLS_RENEW_BELOW_DAYS`] were left.
    Expiring,
    /// It was for other names.
    NamesChanged,
    /// Another CA had signed it.
    OtherAuthority,
    /// It was damaged, its key belonged to another, or it was not valid yet.
    Unusable,
}

impl fmt::Display for IssueReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there was none",
            Self::Expiring => "it was about to expire",
            Self::NamesChanged => "its names changed",
            Self::OtherAuthority => "another CA had signed it",
            Self::Unusable => "it was damaged or not valid now",
        })
    }
}

/// What is kept about `server.pem`, so that no certificate need be taken apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Issued {
    names: BTreeSet<String>,
    not_after_unix_s: u64,
    ca_sha256: String,
}

/// `tls/` on disk: the CA, and the certificate in force.
pub struct TlsStore {
    directory: PathBuf,
    authority: Authority,
    names: BTreeSet<String>,
    not_after_unix_s: u64,
    current: Arc<CertifiedKey>,
    issued: Option<IssueReason>,
}

impl TlsStore {
    /// Reads `tls/`, making what is missing and issuing what no longer serves.
    ///
    /// The certificate is for `localhost`, `127.0.0.1` and `::1`, for `names`, and for those of `listen` that are one
    /// address and not all of them.
    ///
    /// # Errors
    /// The CA is damaged, a name cannot stand in a certificate, or a file cannot be read or written.
    pub fn load_or_make(
        data_dir: &DataDir,
        names: &[String],
        listen: &[IpAddr],
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let directory = data_dir.make_inside(DIRECTORY)?;
        Self::open(directory, all_names(names, listen), now)
    }

    fn open(
        directory: PathBuf,
        names: BTreeSet<String>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let authority = Authority::load_or_make(&directory, now)?;
        let issued = match load(&directory, &authority, &names, now)? {
            Ok((current, not_after_unix_s)) => (current, not_after_unix_s, None),
            Err(reason) => {
                let (current, not_after_unix_s) = issue(&directory, &authority, &names, now)?;
                (current, not_after_unix_s, Some(reason))
            }
        };
        Ok(Self {
            directory,
            authority,
            names,
            current: issued.0,
            not_after_unix_s: issued.1,
            issued: issued.2,
        })
    }

    /// Reads `tls/` again, for the same names.
    ///
    /// # Errors
    /// As [`TlsStore::load_or_make`]; nothing changes then.
    pub fn reload(&mut self, now: SystemTime) -> Result<(), TlsError> {
        *self = Self::open(self.directory.clone(), self.names.clone(), now)?;
        Ok(())
    }

    /// PEM file that devices must trust.
    #[must_use]
    pub fn ca_path(&self) -> &Path {
        self.authority.path()
    }

    /// Why opening issued a certificate; `None` where the one on disk still serves.
    #[must_use]
    pub fn issued(&self) -> Option<IssueReason> {
        self.issued
    }

    /// The names and addresses of the certificate, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// When the certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.not_after_unix_s)
    }

    /// The certificate in force, with its key.
    #[must_use]
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current)
    }

    /// Issues a certificate if less than [`TLS_RENEW_BELOW_DAYS`] are left. Whether it did.
    ///
    /// # Errors
    /// As [`TlsStore::load_or_make`]; the certificate in force stays.
    pub fn renew_if_due(&mut self, now: SystemTime) -> Result<bool, TlsError> {
        if !is_due(self.not_after_unix_s, now) {
            return Ok(false);
        }
        (self.current, self.not_after_unix_s) =
            issue(&self.directory, &self.authority, &self.names, now)?;
        Ok(true)
    }
}

impl fmt::Debug for TlsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStore")
            .field("directory", &self.directory)
            .field("names", &self.names)
            .field("not_after_unix_s", &self.not_after_unix_s)
            .finish_non_exhaustive()
    }
}

fn is_due(not_after_unix_s: u64, now: SystemTime) -> bool {
    not_after_unix_s < unix_seconds(now) + TLS_RENEW_BELOW_DAYS * DAY.as_secs()
}

fn all_names(names: &[String], listen: &[IpAddr]) -> BTreeSet<String> {
    let always = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let specific = listen
        .iter()
        .filter(|ip| !ip.is_unspecified())
        .map(|ip| ip.to_canonical().to_string());
    always
        .into_iter()
        .chain(names.iter().cloned())
        .chain(specific)
        .collect()
}

/// The certificate on disk and its end, or why another must be issued.
fn load(
    directory: &Path,
    authority: &Authority,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<Result<(Arc<CertifiedKey>, u64), IssueReason>, TlsError> {
    let (chain, key, issued) = (
        file::read(&directory.join("server.pem"))?,
        file::read(&directory.join("server.key"))?,
        file::read(&directory.join("server.json"))?,
    );
    let (Some(chain), Some(key), Some(issued)) = (chain, key, issued) else {
        return Ok(Err(IssueReason::Missing));
    };
    let Ok(issued) = serde_json::from_slice::<Issued>(&issued) else {
        return Ok(Err(IssueReason::Unusable));
    };
    if issued.ca_sha256 != authority.fingerprint() {
        return Ok(Err(IssueReason::OtherAuthority));
    }
    if issued.names != *names {
        return Ok(Err(IssueReason::NamesChanged));
    }
    if is_due(issued.not_after_unix_s, now) {
        return Ok(Err(IssueReason::Expiring));
    }
    let usable = certified_key(&chain, &key)
        .ok()
        .filter(|certified| verify(certified, authority, names, now).is_ok());
    Ok(usable
        .map(|certified| (Arc::new(certified), issued.not_after_unix_s))
        .ok_or(IssueReason::Unusable))
}

/// Judges a certificate as a device would.
fn verify(
    certified: &CertifiedKey,
    authority: &Authority,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate.clone())
        .map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let end_entity = certified
        .end_entity_cert()
        .map_err(|error| error.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds(now)));
    for name in names {
        // A wildcard is no name that anybody connects to; one below it is.
        let name = name.replace('*', "x");
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        verifier
            .verify_server_cert(end_entity, &[], &name, &[], now)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Signs a certificate with a new key and writes both. The certificate alone is sent: a device has the CA.
fn issue(
    directory: &Path,
    authority: &Authority,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, u64), TlsError> {
    let refused = |error: rcgen::Error| TlsError::Issue {
        names: names.iter().cloned().collect::<Vec<_>>().join(", "),
        reason: error.to_string(),
    };
    let mut params =
        CertificateParams::new(names.iter().cloned().collect::<Vec<_>>()).map_err(refused)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Petrel broker");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let (start, seconds) = (unix_seconds(now), TLS_SERVER_DAYS * DAY.as_secs());
    set_validity(&mut params, start, seconds);

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refused)?;
    let signed = params
        .signed_by(&key, authority.issuer())
        .map_err(refused)?;
    let (chain, key) = (signed.pem(), Zeroizing::new(key.serialize_pem()));
    let certified = certified_key(chain.as_bytes(), key.as_bytes())
        .map_err(|fault| TlsError::authority(authority.path(), fault.reason))?;
    verify(&certified, authority, names, now).map_err(|reason| {
        let reason = format!("what ca.key signs is not valid under it: {reason}");
        TlsError::authority(authority.path(), reason)
    })?;

    let issued = Issued {
        names: names.clone(),
        not_after_unix_s: start + seconds,
        ca_sha256: authority.fingerprint(),
    };
    // Strings and numbers always serialize. Written last: after a crash in between, key and certificate do not match
    // and are issued anew.
    let json = serde_json::to_vec(&issued).unwrap_or_default();
    file::write(&directory.join("server.key"), key.as_bytes())?;
    file::write(&directory.join("server.pem"), chain.as_bytes())?;
    file::write(&directory.join("server.json"), &json)?;
    Ok((Arc::new(certified), issued.not_after_unix_s))
}
