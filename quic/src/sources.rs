//! How many new handshakes each source may begin a second.
//!
//! A source is an IPv4 address or an IPv6 /56: what one customer of a network has. Only new handshakes count, since
//! carriers put tens of thousands of devices behind one address. Sources that have proven their address have a count of
//! their own, so that somebody who forges an address cannot use up what its owner needs.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::{Duration, Instant},
};

use thiserror::Error;

/// Sources counted at once. Further ones of the same second share one count, as if they were one.
const SOURCES_MAX: usize = 65_536;

/// Counts are kept for so long.
const WINDOW: Duration = Duration::from_secs(1);

/// A range of addresses, such as `10.0.0.0/8` or `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// IPv4 in its mapped form, so that both kinds are compared alike.
    bits: u128,
    prefix: u8,
}

/// A text that names no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no range of addresses: write one such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NetworkError(String);

fn bits(ip: IpAddr) -> u128 {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    u128::from(ip)
}

fn mask(prefix: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix))
        .unwrap_or_default()
}

impl Network {
    fn contains(self, ip: IpAddr) -> bool {
        bits(ip) & mask(self.prefix) == self.bits
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Ipv6Addr::from(self.bits).to_canonical() {
            ip @ IpAddr::V4(_) if self.prefix >= 96 => write!(f, "{ip}/{}", self.prefix - 96),
            _ => write!(f, "{}/{}", Ipv6Addr::from(self.bits), self.prefix),
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// An address alone stands for itself. Bits beyond the prefix have to be zero.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parse = || {
            let (ip, prefix) = text
                .split_once('/')
                .map_or((text, None), |(a, b)| (a, Some(b)));
            let ip: IpAddr = ip.parse().ok()?;
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            let prefix = match prefix {
                Some(prefix) => prefix.parse().ok().filter(|p| *p <= longest)?,
                None => longest,
            };
            let prefix = prefix + (128 - longest);
            let bits = bits(ip);
            (bits & mask(prefix) == bits).then_some(Self { bits, prefix })
        };
        parse().ok_or_else(|| NetworkError(text.to_owned()))
    }
}

/// Counts of this second.
#[derive(Debug)]
pub(crate) struct Sources {
    per_second: u32,
    exempt: Vec<Network>,
    window_began: Instant,
    /// Handshakes begun by source and by whether its address was proven.
    counts: HashMap<(u128, bool), u32>,
}

impl Sources {
    pub(crate) fn new(per_second: u32, exempt: Vec<Network>, now: Instant) -> Self {
        Self {
            per_second,
            exempt,
            window_began: now,
            counts: HashMap::new(),
        }
    }

    /// Counts a handshake. False if the source has begun too many in this second.
    pub(crate) fn take(&mut self, now: Instant, ip: IpAddr, is_proven: bool) -> bool {
        if self.exempt.iter().any(|network| network.contains(ip)) {
            return true;
        }
        if now.saturating_duration_since(self.window_began) >= WINDOW {
            self.window_began = now;
            // A burst of many sources gives its memory back.
            if self.counts.capacity() > 4096 {
                self.counts = HashMap::new();
            }
            self.counts.clear();
        }
        let mut source = (source_of(ip), is_proven);
        if self.counts.len() >= SOURCES_MAX && !self.counts.contains_key(&source) {
            source.0 = u128::from(Ipv6Addr::UNSPECIFIED);
        }
        let count = self.counts.entry(source).or_insert(0);
        if *count >= self.per_second {
            return false;
        }
        *count += 1;
        true
    }
}

/// The address for IPv4, the first 56 bits for IPv6.
fn source_of(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        ip @ IpAddr::V4(_) => bits(ip),
        ip @ IpAddr::V6(_) => bits(ip) & mask(56),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_source_has_its_own_count() {
        let now = Instant::now();
        let mut sources = Sources::new(3, Vec::new(), now);
        for (address, allowed) in [
            ("192.0.2.1", 3),
            ("192.0.2.2", 3),
            ("2001:db8:0:aa::1", 3),
            // The same /56.
            ("2001:db8:0:a0::2", 0),
            ("2001:db8:0:1aa::1", 3),
        ] {
            let count = (0..10)
                .filter(|_| sources.take(now, ip(address), false))
                .count();
            assert_eq!(count, allowed, "{address}");
        }
        assert!(sources.take(now + WINDOW, ip("192.0.2.1"), false));
    }

    #[test]
    fn forgers_do_not_use_up_what_the_owner_needs() {
        let now = Instant::now();
        let mut sources = Sources::new(5, Vec::new(), now);
        while sources.take(now, ip("192.0.2.1"), false) {}
        assert!(sources.take(now, ip("192.0.2.1"), true));
    }

    #[test]
    fn sources_beyond_the_bound_share_one_count() {
        let now = Instant::now();
        let mut sources = Sources::new(2, Vec::new(), now);
        for number in 0..SOURCES_MAX as u32 {
            assert!(sources.take(now, IpAddr::V4(number.into()), false));
        }
        let more =
            (0..10).filter(|n| sources.take(now, IpAddr::V4((0x0a00_0000u32 + n).into()), false));
        assert_eq!(more.count(), 2);
        assert!(sources.counts.len() <= SOURCES_MAX + 1);
    }

    #[test]
    fn exempt_networks_are_not_counted() {
        let now = Instant::now();
        let exempt = ["10.0.0.0/8", "2001:db8::/32"].map(|n| n.parse().unwrap());
        let mut sources = Sources::new(1, exempt.to_vec(), now);
        for address in ["10.200.3.4", "::ffff:10.1.1.1", "2001:db8:7::1"] {
            assert!((0..10).all(|_| sources.take(now, ip(address), false)));
        }
        assert!(sources.take(now, ip("11.0.0.1"), false));
        assert!(!sources.take(now, ip("11.0.0.1"), false));
    }

    #[test]
    fn texts_that_name_no_network() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "2001:db8::/129",
            "ten/8",
            "1.2.3.4/",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
    }
}
