//! Names that publishers and devices choose, parsed once at the edge: topics, collapse keys, categories.

use std::fmt;

use crate::limits;

/// Why a text is not a name of the kind asked for. The message says what is allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than allowed.
    #[error("a {kind} has 1 to {max} bytes, this has {bytes}")]
    Length {
        /// What was parsed.
        kind: &'static str,
        /// How long it may be, in bytes.
        max: usize,
        /// How long it is, in bytes.
        bytes: usize,
    },
    /// A character outside the alphabet.
    #[error("a {kind} has no {character:?}: allowed are {allowed}")]
    Character {
        /// What was parsed.
        kind: &'static str,
        /// The first character that is not allowed.
        character: char,
        /// The alphabet, for a human.
        allowed: &'static str,
    },
}

fn check(
    kind: &'static str,
    text: &str,
    max: usize,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<Box<str>, NameError> {
    if text.is_empty() || text.len() > max {
        return Err(NameError::Length {
            kind,
            max,
            bytes: text.len(),
        });
    }
    match text.chars().find(|&c| !is_allowed(c)) {
        Some(character) => Err(NameError::Character {
            kind,
            character,
            allowed,
        }),
        None => Ok(text.into()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr, $allowed:literal, $is_allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks and keeps the text.
            ///
            /// # Errors
            /// [`NameError`] if it is empty, too long or has a character outside the alphabet.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check($kind, text, $max, $allowed, $is_allowed).map(Self)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A named channel to many devices. FCM's alphabet; without the prefix `/topics/`.
    TopicName,
    "topic",
    limits::TOPIC_BYTES_MAX,
    "a-z A-Z 0-9 - _ . ~ %",
    |c| c.is_ascii_alphanumeric() || "-_.~%".contains(c)
);

name!(
    /// Newer replaces undelivered older of the same key at the same address.
    CollapseKey,
    "collapse key",
    limits::COLLAPSE_KEY_BYTES_MAX,
    "all characters but controls",
    |c| !c.is_control()
);

name!(
    /// What a user may mute.
    Category,
    "category",
    limits::CATEGORY_BYTES_MAX,
    "all characters but controls",
    |c| !c.is_control()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_follow_fcm_alphabet() {
        let longest = "t".repeat(limits::TOPIC_BYTES_MAX);
        for good in ["news", "a-b_c.d~e%2F", "7", longest.as_str()] {
            assert_eq!(TopicName::parse(good).unwrap().as_str(), good);
        }
        let too_long = "t".repeat(limits::TOPIC_BYTES_MAX + 1);
        for bad in ["", "a b", "a/b", "ä", "/topics/x", too_long.as_str()] {
            assert!(TopicName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_say_what_is_allowed() {
        let error = TopicName::parse("a b").unwrap_err().to_string();
        assert_eq!(
            error,
            "a topic has no ' ': allowed are a-z A-Z 0-9 - _ . ~ %"
        );
    }
}
