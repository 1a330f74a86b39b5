//! What can go wrong, and why a session or a client ended. Errors answer questions; their insides may change.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use petrel_protocol::{ErrorCode, Reaction};

use crate::storage::StorageError;

/// Why a client could not be started: something in its settings or on this machine. Nothing was sent yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The broker's address is not `host:port`.
    #[error(
        "{address:?} is no broker address: write host:port, such as push.example.org:7443 or [::1]:7443"
    )]
    Address {
        /// What was given.
        address: String,
    },
    /// A setting is missing.
    #[error("{0}")]
    Missing(&'static str),
    /// A setting is out of bounds.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which one.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The file of the CA cannot be read or holds no certificate.
    #[error(
        "{}: {problem}. Copy the broker's tls/ca.pem there, or name the right file",
        CaName(path)
    )]
    Ca {
        /// The file; empty where bytes were given.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The storage cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The storage holds a registration of another project.
    #[error(
        "this storage belongs to project {stored:?}, not to {wanted:?}: use another file for each project"
    )]
    OtherProject {
        /// The project in the storage.
        stored: String,
        /// The project asked for.
        wanted: String,
    },
    /// The UDP socket could not be bound, or there is no tokio runtime.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The operating system has no random bytes for a secret.
    #[error("the operating system gives no random bytes: {0}")]
    Random(String),
}

impl StartError {
    /// Whether the same call may succeed later without a change of settings.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_retryable(),
            Self::Socket(_) | Self::Random(_) => true,
            _ => false,
        }
    }
}

/// Why [`ClientBuilder::connect`](crate::ClientBuilder::connect) has no session to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The client could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The first attempt to connect failed.
    #[error(transparent)]
    Failed(#[from] Cause),
}

impl ConnectError {
    /// Whether the same call may succeed later without a change of settings.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Start(error) => error.is_retryable(),
            Self::Failed(cause) => cause.is_retryable(),
        }
    }

    /// A stable short name; `start` for what went wrong before the first packet.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Failed(cause) => cause.code(),
        }
    }
}

/// Why a request of the app was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// What was asked for is out of bounds; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The broker said no.
    #[error("the broker refused: {message} ({})", code_name(*number))]
    Refused {
        /// The number of the code, see [`RequestError::code`].
        number: u32,
        /// The broker's words.
        message: String,
    },
    /// No answer within the request timeout: the client is not connected, or the app does not take its events.
    #[error(
        "no answer within {} ms: the device is not connected, or its events are not being read",
        after.as_millis()
    )]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// A later request about the same thing took its place.
    #[error("a later request took the place of this one")]
    Superseded,
    /// Too many requests wait already.
    #[error("too many requests are waiting: ask again once some are answered")]
    Busy,
    /// The storage failed before the request could be sent.
    #[error("the device's storage failed: {0}")]
    Storage(String),
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

impl RequestError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { number, .. } => ErrorCode::from_number(*number)
                .is_none_or(|code| code.reaction() == Reaction::Retry),
            Self::Timeout { .. } | Self::Busy | Self::Storage(_) => true,
            Self::Invalid(_) | Self::Superseded | Self::Closed => false,
        }
    }

    /// The broker's code, where it answered with one that this SDK knows.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { number, .. } => ErrorCode::from_number(*number),
            _ => None,
        }
    }
}

/// What kind of [`Cause`] this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CauseKind {
    /// The app closed the client, or dropped its events.
    App,
    /// The app ended the registration.
    Unregistered,
    /// The broker ended the session with this number of `docs/errors.md`.
    Broker(u32),
    /// The broker sent the device away for a while.
    Reconnect,
    /// Nothing answered within the connect timeout.
    NoAnswer,
    /// The broker's name has no address.
    Unresolved,
    /// The broker's certificate is not of the CA given, or not for its name.
    Certificate,
    /// The broker's certificate is no longer, or not yet, valid.
    CertificateTime,
    /// What answers is no Petrel broker, or one of another protocol version.
    NotPetrel,
    /// The connection broke.
    Lost,
    /// The broker was started again and does not know the connection any more.
    Restarted,
    /// The storage failed: nothing was acknowledged that was not kept.
    Storage,
}

/// Why a session or the client ended. `Display` is a sentence for humans that names the way out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Cause {
    kind: CauseKind,
    message: String,
    retry_after: Option<Duration>,
}

