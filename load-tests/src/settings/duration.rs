//! Durations in settings: a whole number and a unit.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, de::Error as _};

/// A text that stands in the place of a duration.
pub(super) trait Word {
    /// The word.
    const WORD: &'static str;
}
/// As the broker asks for.
pub(super) struct Broker;
impl Word for Broker {
    const WORD: &'static str = "broker";
}
/// When the one before is acked.
pub(super) struct Acked;
impl Word for Acked {
    const WORD: &'static str = "acked";
}

/// A duration, or `None` for the word in its place.
pub(super) fn unless<'de, W: Word, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    if text == W::WORD {
        return Ok(None);
    }
    parse_duration(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is neither {:?} nor a duration such as 5s",
            W::WORD
        ))
    })
}

/// A duration such as `5s`.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is no duration: write 250ms, 5s, 2m or 1h"
        ))
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("5s", 5000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5S",
            "5d",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
