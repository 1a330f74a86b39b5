//! Reading the texts that publishers write for times, priorities and names.
//!
//! An error says what is allowed; it never repeats the value.

use std::time::Duration;

use petrel_core::{Ttl, UnixMillis};
use petrel_protocol::{CollapseKey, Urgency};

/// Longest analytics label, as FCM has it.
const LABEL_BYTES_MAX: usize = 50;

/// Longest `Topic` of Web Push (RFC 8030 section 5.4).
const WEBPUSH_TOPIC_BYTES_MAX: usize = 32;

/// How much later than four weeks an expiry instant may be and still mean four weeks: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn ttl(duration: Duration) -> Result<Ttl, String> {
    Ttl::new(duration).map_err(|error| error.to_string())
}

/// A duration as protobuf's JSON writes it: `3.5s`, at most nine digits after the point.
pub(super) fn duration(text: &str) -> Result<Ttl, String> {
    let malformed = || "must be seconds such as \"3.5s\" or \"60s\"".to_owned();
    let number = text.strip_suffix('s').ok_or_else(malformed)?;
    let is_negative = number.starts_with('-');
    let number = number.strip_prefix('-').unwrap_or(number);
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if !is_digits(seconds) || !is_digits(fraction) || fraction.len() > 9 {
        return Err(malformed());
    }
    // What does not fit is out of range as well.
    let seconds = seconds.parse().unwrap_or(u64::MAX);
    let nanos = format!("{fraction:0<9}").parse().unwrap_or(0);
    let duration = Duration::new(seconds, nanos);
    if is_negative && !duration.is_zero() {
        return ttl(Duration::MAX);
    }
    ttl(duration)
}

