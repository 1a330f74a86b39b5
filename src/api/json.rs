//! JSON as it was sent, with what `serde_json::Value` hides: a key that stands twice.
//!
//! Where two programs read one text, and one takes the first of two equal keys and the other the last, they disagree
//! about what was asked; so a repeated key is kept visible here and refused by the caller.
//!
//! Bounded by the length of the body, and by `serde_json`'s own limit of 128 levels. Numbers and arrays are known to
//! be there and not kept: no field of a publish holds one.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number,
    String(String),
    Array,
    Object(Object),
}

/// The members of an object, by key.
pub(super) type Object = BTreeMap<String, Member>;

/// One member of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    /// The first value that was given.
    pub(super) value: Json,
    /// Whether the key stands there more than once.
    pub(super) is_repeated: bool,
}

impl Json {
    /// What it is, for an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number => "a number",
            Self::String(_) => "a string",
            Self::Array => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            object
                .entry(key)
                .and_modify(|member| member.is_repeated = true)
                .or_insert(Member {
                    value,
                    is_repeated: false,
                });
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Json, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn every_kind_is_read() {
        for (text, kind) in [
            ("null", "null"),
            ("true", "a boolean"),
            ("1", "a number"),
            ("-1", "a number"),
            ("1.5e3", "a number"),
            ("\"x\\u00e9\"", "a string"),
            ("[1, {\"a\": []}]", "an array"),
            ("{\"a\": {}}", "an object"),
        ] {
            assert_eq!(parse(text).unwrap().kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_repeated_key_is_seen_however_it_is_written() {
        let Ok(Json::Object(object)) = parse(r#"{"a": 1, "\u0061": "2", "b": 1}"#) else {
            panic!("an object");
        };
        assert!(object["a"].is_repeated && !object["b"].is_repeated);
    }

    #[test]
    fn depth_is_bounded_and_errors_repeat_nothing_of_the_text() {
        let nested = |n: usize| format!("{}1{}", "{\"secret\":".repeat(n), "}".repeat(n));
        assert!(parse(&nested(100)).is_ok());
        let error = parse(&nested(200)).unwrap_err();
        assert!(error.starts_with("recursion limit"), "{error}");
        let wide = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = parse(&wide);
        for bad in ["{\"secret\": x}", "\"secret", "{\"secret\"}", "secret", ""] {
            assert!(!parse(bad).unwrap_err().contains("secret"), "{bad}");
        }
    }
}
