//! What is seen while the demo runs: a line for each step, and on a terminal a bar while it goes on.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The steps on stdout, the bar on stderr.
pub(super) struct Progress {
    silent: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `silent`: nothing at all.
    pub(super) fn new(silent: bool) -> Self {
        let bar = (!silent && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // Not drawn before the first step.
            bar.finish_and_clear();
            bar
        });
        Self { silent, bar }
    }

    /// A step begins, of which there is so much to do.
    pub(super) fn begin(&self, what: &str, total: u64) {
        let Some(bar) = &self.bar else { return };
        // A template that indicatif does not know would only change the look.
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg} {bar:24} {human_pos}/{human_len}")
        {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.set_length(total);
        // Draws it, from here on.
        bar.reset();
    }

    /// So much of it is done.
    pub(super) fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    /// The step is over; says how it went.
    pub(super) fn end(&self, how: &str) -> io::Result<()> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.say(&format!("  {how}\n"))
    }

    /// Prints text between steps.
    pub(super) fn say(&self, text: &str) -> io::Result<()> {
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
