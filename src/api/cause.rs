//! The table of what can go wrong between a publisher and the broker.
//!
//! One row gives a cause its HTTP status, `error.status` and `errorCode` of FCM, stable code (metric label and
//! `reason` of an answer), whether a repeat may help, and what to do. `docs/errors.md` lists this table and a test
//! keeps the two equal.

/// Who has to change something for a repeat to succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// The publisher, or its operator: the same request fails again.
    Useless,
    /// Nobody: come back after `Retry-After` or with back-off.
    Helps,
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $http:literal, $status:literal, $fcm:expr, $code:literal, $repeat:ident, $advice:literal;)*) => {
        /// Why a request of a publisher was not done.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        impl Cause {
            /// Every cause, in the order of the document.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The status of the answer.
            #[must_use]
            pub const fn http(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }

            /// `error.status` of Google's APIs.
            #[must_use]
            pub const fn status(self) -> &'static str {
                match self { $(Self::$variant => $status,)* }
            }

            /// `errorCode` of an FCM error, which SDKs read first. `None`: they go by the status.
            #[must_use]
            pub const fn fcm_error_code(self) -> Option<&'static str> {
                match self { $(Self::$variant => $fcm,)* }
            }

            /// The stable code of Petrel: metric label and, in an answer, the reason.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Whether the same request may succeed later.
            #[must_use]
            pub const fn repeat(self) -> Repeat {
                match self { $(Self::$variant => Repeat::$repeat,)* }
            }

            /// What the publisher should do, in a sentence.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

causes! {
    /// A body that is no publish, or fields out of bounds.
    InvalidRequest = 400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "invalid_request", Useless,
        "Correct the fields that the details name.";
    /// A token that this broker did not make.
    InvalidToken = 400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "invalid_token", Useless,
        "Send to a token that a device got from this broker.";
    /// FCM answers 400; 413 lets proxies and clients tell size from content, and SDKs read the status text anyway.
    BodyTooLarge = 413, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "body_too_large", Useless,
        "Send a smaller body: a payload has at most 4096 bytes.";
    /// A body that is not called JSON.
    UnsupportedMediaType = 415, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"), "unsupported_media_type", Useless,
        "Send JSON with Content-Type: application/json.";
    /// A body that did not arrive in time.
    BodyTooSlow = 408, "DEADLINE_EXCEEDED", Some("UNAVAILABLE"), "body_too_slow", Helps,
        "Send the body at once after the headers.";
    /// No key, or one that opens nothing.
    Unauthenticated = 401, "UNAUTHENTICATED", Some("THIRD_PARTY_AUTH_ERROR"), "unauthenticated", Useless,
        "Send an API key of the project as Authorization: Bearer KEY.";
    /// A key that does not open the project of the path; whether that exists is not said.
    PermissionDenied = 403, "PERMISSION_DENIED", None, "permission_denied", Useless,
        "Check project name and API key: this key does not open this project.";
    /// A token of another project.
    ForeignProject = 403, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH"), "foreign_project", Useless,
        "Send with the API key of the project that the device registered with.";
    /// A token whose registration has ended.
    Unregistered = 404, "NOT_FOUND", Some("UNREGISTERED"), "unregistered", Useless,
        "Forget this token: its registration has ended.";
    /// Without an FCM code of its own, Node's SDK reads NOT_FOUND as "this token is dead" and apps delete tokens.
    UnknownPath = 404, "NOT_FOUND", Some("UNSPECIFIED_ERROR"), "unknown_path", Useless,
        "Send to /v1/projects/PROJECT/messages:send.";
    /// A path that exists, with another method.
    WrongMethod = 405, "UNIMPLEMENTED", Some("UNSPECIFIED_ERROR"), "wrong_method", Useless,
        "Use a method that the Allow header names.";
    /// The device's queue is full and its policy refuses.
    QueueFull = 429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "queue_full", Helps,
        "Send less to this device until it comes back: its queue is full.";
    /// What waits for the project's devices takes as much room as it may.
    QuotaExceeded = 429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED"), "quota_exceeded", Helps,
        "Let messages expire sooner, or have the operator raise queue.project_bytes_max.";
    /// The disk is nearly full.
    DiskFull = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "disk_full", Helps,
        "Repeat later: the broker's disk is nearly full, and its operator must make room.";
    /// Commits fail.
    StoreFailing = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "store_failing", Helps,
        "Repeat later: the broker's store cannot be written; its log says why.";
    /// As many publishes in progress as are allowed.
    NoPermit = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "no_permit", Helps,
        "Repeat later: too many publishes are in progress.";
    /// The broker has too much to do.
    Overloaded = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "overloaded", Helps,
        "Repeat later: the broker is busy.";
    /// The broker is not ready yet.
    Starting = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "starting", Helps,
        "Repeat later: the broker is starting.";
    /// The broker shuts down.
    Draining = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "draining", Helps,
        "Repeat later: the broker is shutting down.";
    /// The store did not confirm in time; the message may be delivered nevertheless.
    TimedOut = 503, "UNAVAILABLE", Some("UNAVAILABLE"), "timed_out", Helps,
        "The message may have been accepted, it was not confirmed in time; a repeat may deliver it twice.";
    /// A fault of the broker.
    Internal = 500, "INTERNAL", Some("INTERNAL"), "internal", Helps,
        "Repeat later; the broker's log says what is wrong.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metric;

    /// A row of `docs/errors.md` for each cause, in order.
    fn row(cause: &Cause) -> String {
        format!(
            "| `{}` | {} | `{}` | {} | {} | {} |",
            cause.code(),
            cause.http(),
            cause.status(),
            cause
                .fcm_error_code()
                .map_or_else(|| "none".to_owned(), |code| format!("`{code}`")),
            match cause.repeat() {
                Repeat::Useless => "no",
                Repeat::Helps => "yes",
            },
            cause.advice()
        )
    }

    #[test]
    fn the_document_lists_this_table() {
        let document = include_str!("../../docs/errors.md");
        let (_, section) = document.split_once("## Publish API").unwrap();
        let rows: Vec<&str> = section.lines().filter(|l| l.starts_with("| `")).collect();
        let expected: Vec<String> = Cause::ALL.iter().map(row).collect();
        assert_eq!(rows, expected, "expected rows:\n{}", expected.join("\n"));
    }

    #[test]
    fn the_metric_counts_every_cause_and_nothing_else() {
        let label = Metric::ApiRequests.definition().label.unwrap();
        let codes: Vec<&str> = std::iter::once("ok")
            .chain(Cause::ALL.iter().map(|c| c.code()))
            .collect();
        assert_eq!(label.values, codes);
    }

    #[test]
    fn only_a_dead_token_looks_like_one() {
        for cause in Cause::ALL {
            let is_dead = cause.fcm_error_code() == Some("UNREGISTERED");
            assert_eq!(is_dead, *cause == Cause::Unregistered);
            let is_refused = (500..600).contains(&cause.http()) || cause.http() == 429;
            if is_refused {
                assert_eq!(cause.repeat(), Repeat::Helps, "{cause:?}");
            }
        }
    }
}
