//! The public URL: where devices and publishers outside reach the broker.
//!
//! Every URL that the broker hands out begins with it; none is ever made from a request's `Host`.

use std::fmt;

/// `http(s)://host[:port][/path]`, without a slash at its end, user name, query or fragment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PublicUrl(Box<str>);

impl PublicUrl {
    /// Reads a URL; `None` where it is not one of the allowed form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_path = path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b));
        (is_authority(authority) && is_path).then(|| Self(text.trim_end_matches('/').into()))
    }

    /// The text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, port)) if ip.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let is_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    is_host && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_forms() {
        let check = |text: &str, expect: Option<&str>| {
            let url = PublicUrl::parse(text);
            assert_eq!(url.as_ref().map(PublicUrl::as_str), expect, "{text}");
        };
        check("https://push.example.org", Some("https://push.example.org"));
        check(
            "https://push.example.org/",
            Some("https://push.example.org"),
        );
        check(
            "http://[::1]:7480/petrel/",
            Some("http://[::1]:7480/petrel"),
        );
        check("https://127.0.0.1:7443", Some("https://127.0.0.1:7443"));
        check("push.example.org", None);
        check("ftp://push.example.org", None);
        check("https://", None);
        check("https://user:word@push.example.org", None);
        check("https://push.example.org?x=1", None);
        check("https://push.example.org/#top", None);
        check("https://push.example.org:0", None);
        check("https://push.example.org:99999", None);
        check("https://[::1", None);
        check("https://a b", None);
    }
}
