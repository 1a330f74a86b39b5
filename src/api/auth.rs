//! Bearer keys in request headers.
//!
//! Neither a key nor anything derived from it leaves this file, except to the room that knows whose it is.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};

/// Longest key that is looked at, in bytes: above what the configuration allows for a key.
const KEY_BYTES_MAX: usize = 512;

/// The key of a request: exactly one `Authorization` header with the scheme `Bearer` (RFC 6750 section 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let key = key.trim_matches(' ');
    let is_key = scheme.eq_ignore_ascii_case("bearer")
        && (1..=KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_graphic());
    is_key.then_some(key)
}

/// The operator's key to calls that change something. Kept as a hash, so that comparing takes the same time however
/// much of a wrong key is right.
#[derive(Clone)]
pub struct AdminKey([u8; 32]);

impl AdminKey {
    /// Keeps the hash of a key.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(sha256(key))
    }

    pub(super) fn opens(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|key| sha256(key) == self.0)
    }
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|v| HeaderValue::from_str(v).unwrap());
        values.map(|v| (AUTHORIZATION, v)).collect()
    }

    #[test]
    fn one_header_with_the_scheme_bearer() {
        let longest = format!("Bearer {}", "k".repeat(KEY_BYTES_MAX));
        for (values, key) in [
            (vec!["Bearer abc-123"], Some("abc-123")),
            (vec!["bearer  abc "], Some("abc")),
            (vec![longest.as_str()], Some(&longest["Bearer ".len()..])),
            (vec![&format!("{longest}k")], None),
            (vec!["Bearer a", "Bearer a"], None),
            (vec!["Basic abc"], None),
            (vec!["Bearer"], None),
            (vec!["Bearer "], None),
            (vec!["Bearer a b"], None),
            (vec!["abc"], None),
            (vec![], None),
        ] {
            assert_eq!(bearer(&headers(&values)), key, "{values:?}");
        }
    }

    #[test]
    fn the_admin_key_opens_and_is_not_shown() {
        let key = AdminKey::new("the right one");
        assert!(!key.opens(&headers(&["Bearer the wrong one"])));
        let key = AdminKey::new("right");
        assert!(key.opens(&headers(&["Bearer right"])));
        assert!(!key.opens(&headers(&["Bearer righ"])) && !key.opens(&headers(&[])));
        assert_eq!(format!("{key:?}"), "AdminKey(…)");
    }
}
