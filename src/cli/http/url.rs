//! The parts of a broker's URL that a connection and its requests need.

use hyper::Uri;

use super::HttpError;

/// A broker's URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) text: String,
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// As the `Host` header wants it.
    pub(super) authority: String,
    /// Path without a slash at its end.
    pub(super) prefix: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, HttpError> {
        let bad = |problem| HttpError::Url {
            url: text.to_owned(),
            problem,
        };
        let uri: Uri = text.parse().map_err(|_| bad("it is not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad("it holds more than scheme, host, port and path"));
        }
        let host = authority.host();
        Ok(Self {
            text: text.to_owned(),
            is_tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, is_tls, host, port, authority, prefix) in [
            (
                "http://127.0.0.1:7480",
                false,
                "127.0.0.1",
                7480,
                "127.0.0.1:7480",
                "",
            ),
            (
                "https://push.example.org/",
                true,
                "push.example.org",
                443,
                "push.example.org",
                "",
            ),
            (
                "https://[::1]:7443/a/b/",
                true,
                "::1",
                7443,
                "[::1]:7443",
                "/a/b",
            ),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(
                (
                    url.is_tls,
                    &*url.host,
                    url.port,
                    &*url.authority,
                    &*url.prefix
                ),
                (is_tls, host, port, authority, prefix)
            );
        }
        for text in [
            "",
            "127.0.0.1:7480",
            "ftp://a",
            "http://u:p@h",
            "http://h/?q",
            "http://",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}
