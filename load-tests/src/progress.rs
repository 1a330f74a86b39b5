//! What is seen while a scenario runs: a line for each step, and on a terminal a bar while it goes on.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The steps on stdout, the bar on stderr.
pub(crate) struct Progress {
    silent: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `silent`: nothing on stdout.
    pub(crate) fn new(silent: bool) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // Not drawn before the first step.
            bar.finish_and_clear();
            bar
        });
        Self { silent, bar }
    }

    /// A step begins, of which there is so much to do.
    pub(crate) fn begin(&self, what: &str, total: u64) {
        let Some(bar) = &self.bar else { return };
        // A template that indicatif does not know would only change the look.
        let template = "{spinner} {msg} {bar:24} {human_pos}/{human_len} {per_sec} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.set_length(total);
        bar.reset();
    }

    /// So much of it is done.
    pub(crate) fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// The step is over; says how it went.
    pub(crate) fn end(&self, how: &str) -> io::Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.say(&format!("  {how}\n"))
    }

    /// Prints text between steps.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
