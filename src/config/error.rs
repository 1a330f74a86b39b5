//! What is wrong with a configuration: every problem at once, each with key, value, origin, reason and way out.
//!
//! A value that is or may be a secret is never part of an error: neither a project's keys nor the value of a key
//! that does not exist.

use std::fmt;
use std::path::Path;

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The table of keys.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: String,
        /// Counted from 1; 0 where a problem concerns the file as a whole.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// A flag of the command line, by name.
    Flag(String),
    /// A list to which several origins contribute.
    Several(Vec<Origin>),
}

impl Origin {
    pub(crate) fn file(path: &Path, line: usize) -> Self {
        Self::File {
            path: path.display().to_string(),
            line,
        }
    }

    /// The way in which this origin names a key.
    pub(crate) fn key_name(&self, key: &str) -> String {
        match self {
            Self::Environment(_) => format!(
                "PETREL_{}",
                key.replace('.', "__").replace('-', "_").to_uppercase()
            ),
            _ => key.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => f.write_str(path),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Several(origins) => {
                let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
                f.write_str(&origins.join(" + "))
            }
        }
    }
}

/// Why a key or a file is refused. The text is the reason; [`Cause::advice`] is what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Cause {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    FileUnreadable(String),
    /// The file is not TOML.
    #[error("is not TOML: {0}")]
    Syntax(String),
    /// No key has this name.
    #[error("no such key")]
    UnknownKey {
        /// The name that was probably meant, as the origin would write it.
        nearest: Option<String>,
    },
    /// A value stands where a section belongs.
    #[error("is a section, not a key")]
    Section,
    /// A value of another kind.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What belongs here.
        expected: &'static str,
        /// What stands here.
        found: &'static str,
        /// What to write.
        advice: String,
    },
    /// The right kind, but not readable.
    #[error("is not {expected}")]
    Malformed {
        /// What belongs here.
        expected: &'static str,
        /// What to write.
        advice: String,
    },
    /// Readable, but out of bounds.
    #[error("out of range{}", if *.is_off { ": no number stands for \"off\" or \"no limit\"" } else { "" })]
    Range {
        /// The value is 0 or below, which other programs read as "off".
        is_off: bool,
        /// What to write.
        advice: String,
    },
    /// Two keys, each right by itself, contradict each other.
    #[error("{reason}")]
    Relation {
        /// What contradicts what.
        reason: String,
        /// What to change.
        advice: String,
    },
    /// A project's name is outside the alphabet.
    #[error("is not the name of a project")]
    ProjectName,
    /// A project without any key.
    #[error("has neither api_keys nor app_keys, so nobody could use it")]
    ProjectWithoutKeys,
    /// A secret key of a project is too short or too long.
    #[error("has {chars} characters")]
    SecretLength {
        /// How many it has.
        chars: usize,
        /// What to write.
        advice: String,
    },
    /// A secret key has a character that cannot stand in an HTTP header.
    #[error("has a character that cannot stand in a bearer token")]
    SecretAlphabet {
        /// What to write.
        advice: String,
    },
    /// The same secret key stands in two places.
    #[error("is the same key as {first}")]
    SecretRepeated {
        /// The other place.
        first: String,
    },
}

impl Cause {
    /// What to do about it, as a sentence without its end.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::FileUnreadable(_) => "name a file that this user may read".to_owned(),
            Self::Syntax(_) => r#"correct that line; texts, durations and sizes stand in quotes: idle_timeout = "5m""#.to_owned(),
            Self::UnknownKey { nearest: Some(key) } => format!("did you mean {key}?"),
            Self::UnknownKey { nearest: None } => "remove it; `petrel config show` lists all keys".to_owned(),
            Self::Section => "set its keys one by one; in a file they stand below its name in brackets".to_owned(),
            Self::ProjectName => "use 1 to 64 characters of a-z 0-9 -".to_owned(),
            Self::ProjectWithoutKeys => "give it a key, or remove it".to_owned(),
            Self::SecretRepeated { .. } => "give every project and purpose a key of its own".to_owned(),
            Self::Kind { advice, .. }
            | Self::Malformed { advice, .. }
            | Self::Range { advice, .. }
            | Self::Relation { advice, .. }
            | Self::SecretLength { advice, .. }
            | Self::SecretAlphabet { advice } => advice.clone(),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The key, such as `quic.idle_timeout`; empty where the file as a whole is meant.
    pub key: String,
    /// The value as given; `None` where it is, or may be, secret, or where there is none.
    pub value: Option<String>,
    /// Where it was given.
    pub origin: Origin,
    /// What is wrong.
    pub cause: Cause,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            value,
            origin,
            cause,
        } = self;
        match (key.is_empty(), value) {
            (true, _) => write!(f, "{origin}")?,
            (false, Some(value)) => write!(f, "{key} = {value} ({origin})")?,
            (false, None) => write!(f, "{key} ({origin})")?,
        }
        write!(f, ": {cause}; {}", cause.advice())
    }
}

/// All that is wrong with a configuration. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors {
    pub(crate) problems: Vec<Problem>,
}

impl ConfigErrors {
    /// The problems, one by one.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    /// A headline, then a line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "the configuration has a problem:")?,
            count => write!(f, "the configuration has {count} problems:")?,
        }
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}
