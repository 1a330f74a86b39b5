//! The layers: defaults, then the file, then the environment, then flags; later ones win.
//!
//! Collects what every layer gives, with its origin, and resolves the keys of the table. A value that is wrong is a
//! problem even where a later layer overrides it: a broken file must not hide behind a flag. Reads no file and no
//! environment by itself; the caller hands them in.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{Cause, Origin, Problem};
use super::keys::{KEYS, SECTIONS};
use super::kind::Kind;
use super::nearest::nearest;
use super::project;
use super::value::{Raw, Value};

/// The start of every environment variable that is a key.
pub const ENVIRONMENT_PREFIX: &str = "PETREL_";

/// A key given on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flag {
    /// The flag as the user writes it, such as `--quic`.
    pub name: String,
    /// The key that it sets, such as `quic.listen`.
    pub key: String,
    /// The value, as the environment would give it.
    pub value: String,
}

impl Flag {
    /// A flag `name` that sets `key`.
    pub fn new(name: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
            value: value.into(),
        }
    }
}

/// A value with its origin.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) raw: Raw,
    pub(crate) origin: Origin,
}

/// All layers: by key, the values given for it, the lowest layer first. Keys of projects stand apart, because
/// their names are the user's.
#[derive(Default, Debug)]
pub(crate) struct Layers {
    by_key: BTreeMap<&'static str, Vec<Given>>,
    pub(crate) by_project: BTreeMap<String, project::Section>,
    /// The file could not be read or parsed, so its values are unknown.
    pub(crate) is_partial: bool,
}

impl Layers {
    /// Adds the file.
    pub(crate) fn file(&mut self, path: &Path, text: &str, problems: &mut Vec<Problem>) {
        let line = |offset: usize| 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
        let (table, errors) = DeTable::parse_recoverable(text);
        self.is_partial = !errors.is_empty();
        let mut line_before = None;
        for error in errors {
            // What follows on the same line is mostly a consequence.
            let here = error.span().map_or(0, |span| line(span.start));
            if line_before.replace(here) == Some(here) {
                continue;
            }
            problems.push(Problem {
                key: String::new(),
                value: None,
                origin: Origin::file(path, here),
                // The parser's own display quotes the line, which may hold a secret: only its message is used.
                cause: Cause::Syntax(error.message().to_owned()),
            });
        }
        if !self.is_partial {
            let origin = |offset| Origin::file(path, line(offset));
            self.table("", table.get_ref(), &origin, problems);
        }
    }

