//! How a command ends when it does not end well.

use std::fmt;

/// Exit code of a failure that has no code of its own.
const FAILED: u8 = 1;

/// What to print on stderr and which exit code to end with. The text names the way out.
#[derive(Debug)]
pub struct Failure {
    message: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: Some(message.to_string()),
            code: FAILED,
        }
    }

    /// A failure with an exit code of its own.
    pub fn with_code(code: u8, message: impl fmt::Display) -> Self {
        Self {
            message: Some(message.to_string()),
            code,
        }
    }

    /// An end that was explained already.
    #[must_use]
    pub fn silent(code: u8) -> Self {
        Self {
            message: None,
            code,
        }
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or(""))
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
