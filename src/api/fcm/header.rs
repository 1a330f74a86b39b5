//! Headers of other push services that stand in a message: `apns.headers`, `webpush.headers`.
//!
//! Names are compared without regard to case, as in HTTP; the same name in two spellings is given twice.

use super::fields::{Fields, join};
use crate::api::fault::Violations;

/// The headers of one platform's block.
pub(super) struct Headers {
    path: String,
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Headers {
    /// Takes the field `headers` of a block.
    pub(super) fn take(block: &mut Fields, violations: &mut Violations) -> Option<Self> {
        let fields = block.object("headers", violations)?;
        Some(Self {
            path: fields.path().to_owned(),
            left: fields.into_strings(violations),
            known: Vec::new(),
        })
    }

    /// Takes a header and reads it; what is wrong with it is reported.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        violations: &mut Violations,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(name);
        let mut found = self
            .left
            .extract_if(.., |(key, _)| key.eq_ignore_ascii_case(name));
        let (key, value) = found.next()?;
        let is_repeated = found.count() > 0;
        let path = format!("{}.{key}", self.path);
        if is_repeated {
            violations.add(&*path, "is given more than once");
        }
        read(&value)
            .map_err(|description| violations.add(path, description))
            .ok()
    }

    /// Reports every header that nobody took.
    pub(super) fn finish(self, violations: &mut Violations) {
        for (key, _) in &self.left {
            let known = self.known.join(", ");
            violations.add(
                join(&self.path, key),
                format!("is not supported; supported here: {known}"),
            );
        }
    }
}