/// Web Push's `TTL`: whole seconds (RFC 8030 section 5.2).
pub(super) fn webpush_ttl(text: &str) -> Result<Ttl, String> {
    if !is_digits(text) {
        return Err("must be whole seconds such as \"60\"".to_owned());
    }
    ttl(Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

/// APNs' `apns-expiration`: an instant in seconds since 1970, 0 for now or never. One that has passed is worth no
/// waiting either.
pub(super) fn apns_expiration(text: &str, now: UnixMillis) -> Result<Ttl, String> {
    if !is_digits(text) {
        return Err(
            "must be an instant in seconds since 1970, or \"0\" for now or never".to_owned(),
        );
    }
    let at = text.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1000);
    let left = Duration::from_millis(at.saturating_sub(now.0));
    let longest = Ttl::MAX.duration();
    if left > longest && left - longest <= CLOCK_SKEW {
        return Ok(Ttl::MAX);
    }
    ttl(left).map_err(|_| "must be at most 2419200 seconds (4 weeks) from now".to_owned())
}

/// Android's priority, in both spellings that SDKs use.
pub(super) fn android_priority(text: &str) -> Result<Urgency, String> {
    match text {
        "HIGH" | "high" => Ok(Urgency::High),
        "NORMAL" | "normal" => Ok(Urgency::Normal),
        _ => Err("must be HIGH or NORMAL".to_owned()),
    }
}

/// APNs' `apns-priority`.
pub(super) fn apns_priority(text: &str) -> Result<Urgency, String> {
    match text {
        "10" => Ok(Urgency::High),
        "5" => Ok(Urgency::Normal),
        "1" => Ok(Urgency::Low),
        _ => Err("must be \"10\", \"5\" or \"1\"".to_owned()),
    }
}

/// An urgency of RFC 8030.
pub(super) fn urgency(text: &str) -> Result<Urgency, String> {
    text.parse().map_err(str::to_owned)
}

/// A collapse key.
pub(super) fn collapse_key(text: &str) -> Result<CollapseKey, String> {
    CollapseKey::parse(text).map_err(|error| error.to_string())
}

/// Web Push's `Topic`, which is our collapse key (RFC 8030 section 5.4).
pub(super) fn webpush_topic(text: &str) -> Result<CollapseKey, String> {
    let is_base64url = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if text.is_empty() || text.len() > WEBPUSH_TOPIC_BYTES_MAX || !is_base64url {
        return Err(format!(
            "must have 1 to {WEBPUSH_TOPIC_BYTES_MAX} of the characters a-z A-Z 0-9 - _"
        ));
    }
    collapse_key(text)
}

/// Checks an analytics label, of which nothing is kept.
pub(super) fn analytics_label(text: &str) -> Result<(), String> {
    let is_label = (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b));
    is_label.then_some(()).ok_or_else(|| {
        format!("must have 1 to {LABEL_BYTES_MAX} of the characters a-z A-Z 0-9 - _ . ~ %")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEKS4: u64 = 2_419_200;

    fn millis(ttl: Result<Ttl, String>) -> Option<u128> {
        ttl.ok().map(|t| t.duration().as_millis())
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("3.5s", Some(3500)),
            ("0s", Some(0)),
            ("-0s", Some(0)),
            ("60s", Some(60_000)),
            ("0.001000000s", Some(1)),
            ("2419200s", Some(u128::from(WEEKS4) * 1000)),
            ("2419200.000000001s", None),
            ("2419201s", None),
            ("-1s", None),
            ("99999999999999999999999s", None),
            ("0.0000000001s", None),
            ("60", None),
            ("s", None),
            ("", None),
            (".5s", None),
            ("1.s", None),
            ("1e3s", None),
            ("+1s", None),
            ("--1s", None),
            ("１s", None),
            ("5m", None),
        ] {
            assert_eq!(millis(duration(text)), expected, "{text}");
        }
    }

    #[test]
    fn whole_seconds() {
        for (text, expected) in [
            ("0", Some(0)),
            ("2419200", Some(u128::from(WEEKS4) * 1000)),
            ("2419201", None),
            ("99999999999999999999999", None),
            ("1.5", None),
            ("60s", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(millis(webpush_ttl(text)), expected, "{text}");
        }
    }

    #[test]
    fn an_instant_counts_from_now() {
        let now = UnixMillis(1_000_500);
        let latest = 1000 + WEEKS4;
        for (text, expected) in [
            ("0".to_owned(), Some(0)),
            ("999".to_owned(), Some(0)),
            ("1002".to_owned(), Some(1500)),
            (latest.to_string(), Some(u128::from(WEEKS4) * 1000 - 500)),
            ((latest + 60).to_string(), Some(u128::from(WEEKS4) * 1000)),
            ((latest + 61).to_string(), None),
            ("99999999999999999999999".to_owned(), None),
            ("-1".to_owned(), None),
            ("soon".to_owned(), None),
        ] {
            assert_eq!(millis(apns_expiration(&text, now)), expected, "{text}");
        }
    }

    #[test]
    fn words_and_names() {
        assert_eq!(android_priority("high"), Ok(Urgency::High));
        assert!(android_priority("High").is_err());
        assert_eq!(apns_priority("1"), Ok(Urgency::Low));
        assert!(apns_priority("7").is_err());
        assert_eq!(urgency("very-low"), Ok(Urgency::VeryLow));
        assert!(urgency("HIGH").is_err());
        let longest = "t".repeat(WEBPUSH_TOPIC_BYTES_MAX);
        assert!(webpush_topic(&longest).is_ok() && webpush_topic("a-_9").is_ok());
        for bad in ["", "a b", "a=", &format!("{longest}t")] {
            assert!(webpush_topic(bad).is_err(), "{bad}");
        }
        let longest = "l".repeat(LABEL_BYTES_MAX);
        assert!(analytics_label(&longest).is_ok() && analytics_label("a-_.~%9").is_ok());
        for bad in ["", "a b", "é", &format!("{longest}l")] {
            assert!(analytics_label(bad).is_err(), "{bad}");
        }
    }
}
