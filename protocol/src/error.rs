//! The table of what can go wrong between a device and its broker.
//!
//! One number serves as the code of an `Error` frame, of a `Result` and of a QUIC application close. Numbers and
//! names are stable; `docs/errors.md` lists this table and a test keeps the two equal.

use std::fmt;

/// What a device should do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reaction {
    /// Come back after the time given, or after back-off.
    Retry,
    /// Make a new registration, once.
    RegisterAnew,
    /// Stay away until a human changed something.
    Stop,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $reaction:ident, $advice:literal;)*) => {
        /// A stable code of the device protocol (PROTO-10).
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant = $code,)*
        }

        impl ErrorCode {
            /// Every code, lowest first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What a device should do.
            #[must_use]
            pub const fn reaction(self) -> Reaction {
                match self { $(Self::$variant => Reaction::$reaction,)* }
            }

            /// What a human should do, in one sentence.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }

            /// The code of a number from the wire; `None` for one that a newer broker may know.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

errors! {
    /// The device said goodbye or the broker has nothing against it.
    Goodbye = 0, "goodbye", Stop, "Nothing is wrong: the session was ended on purpose.";
    /// Frames in an order that the protocol does not allow.
    ProtocolViolation = 1, "protocol_violation", Stop, "Update the SDK: it broke a rule of docs/protocol.md.";
    /// A frame that cannot be parsed.
    Malformed = 2, "malformed", Stop, "Update the SDK: it sent bytes that are no frame.";
    /// A frame longer than the limit.
    FrameTooLong = 3, "frame_too_long", Stop, "Send frames of at most the length that Welcome names.";
    /// A frame kind that must be understood and is not.
    Unsupported = 4, "unsupported", Stop, "Update the older of SDK and broker.";
    /// Nothing said within the time allowed.
    HelloTimeout = 5, "hello_timeout", Retry, "Send Hello or Register at once after connecting.";
    /// A token that this broker did not make.
    InvalidToken = 6, "invalid_token", RegisterAnew, "Register anew: the token is not of this broker.";
    /// A token whose registration has ended.
    Unregistered = 7, "unregistered", RegisterAnew, "Register anew: the registration has ended.";
    /// The secret does not belong to the token.
    WrongSecret = 8, "wrong_secret", Stop, "Use the secret that the registration was made with, or register anew.";
    /// No such project, or the key is not one of its app keys.
    AppKeyRefused = 9, "app_key_refused", Stop, "Check project name and app key against the broker's configuration.";
    /// The same registration connected elsewhere.
    Replaced = 10, "replaced", Stop, "Another connection uses this registration; run one at a time.";
    /// A topic outside the alphabet or too long.
    InvalidTopic = 11, "invalid_topic", Stop, "A topic has 1 to 900 of the characters a-z A-Z 0-9 - _ . ~ %.";
    /// More topics than a registration may have.
    TooManyTopics = 12, "too_many_topics", Stop, "Unsubscribe from a topic first.";
    /// A field outside its bounds.
    InvalidArgument = 13, "invalid_argument", Stop, "Correct the field that the message names.";
    /// The broker has too much to do.
    Overloaded = 14, "overloaded", Retry, "Come back after the time given.";
    /// The broker shuts down.
    Draining = 15, "draining", Retry, "Come back after the time given.";
    /// A fault of the broker.
    Internal = 16, "internal", Retry, "Look into the broker's log.";
    /// The device does not read what it is sent, or does not ack.
    Unresponsive = 17, "unresponsive", Retry, "Read and ack what arrives.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back() {
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code as u32), Some(code));
        }
        assert_eq!(ErrorCode::from_number(9999), None);
    }

    /// `docs/errors.md` has a row for each code, in order.
    #[test]
    fn the_document_lists_this_table() {
        let document = include_str!("../../docs/errors.md");
        let rows: Vec<&str> = document
            .lines()
            .filter(|l| l.starts_with("| ") && l.contains(" | `"))
            .take(ErrorCode::ALL.len())
            .collect();
        let expected: Vec<String> = ErrorCode::ALL
            .iter()
            .map(|c| {
                let reaction = match c.reaction() {
                    Reaction::Retry => "retry",
                    Reaction::RegisterAnew => "register anew",
                    Reaction::Stop => "stop",
                };
                format!(
                    "| {} | `{}` | {} | {} |",
                    *c as u32,
                    c.name(),
                    reaction,
                    c.advice()
                )
            })
            .collect();
        assert_eq!(rows, expected, "expected rows:\n{}", expected.join("\n"));
    }
}
