//! `tls/`: the broker's own CA, and the certificate that it signs for the broker's listeners.
//!
//! ```text
//! ca.pem, ca.key          made once, for 10 years; devices trust it, so it is never replaced
//! server.pem, server.key  for 90 days; issued anew whenever they no longer serve
//! server.json             what server.pem says: names, end, CA
//! ```
//!
//! [`TlsStore`] is the side on disk, [`ServerCertificate`] what the listeners hold: its certificate can be swapped
//! while they run. Where the configuration names PEM files of the operator's own, `tls/` is not touched.

mod authority;
mod certificate;
mod error;
mod own;
mod store;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use rcgen::CertificateParams;

pub use certificate::ServerCertificate;
pub use error::TlsError;
pub use store::{IssueReason, TlsStore};

pub(crate) const DIRECTORY: &str = "tls";

/// Days that the CA is valid: longer than an app that was built with it stays installed.
pub const TLS_CA_DAYS: u64 = 3653;
/// Days that a certificate of the broker is valid.
pub const TLS_SERVER_DAYS: u64 = 90;
/// A certificate with less than so many days left is issued anew.
pub const TLS_RENEW_BELOW_DAYS: u64 = 30;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Seconds since 1970; 0 before. Kept below the year 9900, so that any validity added to it can be written.
fn unix_seconds(now: SystemTime) -> u64 {
    const SECONDS_MAX: u64 = 250_000_000_000;
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().min(SECONDS_MAX))
}

/// Valid for `seconds`, and a day before, for devices whose clock is behind.
fn set_validity(params: &mut CertificateParams, start_unix_s: u64, seconds: u64) {
    let date = |unix_s| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s);
    params.not_before = date(start_unix_s.saturating_sub(DAY.as_secs()));
    params.not_after = date(start_unix_s + seconds);
}
