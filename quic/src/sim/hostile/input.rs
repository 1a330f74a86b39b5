//! Reads a fuzz target's input piece by piece. What is missing at the end is zero, so that every input means something.

use std::time::Duration;

pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    pub(super) fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Bytes behind a length of two bytes; at most `max`, and at most what is there.
    pub(super) fn bytes(&mut self, max: usize) -> &'a [u8] {
        let length = usize::from(self.number()).min(max).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    /// From a millisecond to half a minute.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_millis(1 << (self.byte() % 16))
    }
}
