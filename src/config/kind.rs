//! Kinds: what a key may hold, within which bounds, and what to write instead of what it may not.
//!
//! Knows no key: the table of keys gives each its kind. Every bound is inclusive, and none of them is 0 or below for
//! "off".

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Cause;
use super::url::PublicUrl;
use super::value::{ByteSize, DURATION_UNITS, DurationText, Raw, SIZE_UNITS, Value, quoted};

/// What a key may hold, with its bounds. Bounds are inclusive.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// IP address and port. Port 0 picks a free one.
    Address,
    /// `true` or `false`.
    Switch,
    /// A whole number of something.
    Count {
        /// What is counted.
        unit: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A size in bytes, with a unit.
    Size {
        /// The least, in bytes.
        min: u64,
        /// The most, in bytes.
        max: u64,
    },
    /// A duration, with a unit.
    Span {
        /// The least, in milliseconds.
        min_ms: u64,
        /// The most, in milliseconds.
        max_ms: u64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// A path of the file system; relative ones start at the working directory.
    Path,
    /// An `http` or `https` URL without query.
    Url,
    /// Host names and IP addresses.
    Names,
    /// Ranges of IP addresses.
    Networks,
    /// Secret keys of a project.
    Secrets,
}

impl Kind {
    /// The unit, as the reference file states it.
    #[must_use]
    pub fn unit(&self) -> String {
        match self {
            Self::Address => "IP:port".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Count { unit, min, max } => format!("{unit}, {min} to {max}"),
            Self::Size { min, max } => format!(
                "bytes, {} to {}; units B, KiB, MiB, GiB",
                ByteSize::new(*min),
                ByteSize::new(*max)
            ),
            Self::Span { min_ms, max_ms } => format!(
                "duration, {} to {}; units ms, s, m, h, d",
                DurationText::from_millis(*min_ms),
                DurationText::from_millis(*max_ms)
            ),
            Self::Word(words) => words.join(" or "),
            Self::Path => "path, relative to the working directory".to_owned(),
            Self::Url => "http(s)://host[:port][/path]".to_owned(),
            Self::Names => "list of host names and IP addresses".to_owned(),
            Self::Networks => "list of ranges of IP addresses".to_owned(),
            Self::Secrets => "list of secret keys".to_owned(),
        }
    }

    /// What to write instead, as a sentence without its end.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Address => {
                r#"write an IP address and a port such as "127.0.0.1:7443" or "[::1]:0""#.to_owned()
            }
            Self::Switch => "write true or false".to_owned(),
            Self::Count { unit, min, max } => {
                format!("write the number of {unit}, {min} to {max}, without quotes")
            }
            Self::Size { min, max } => format!(
                r#"write a number and a unit such as "16KiB" or "4MiB", {} to {}"#,
                ByteSize::new(*min),
                ByteSize::new(*max)
            ),
            Self::Span { min_ms, max_ms } => format!(
                r#"write a number and a unit such as "250ms", "30s" or "5m", {} to {}"#,
                DurationText::from_millis(*min_ms),
                DurationText::from_millis(*max_ms)
            ),
            Self::Word(words) => {
                let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
                format!("write {}", words.join(" or "))
            }
            Self::Path => "write a path".to_owned(),
            Self::Url => r#"write a URL such as "https://push.example.org""#.to_owned(),
            Self::Names => r#"write a list such as ["push.example.org", "192.0.2.7"]"#.to_owned(),
            Self::Networks => r#"write a list such as ["10.0.0.0/8", "2001:db8::/32"]"#.to_owned(),
            Self::Secrets => {
                "write a list of texts of 16 to 256 characters of a-z A-Z 0-9 - . _ ~ + / ="
                    .to_owned()
            }
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::Address => "an address",
            Self::Switch => "true or false",
            Self::Count { .. } => "an integer",
            Self::Size { .. } => "a size with its unit",
            Self::Span { .. } => "a duration with its unit",
            Self::Word(_) => "one of the words",
            Self::Path => "a path",
            Self::Url => "a URL",
            Self::Names => "a list of host names",
            Self::Networks => "a list of ranges of addresses",
            Self::Secrets => "a list of texts",
        }
    }

    /// The cause for a value of another kind.
    pub(crate) fn mismatch(&self, found: &Raw) -> Cause {
        Cause::Kind {
            expected: self.noun(),
            found: found.kind(),
            advice: self.advice(),
        }
    }

    fn malformed(&self) -> Cause {
        Cause::Malformed {
            expected: self.noun(),
            advice: self.advice(),
        }
    }

    fn out_of_range(&self, is_off: bool) -> Cause {
        Cause::Range {
            is_off,
            advice: self.advice(),
        }
    }

    /// Turns a given value into one of this kind.
    ///
    /// # Errors
    /// The cause, with what to write instead.
    pub(crate) fn parse(&self, raw: &Raw) -> Result<Value, Cause> {
        Ok(match self {
            Self::Address => Value::Address(raw.text(self)?.parse().map_err(|_| self.malformed())?),
            Self::Switch => Value::Switch(match raw {
                Raw::Switch(on) => *on,
                Raw::Bare(text) => text.parse().map_err(|_| self.malformed())?,
                other => return Err(self.mismatch(other)),
            }),
            Self::Count { min, max, .. } => {
                let number = match raw {
                    Raw::Integer(number) => *number,
                    Raw::Bare(text) => text
                        .replace('_', "")
                        .parse()
                        .map_err(|_| self.malformed())?,
                    other => return Err(self.mismatch(other)),
                };
                Value::Count(self.within(number, *min, *max)?)
            }
            Self::Size { min, max } => {
                let bytes = self.with_unit(raw.text(self)?, &SIZE_UNITS)?;
                Value::Size(ByteSize::new(self.within(bytes, *min, *max)?))
            }
            Self::Span { min_ms, max_ms } => {
                let millis = self.with_unit(raw.text(self)?, &DURATION_UNITS)?;
                Value::Span(Duration::from_millis(
                    self.within(millis, *min_ms, *max_ms)?,
                ))
            }
            Self::Word(words) => {
                let text = raw.text(self)?;
                let word = words.iter().find(|w| **w == text);
                Value::Word(word.ok_or_else(|| self.malformed())?)
            }
            Self::Path => match raw.text(self)? {
                "" => return Err(self.malformed()),
                text => Value::Path(PathBuf::from(text)),
            },
            Self::Url => {
                Value::Url(PublicUrl::parse(raw.text(self)?).ok_or_else(|| self.malformed())?)
            }
            Self::Names => {
                let names = raw.texts(self)?;
                let names: Option<Vec<String>> = names.iter().map(|n| host_name(n)).collect();
                Value::Names(names.ok_or_else(|| self.malformed())?)
            }
            Self::Networks => {
                let networks: Result<_, _> = raw.texts(self)?.iter().map(|n| n.parse()).collect();
                Value::Networks(networks.map_err(|_| self.malformed())?)
            }
            // Read by the projects, which keep them secret; no key of the table has this kind.
            Self::Secrets => return Err(self.mismatch(raw)),
        })
    }

    fn within(&self, number: i128, min: u64, max: u64) -> Result<u64, Cause> {
        u64::try_from(number)
            .ok()
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| self.out_of_range(number <= 0))
    }

    fn with_unit(&self, text: &str, units: &[(&str, u64)]) -> Result<i128, Cause> {
        let digits_end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let factor = units
            .iter()
            .find(|(name, _)| *name == unit.trim_start())
            .map(|(_, f)| *f);
        match (digits.parse::<u64>(), factor) {
            (Ok(number), Some(factor)) => Ok(i128::from(number) * i128::from(factor)),
            _ => Err(self.malformed()),
        }
    }
}

/// A host name, with `*.` in front at most, or an IP address; in lower case.
fn host_name(text: &str) -> Option<String> {
    const NAME_BYTES_MAX: usize = 253;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_string());
    }
    let lower = text.to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let labels = lower.strip_prefix("*.").unwrap_or(&lower);
    (lower.len() <= NAME_BYTES_MAX && labels.split('.').all(is_label)).then_some(lower)
}
