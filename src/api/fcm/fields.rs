//! Walking one object of a request field by field, so that everything wrong is reported with its path.
//!
//! A reader takes the fields that it knows; [`Fields::finish`] reports those that are left. A field that is null counts
//! as absent. Of a name with underscores the spelling in camelCase is taken too, as Google's JSON does.

use std::fmt::Write as _;

use crate::api::fault::Violations;
use crate::api::json::{Json, Member, Object};

/// Longest key that a path shows whole, in characters.
const KEY_CHARS_MAX: usize = 64;

/// The fields of one object that nobody took yet.
pub(super) struct Fields {
    path: String,
    object: Object,
    known: Vec<&'static str>,
}

impl Fields {
    /// The fields of the request itself.
    pub(super) fn root(object: Object) -> Self {
        Self::at(String::new(), object)
    }

    /// The fields of the object at a path.
    pub(super) fn at(path: String, object: Object) -> Self {
        Self {
            path,
            object,
            known: Vec::new(),
        }
    }

    /// The path of this object.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The path of a field of this object.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Takes a field; null and absent are the same.
    pub(super) fn take(&mut self, name: &'static str, violations: &mut Violations) -> Option<Json> {
        self.known.push(name);
        let mut found: Option<Json> = None;
        for key in [Some(name.to_owned()), camel_case(name)]
            .into_iter()
            .flatten()
        {
            let Some(member) = self.object.remove(&key) else {
                continue;
            };
            let path = self.path_of(&key);
            match once(member, found.is_some(), &path, violations) {
                Json::Null => {}
                value => found = Some(value),
            }
        }
        found
    }

    /// Takes a field that is known and not supported. Whether it was there.
    pub(super) fn refuse(
        &mut self,
        name: &'static str,
        description: &'static str,
        violations: &mut Violations,
    ) -> bool {
        let is_there = self.take(name, violations).is_some();
        self.known.retain(|known| *known != name);
        if is_there {
            violations.add(self.path_of(name), description);
        }
        is_there
    }

    /// Takes a text.
    pub(super) fn string(
        &mut self,
        name: &'static str,
        violations: &mut Violations,
    ) -> Option<String> {
        match self.take(name, violations)? {
            Json::String(text) => Some(text),
            other => {
                violations.add(self.path_of(name), must_be("a string", &other));
                None
            }
        }
    }

    /// Takes a text and reads it; what is wrong with it is reported.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        violations: &mut Violations,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(name, violations)?;
        read(&text)
            .map_err(|description| violations.add(self.path_of(name), description))
            .ok()
    }

    /// Takes a truth value.
    pub(super) fn bool(&mut self, name: &'static str, violations: &mut Violations) -> Option<bool> {
        match self.take(name, violations)? {
            Json::Bool(value) => Some(value),
            other => {
                violations.add(self.path_of(name), must_be("true or false", &other));
                None
            }
        }
    }

    /// Takes an object.
    pub(super) fn object(
        &mut self,
        name: &'static str,
        violations: &mut Violations,
    ) -> Option<Self> {
        match self.take(name, violations)? {
            Json::Object(object) => Some(Self::at(self.path_of(name), object)),
            other => {
                violations.add(self.path_of(name), must_be("an object", &other));
                None
            }
        }
    }

    /// Takes everything as a map from keys to texts; null is no text here, because leaving out a key in silence would
    /// change the map.
    pub(super) fn into_strings(self, violations: &mut Violations) -> Vec<(String, String)> {
        let mut strings = Vec::with_capacity(self.object.len());
        for (key, member) in self.object {
            let path = join(&self.path, &key);
            match once(member, false, &path, violations) {
                Json::String(text) => strings.push((key, text)),
                other => violations.add(path, must_be("a string", &other)),
            }
        }
        strings
    }

    /// Reports every field that nobody took, unless it is null.
    pub(super) fn finish(self, violations: &mut Violations) {
        for (key, member) in &self.object {
            if member.value != Json::Null {
                let known = self.known.join(", ");
                violations.add(
                    self.path_of(key),
                    format!("is not supported; supported here: {known}"),
                );
            }
        }
    }
}

/// A member's value, after its repetition was reported.
fn once(member: Member, is_second: bool, path: &str, violations: &mut Violations) -> Json {
    if member.is_repeated || is_second {
        violations.add(path, "is given more than once");
    }
    member.value
}

pub(super) fn must_be(what: &str, found: &Json) -> String {
    format!("must be {what}, not {}", found.kind())
}

/// `collapse_key` as `collapseKey`; `None` for a single word.
fn camel_case(name: &str) -> Option<String> {
    if !name.contains('_') {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    for (index, word) in name.split('_').enumerate() {
        if index == 0 {
            out.push_str(word);
        } else {
            let mut chars = word.chars();
            out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
            out.push_str(chars.as_str());
        }
    }
    Some(out)
}

/// `path.key`, or `path["key"]` where the key is not made of letters, digits, `_` and `-`. Bounded and printable.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_plain = !key.is_empty()
        && key.len() <= KEY_CHARS_MAX
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_plain {
        let dot = if path.is_empty() { "" } else { "." };
        return format!("{path}{dot}{key}");
    }
    let mut out = format!("{path}[\"");
    for c in key.chars().take(KEY_CHARS_MAX) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}", c.escape_debug());
    }
    let more = if key.chars().nth(KEY_CHARS_MAX).is_some() {
        "…"
    } else {
        ""
    };
    out + more + "\"]"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_and_printable() {
        for (path, key, joined) in [
            ("", "message", "message"),
            ("message", "fcm_options", "message.fcm_options"),
            ("message.data", "a.b", "message.data[\"a.b\"]"),
            ("message.data", "", "message.data[\"\"]"),
            ("d", "a\"\n\u{202e}", "d[\"a\\\"\\n\\u{202e}\"]"),
        ] {
            assert_eq!(join(path, key), joined);
        }
        let long = "k".repeat(KEY_CHARS_MAX + 1);
        assert_eq!(join("", &long), format!("[\"{}…\"]", &long[1..]));
        assert_eq!(join("", &long[1..]), long[1..]);
    }

    #[test]
    fn names_have_a_twin_in_camel_case() {
        assert_eq!(
            camel_case("analytics_label").as_deref(),
            Some("analyticsLabel")
        );
        assert_eq!(camel_case("token"), None);
    }
}