impl Cause {
    pub(crate) fn new(kind: CauseKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The broker ended the session with a code (PROTO-10).
    pub(crate) fn broker(number: u32, message: &str, retry_after_ms: u64) -> Self {
        let known = ErrorCode::from_number(number);
        let advice = known.map_or("Update the SDK: it does not know this code.", |c| {
            c.advice()
        });
        let name = code_name(number);
        let message = if message.is_empty() {
            format!("the broker ended the session ({name}). {advice}")
        } else if message == advice {
            // Some brokers say no more than the advice.
            format!("{message} ({name})")
        } else {
            format!("{message} ({name}). {advice}")
        };
        Self {
            kind: CauseKind::Broker(number),
            message,
            retry_after: (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms)),
        }
    }

    pub(crate) fn app(message: &str) -> Self {
        Self::new(CauseKind::App, message)
    }

    pub(crate) fn storage(error: &StorageError) -> Self {
        Self::new(
            CauseKind::Storage,
            format!("the device's storage failed: {error}"),
        )
    }

    pub(crate) fn no_answer(
        broker: &str,
        port: u16,
        tried: &[SocketAddr],
        after: Duration,
    ) -> Self {
        let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
        Self::new(
            CauseKind::NoAnswer,
            format!(
                "no answer from {broker} over UDP within {} ms (tried {}). Check the address, that the broker runs, \
                 and that no firewall on the way drops UDP port {port}",
                after.as_millis(),
                tried.join(", "),
            ),
        )
    }

    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> CauseKind {
        self.kind
    }

    /// A stable short name, such as `replaced` or `no_answer`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.kind {
            CauseKind::App | CauseKind::Unregistered => "goodbye",
            CauseKind::Broker(number) => code_name(number),
            CauseKind::Reconnect => "reconnect",
            CauseKind::NoAnswer => "no_answer",
            CauseKind::Unresolved => "name_not_resolved",
            CauseKind::Certificate => "certificate_not_trusted",
            CauseKind::CertificateTime => "certificate_not_valid_now",
            CauseKind::NotPetrel => "not_a_petrel_broker",
            CauseKind::Lost => "connection_lost",
            CauseKind::Restarted => "broker_restarted",
            CauseKind::Storage => "storage",
        }
    }

    /// The broker's code, where it gave one that this SDK knows.
    #[must_use]
    pub fn broker_code(&self) -> Option<ErrorCode> {
        match self.kind {
            CauseKind::Broker(number) => ErrorCode::from_number(number),
            _ => None,
        }
    }

    /// How long the broker asked to stay away.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether coming back later, with nothing changed, may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.reaction() == Reaction::Retry
    }

    /// What the SDK does about it. A code of a newer broker is retried: only a known one may stop a device for good.
    pub(crate) fn reaction(&self) -> Reaction {
        match self.kind {
            CauseKind::Broker(number) => {
                ErrorCode::from_number(number).map_or(Reaction::Retry, ErrorCode::reaction)
            }
            CauseKind::App | CauseKind::Unregistered | CauseKind::Certificate => Reaction::Stop,
            _ => Reaction::Retry,
        }
    }
}

fn code_name(number: u32) -> &'static str {
    ErrorCode::from_number(number).map_or("unknown_code", ErrorCode::name)
}

/// Shows a path or, for bytes given in memory, says so.
pub(crate) struct CaName<'a>(pub(crate) &'a std::path::Path);

impl fmt::Display for CaName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.as_os_str().is_empty() {
            f.write_str("the CA given as bytes")
        } else {
            write!(f, "the CA file {}", self.0.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_answer_questions() {
        let replaced = Cause::broker(ErrorCode::Replaced as u32, "", 0);
        assert_eq!(replaced.code(), "replaced");
        assert_eq!(replaced.broker_code(), Some(ErrorCode::Replaced));
        assert!(!replaced.is_retryable());
        let busy = Cause::broker(ErrorCode::Overloaded as u32, "full", 1500);
        assert!(busy.is_retryable());
        assert_eq!(busy.retry_after(), Some(Duration::from_millis(1500)));
        let newer = Cause::broker(9999, "", 0);
        assert_eq!((newer.code(), newer.is_retryable()), ("unknown_code", true));
    }

    #[test]
    fn a_silent_broker_is_told_with_what_to_check() {
        let tried = ["127.0.0.1:7443".parse().unwrap()];
        let text = Cause::no_answer("h:7443", 7443, &tried, Duration::from_secs(5)).to_string();
        for part in [
            "h:7443",
            "127.0.0.1:7443",
            "5000 ms",
            "firewall",
            "UDP port 7443",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
