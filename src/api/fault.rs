//! One refusal, before a dialect gives it its form.

use std::fmt::Write as _;
use std::time::Duration;

use super::cause::Cause;
use crate::delivery::PublishError;

/// Most violations that an answer lists; the rest is counted in a last entry.
const VIOLATIONS_MAX: usize = 64;

/// Longest message of an answer and longest description of a violation, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Something about one field that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Violation {
    /// Its path, such as `message.android.ttl`.
    pub(super) field: String,
    /// What is wrong and what is allowed. Never the value, which may be a token.
    pub(super) description: String,
}

/// All that is wrong with one request, bounded.
#[derive(Default, Debug)]
pub(super) struct Violations {
    listed: Vec<Violation>,
    unlisted: usize,
}

impl Violations {
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.listed.len() == VIOLATIONS_MAX {
            self.unlisted += 1;
            return;
        }
        self.listed.push(Violation {
            field: field.into(),
            description: printable(&description.into()),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// The list, with a last entry for what did not fit.
    pub(super) fn into_list(self) -> Vec<Violation> {
        let mut list = self.listed;
        if self.unlisted > 0 {
            list.push(Violation {
                field: String::new(),
                description: format!("and {} more", self.unlisted),
            });
        }
        list
    }
}

/// Why a request is refused, with all that an answer needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    pub(super) message: String,
    pub(super) violations: Vec<Violation>,
    pub(super) retry_after: Option<Duration>,
}

impl Fault {
    /// A refusal that says what the table says.
    pub(super) fn new(cause: Cause) -> Self {
        Self::with_message(cause, cause.advice())
    }

    pub(super) fn with_message(cause: Cause, message: &str) -> Self {
        Self {
            cause,
            message: printable(message),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// A refusal that names fields. The message repeats the first, for those who only see that.
    pub(super) fn violations(cause: Cause, violations: Vec<Violation>) -> Self {
        let mut message = String::new();
        if let Some(first) = violations.first() {
            message = format!("{}: {}", first.field, first.description);
        }
        if violations.len() > 1 {
            // Writing to a String cannot fail.
            let _ = write!(message, " (and {} more)", violations.len() - 1);
        }
        Self {
            violations,
            ..Self::with_message(cause, &message)
        }
    }

    pub(super) fn retry_after(self, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..self
        }
    }

    /// What became of a publish; `field` names the target, `otherwise` is when to come back if the error leaves it open.
    pub(super) fn from_publish(error: &PublishError, field: &str, otherwise: Duration) -> Self {
        match error {
            PublishError::InvalidToken(error) => Self::violations(
                Cause::InvalidToken,
                vec![Violation {
                    field: field.to_owned(),
                    description: error.to_string(),
                }],
            ),
            PublishError::ForeignProject => Self::new(Cause::ForeignProject),
            PublishError::Unregistered => Self::new(Cause::Unregistered),
            PublishError::QueueFull => Self::new(Cause::QueueFull).retry_after(otherwise),
            PublishError::Overloaded { retry_after } => {
                Self::new(Cause::Overloaded).retry_after(*retry_after)
            }
            PublishError::Draining { retry_after } => {
                Self::new(Cause::Draining).retry_after(*retry_after)
            }
            PublishError::DiskFull { retry_after } => {
                Self::new(Cause::DiskFull).retry_after(*retry_after)
            }
            PublishError::QuotaExceeded { retry_after } => {
                Self::new(Cause::QuotaExceeded).retry_after(*retry_after)
            }
            PublishError::StoreFailing { retry_after } => {
                Self::new(Cause::StoreFailing).retry_after(*retry_after)
            }
            PublishError::TimedOut => Self::new(Cause::TimedOut).retry_after(otherwise),
            PublishError::Store => Self::new(Cause::Internal),
        }
    }
}

/// The text with controls escaped and its length bounded.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(TEXT_BYTES_MAX + 8));
    for c in text.chars() {
        if out.len() >= TEXT_BYTES_MAX {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use petrel_protocol::TokenError;

    use super::*;

    #[test]
    fn texts_are_bounded_and_controls_are_seen() {
        assert_eq!(printable("a\n\u{7f}\u{85}é"), "a\\n\\u{7f}\\u{85}é");
        let at_limit = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(printable(&at_limit), at_limit);
        assert_eq!(printable(&"x".repeat(TEXT_BYTES_MAX + 1)), at_limit + "…");
    }

    #[test]
    fn more_violations_than_the_limit_are_counted() {
        let list = |n: usize| {
            let mut violations = Violations::default();
            (0..n).for_each(|i| violations.add(format!("f{i}"), "is wrong"));
            violations.into_list()
        };
        assert_eq!(list(VIOLATIONS_MAX).len(), VIOLATIONS_MAX);
        let over = list(VIOLATIONS_MAX + 2);
        assert_eq!(over.len(), VIOLATIONS_MAX + 1);
        assert_eq!(over[VIOLATIONS_MAX].description, "and 2 more");
    }

    #[test]
    fn the_message_says_the_first_violation_and_how_many_there_are() {
        let mut violations = Violations::default();
        violations.add("message.a", "is wrong");
        violations.add("message.b", "is wrong too");
        let fault = Fault::violations(Cause::InvalidRequest, violations.into_list());
        assert_eq!(fault.message, "message.a: is wrong (and 1 more)");
    }

    #[test]
    fn every_outcome_of_a_publish_has_its_cause() {
        let second = Duration::from_secs(1);
        let minute = Duration::from_secs(60);
        for (error, cause, retry_after) in [
            (
                PublishError::InvalidToken(TokenError::Foreign),
                Cause::InvalidToken,
                None,
            ),
            (PublishError::ForeignProject, Cause::ForeignProject, None),
            (PublishError::Unregistered, Cause::Unregistered, None),
            (PublishError::QueueFull, Cause::QueueFull, Some(second)),
            (
                PublishError::Overloaded {
                    retry_after: minute,
                },
                Cause::Overloaded,
                Some(minute),
            ),
            (
                PublishError::Draining {
                    retry_after: minute,
                },
                Cause::Draining,
                Some(minute),
            ),
            (
                PublishError::DiskFull {
                    retry_after: minute,
                },
                Cause::DiskFull,
                Some(minute),
            ),
            (
                PublishError::QuotaExceeded {
                    retry_after: minute,
                },
                Cause::QuotaExceeded,
                Some(minute),
            ),
            (
                PublishError::StoreFailing {
                    retry_after: minute,
                },
                Cause::StoreFailing,
                Some(minute),
            ),
            (PublishError::TimedOut, Cause::TimedOut, Some(second)),
            (PublishError::Store, Cause::Internal, None),
        ] {
            let fault = Fault::from_publish(&error, "message.fid", second);
            assert_eq!((fault.cause, fault.retry_after), (cause, retry_after));
            let named = fault.violations.iter().any(|v| v.field == "message.fid");
            assert_eq!(named, cause == Cause::InvalidToken);
        }
    }
}
