//! Log lines: on stderr, one event a line, for people or for collectors.
//!
//! Our own events are shown from the level asked for; what dependencies say is shown from WARN, or from ERROR where
//! that was asked for: their debug lines drown ours. Nothing here formats secrets, because nobody hands it any.

use std::io;

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::{Registry, fmt};

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Logging was set up before in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("logging is already set up; call init_logging once, at the start of main")]
pub struct LoggingError;

/// Sends the log of the whole process to stderr.
///
/// # Errors
/// [`LoggingError`] when something receives the log already.
pub fn init_logging(format: LogFormat, level: Level) -> Result<(), LoggingError> {
    let subscriber = subscriber(format, level, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError)
}

fn subscriber<W>(format: LogFormat, level: Level, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Levels are ordered by how much they let through: the lesser of the two lets through less.
    let filter = Targets::new()
        .with_default(Level::WARN.min(level))
        .with_target("petrel", level);
    // A line that cannot be written is lost: the default, saying so on stderr, panics when stderr itself is closed.
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => Box::new(Registry::default().with(lines.with_filter(filter))),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_filter(filter);
            Box::new(Registry::default().with(lines))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: Level, events: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(format, level, move || writer.clone());
        tracing::subscriber::with_default(subscriber, events);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn events() {
        debug!("ours, debug");
        info!(devices = 3, "ours, info");
        info!(target: "petrel_quic::shard", "ours, of a crate");
        info!(target: "sled", "theirs, info");
        warn!(target: "sled", "theirs, warn");
        error!(target: "sled", "theirs, error");
    }

    #[test]
    fn ours_from_the_level_asked_for_and_theirs_from_warn() {
        let text = logged(LogFormat::Text, Level::INFO, events);
        for shown in [
            "ours, info devices=3",
            "ours, of a crate",
            "theirs, warn",
            "theirs, error",
        ] {
            assert!(text.contains(shown), "{shown} in\n{text}");
        }
        assert!(!text.contains("debug") && !text.contains("theirs, info"));
        assert!(!text.contains('\u{1b}'));
        let text = logged(LogFormat::Text, Level::ERROR, events);
        assert_eq!(text.lines().count(), 1, "{text}");
        let text = logged(LogFormat::Text, Level::DEBUG, events);
        assert!(text.contains("ours, debug") && !text.contains("theirs, info"));
    }

    #[test]
    fn a_json_line_is_one_object_with_the_fields_at_the_top() {
        let text = logged(LogFormat::Json, Level::INFO, || {
            info!(devices = 3, "two\nlines");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "two\nlines");
        assert_eq!(line["devices"], 3);
        assert_eq!(line["level"], "INFO");
    }
}