    /// Walks a table of the file; `prefix` is its name with a dot behind.
    fn table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        origin: &dyn Fn(usize) -> Origin,
        problems: &mut Vec<Problem>,
    ) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let origin_here = origin(name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => {
                    if let Some(project) = key.strip_prefix("projects.") {
                        // A project without keys is noticed only if it is known to be there.
                        if !project.contains('.') {
                            self.by_project
                                .entry(project.to_owned())
                                .or_default()
                                .origin = Some(origin_here);
                        }
                    } else if inner.is_empty() && !is_section(&key) {
                        self.give(&key, Raw::Other("a section"), origin_here, problems);
                    }
                    self.table(&format!("{key}."), inner, origin, problems);
                }
                leaf => self.give(&key, raw(leaf), origin_here, problems),
            }
        }
    }

    /// Adds the environment; variables without the prefix are not ours.
    pub(crate) fn environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
        problems: &mut Vec<Problem>,
    ) {
        // Sorted, because the order of an environment is arbitrary and that of errors should not be.
        let ours: BTreeMap<String, String> = variables
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        for (name, value) in ours {
            let bare = name
                .strip_prefix(ENVIRONMENT_PREFIX)
                .unwrap_or_default()
                .to_lowercase();
            let key = match bare.split("__").collect::<Vec<_>>().as_slice() {
                // Project names have no underscore, so that one can stand for the hyphen of a name.
                ["projects", project, key] => {
                    format!("projects.{}.{key}", project.replace('_', "-"))
                }
                parts => parts.join("."),
            };
            self.give(&key, Raw::Bare(value), Origin::Environment(name), problems);
        }
    }

    /// Adds the flags, in order.
    pub(crate) fn flags(&mut self, flags: &[Flag], problems: &mut Vec<Problem>) {
        for flag in flags {
            let origin = Origin::Flag(flag.name.clone());
            self.give(&flag.key, Raw::Bare(flag.value.clone()), origin, problems);
        }
    }

    /// Takes one value to its key, or finds that there is no such key.
    fn give(&mut self, key: &str, raw: Raw, origin: Origin, problems: &mut Vec<Problem>) {
        if let Some(rest) = key.strip_prefix("projects.") {
            return project::give(&mut self.by_project, rest, Given { raw, origin }, problems);
        }
        if let Some(known) = KEYS.iter().find(|k| k.name == key) {
            self.by_key
                .entry(known.name)
                .or_default()
                .push(Given { raw, origin });
            return;
        }
        let cause = if is_section(key) {
            Cause::Section
        } else {
            let nearest = nearest(key, KEYS.iter().map(|k| k.name));
            Cause::UnknownKey {
                nearest: nearest.map(|key| origin.key_name(key)),
            }
        };
        // No value: who mistypes a key may have given it a secret.
        problems.push(Problem {
            key: key.to_owned(),
            value: None,
            origin,
            cause,
        });
    }

    /// The value of every key of the table, and what is wrong with any of them.
    pub(crate) fn resolve(&self, problems: &mut Vec<Problem>) -> Values {
        let mut values = Values::default();
        for key in KEYS {
            let mut resolved = key.default.map(|text| {
                let value = key.kind.parse(&Raw::Bare(text.to_owned()));
                (value.ok(), Origin::Default)
            });
            for given in self.by_key.get(key.name).into_iter().flatten() {
                match key.kind.parse(&given.raw) {
                    Ok(value) => resolved = Some(layered(resolved, value, &given.origin)),
                    Err(cause) => {
                        problems.push(Problem {
                            key: key.name.to_owned(),
                            value: shown(&key.kind, &given.raw),
                            origin: given.origin.clone(),
                            cause,
                        });
                        // Not the lower layer's value: a relation must not be judged by what nobody asked for.
                        resolved = Some((None, given.origin.clone()));
                    }
                }
            }
            if let Some((value, origin)) = resolved {
                values.insert(key.name, value, origin);
            }
        }
        values
    }
}

/// Puts a value over the one below: replaces it, or, for a flag of a list, adds to it.
fn layered(
    below: Option<(Option<Value>, Origin)>,
    value: Value,
    origin: &Origin,
) -> (Option<Value>, Origin) {
    match (below, value) {
        (Some((Some(Value::Names(mut names)), lower)), Value::Names(more))
            if matches!(origin, Origin::Flag(_)) =>
        {
            let origin = if names.is_empty() {
                origin.clone()
            } else {
                Origin::Several(vec![lower, origin.clone()])
            };
            names.extend(more);
            (Some(Value::Names(names)), origin)
        }
        (_, value) => (Some(value), origin.clone()),
    }
}

/// The value as an error may show it. A URL with a user name may have a password, too.
fn shown(kind: &Kind, raw: &Raw) -> Option<String> {
    let shown = raw.shown();
    (!matches!(kind, Kind::Url) || !shown.contains('@')).then_some(shown)
}

fn is_section(key: &str) -> bool {
    key == "projects" || SECTIONS.iter().any(|section| section.name == key)
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix());
            Raw::Integer(number.unwrap_or(i128::MAX))
        }
        DeValue::Boolean(on) => Raw::Switch(*on),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a section"),
    }
}

/// The resolved value and origin of each key that is set.
#[derive(Default, Debug)]
pub(crate) struct Values {
    by_key: BTreeMap<&'static str, (Option<Value>, Origin)>,
}

impl Values {
    fn insert(&mut self, key: &'static str, value: Option<Value>, origin: Origin) {
        self.by_key.insert(key, (value, origin));
    }

    /// The value; `None` where the key is not set or its value was refused.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key)?.0.as_ref()
    }

    /// Where the value comes from.
    pub(crate) fn origin(&self, key: &str) -> &Origin {
        self.by_key
            .get(key)
            .map_or(&Origin::Default, |(_, origin)| origin)
    }

    /// Whether the key was given a value, right or wrong.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }
}
