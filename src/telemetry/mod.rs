//! What the broker says about itself: numbers for Prometheus and log lines on stderr.
//!
//! [`Metric`] is the one list of everything that is counted. The functions here are the only way to a metric:
//! no other room names the crates behind them. Labels come from closed sets, so the number of series is fixed when
//! the program is compiled; a token, a topic, an address or the text of an error is never a label. All series exist
//! from the start, at zero.
//!
//! A leaf: every room may call it, it imports none of ours, it opens no socket and starts no task. Before [`install`]
//! all functions do nothing, so that rooms can be tested without it.

mod logging;
mod metric;
mod record;

pub use logging::{LogFormat, LoggingError, init_logging};
pub use metric::{Definition, Kind, Label, Metric, Unit};
pub use record::{
    MetricsHandle, counter, counter_with, gauge, gauge_add, gauge_with, install, seconds,
};
