//! Values: as given by a layer ([`Raw`]), and as read ([`Value`]), and how both are printed.
//!
//! It knows no key, no file and no environment; [`Kind`] turns one into the other.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use petrel_quic::Network;

use super::error::Cause;
use super::kind::Kind;
use super::url::PublicUrl;

/// A size in bytes. Written as text with a unit of `B`, `KiB`, `MiB` or `GiB`, powers of 1024.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteSize(u64);

impl ByteSize {
    /// The size of so many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; the largest length where it does not fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

pub(crate) const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in_units(f, self.0, &SIZE_UNITS)
    }
}

pub(crate) const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Prints a duration as the file writes it: `5m`, `250ms`. Whole milliseconds; what is finer is cut off.
pub(crate) struct DurationText(Duration);

impl DurationText {
    pub(crate) fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_in_units(f, millis, &DURATION_UNITS)
    }
}

/// Prints in the largest unit that divides without rest.
fn write_in_units(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    for (unit, factor) in units {
        if value.is_multiple_of(*factor) && (value > 0 || *factor == 1) {
            return write!(f, "{}{unit}", value / factor);
        }
    }
    write!(f, "{value}")
}

/// A value as it was given, before the key's kind is applied.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Raw {
    /// From the environment, a flag or the table: text whose meaning the key decides.
    Bare(String),
    /// A text of the file.
    Text(String),
    /// An integer of the file; what does not fit is the largest.
    Integer(i128),
    /// `true` or `false` of the file.
    Switch(bool),
    /// An array of the file.
    List(Vec<Raw>),
    /// A TOML value of a kind that no key has.
    Other(&'static str),
}

impl Raw {
    /// What it is, for "found …".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bare(_) | Self::Text(_) => "a text",
            Self::Integer(_) => "an integer",
            Self::Switch(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(kind) => kind,
        }
    }

    /// The value as an error shows it: never longer than a line.
    pub(crate) fn shown(&self) -> String {
        const SHOWN_CHARS_MAX: usize = 80;
        let whole = match self {
            Self::Bare(text) | Self::Text(text) => quoted(text),
            Self::Integer(number) => number.to_string(),
            Self::Switch(on) => on.to_string(),
            Self::List(items) => list(items.iter().map(Self::shown)),
            Self::Other(kind) => format!("({kind})"),
        };
        if whole.chars().count() <= SHOWN_CHARS_MAX {
            return whole;
        }
        let cut: String = whole.chars().take(SHOWN_CHARS_MAX).collect();
        format!("{cut}…")
    }

    /// The text.
    pub(crate) fn text(&self, kind: &Kind) -> Result<&str, Cause> {
        match self {
            Self::Bare(text) | Self::Text(text) => Ok(text),
            other => Err(kind.mismatch(other)),
        }
    }

    /// The texts of a list; text from the environment or a flag is split at commas.
    pub(crate) fn texts(&self, kind: &Kind) -> Result<Vec<String>, Cause> {
        match self {
            Self::Bare(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .map(str::to_owned)
                .collect()),
            Self::List(items) => items
                .iter()
                .map(|item| match item {
                    Self::Text(text) => Ok(text.clone()),
                    other => Err(kind.mismatch(other)),
                })
                .collect(),
            other => Err(kind.mismatch(other)),
        }
    }
}

/// A value of one of the kinds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Address(SocketAddr),
    Switch(bool),
    Count(u64),
    Size(ByteSize),
    Span(Duration),
    Word(&'static str),
    Path(PathBuf),
    Url(PublicUrl),
    Names(Vec<String>),
    /// Ranges of addresses.
    Networks(Vec<Network>),
}

impl fmt::Display for Value {
    /// As the file writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "\"{address}\""),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Count(number) => write!(f, "{number}"),
            Self::Size(size) => write!(f, "\"{size}\""),
            Self::Span(duration) => write!(f, "\"{}\"", DurationText(*duration)),
            Self::Word(word) => f.write_str(&quoted(word)),
            Self::Path(path) => f.write_str(&quoted(&path.to_string_lossy())),
            Self::Url(url) => f.write_str(&quoted(url.as_str())),
            Self::Names(names) => f.write_str(&list(names.iter().map(|n| quoted(n)))),
            Self::Networks(networks) => {
                f.write_str(&list(networks.iter().map(|n| quoted(&n.to_string()))))
            }
        }
    }
}

/// A TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A TOML array of items that are already written out.
pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
