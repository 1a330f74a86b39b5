//! The configuration as text: what is in force and why, and the reference file with every default.

use std::fmt::Write as _;

use super::error::Origin;
use super::keys::{Config, KEYS, Key, SECTIONS};
use super::kind::Kind;
use super::layers::Values;
use super::value::Raw;

/// One line of the configuration as shown. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// The lines of the table's keys.
pub(crate) fn lines(values: &Values) -> Vec<Shown> {
    KEYS.iter()
        .map(|key| Shown {
            key: key.name.to_owned(),
            value: values
                .get(key.name)
                .map_or("(not set)".to_owned(), ToString::to_string),
            origin: values.origin(key.name).clone(),
        })
        .collect()
}

impl Config {
    /// What is in force: `key = value  # origin`, a line each, secrets hidden.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = String::new();
        for Shown { key, value, origin } in &self.shown {
            text.push_str(&format!("{key} = {value}  # {origin}\n"));
        }
        text
    }

    /// The reference file: every key with its default, unit, meaning and worst effect. This is `config/petrel.toml`.
    #[must_use]
    pub fn reference() -> String {
        let mut text = String::from(HEAD);
        for key in KEYS.iter().filter(|key| key.parts().0.is_empty()) {
            text.push_str(&entry(key));
        }
        for section in SECTIONS {
            text.push('\n');
            comment(&mut text, section.meaning);
            text.push_str(&format!("[{}]\n", section.name));
            for key in KEYS.iter().filter(|key| key.parts().0 == section.name) {
                text.push_str(&entry(key));
            }
        }
        text.push_str(PROJECTS);
        text
    }
}

const HEAD: &str = "\
# Every key of Petrel with its default, unit and reason. A file need only name what differs.
#
# Later wins: defaults, this file, the environment, flags. The variable for quic.listen is PETREL_QUIC__LISTEN, for
# data_dir it is PETREL_DATA_DIR; lists have commas. `petrel config show` says what is in force and where it comes
# from; `petrel config check FILE` reports everything that is wrong with a file at once.
";

const PROJECTS: &str = r#"
# Projects, each with a section of its own; NAME has 1 to 64 characters of a-z 0-9 -. Without any, the broker makes a
# project "demo" with keys of its own, kept in the data directory. Keys have 16 to 256 characters of
# a-z A-Z 0-9 - . _ ~ + / = and differ from each other.
#
# [projects.NAME]
# Secret keys of publishers' servers: a bearer token in each request.
# api_keys = ["…"]
# Secret keys that apps are built with: devices register with them.
# app_keys = ["…"]
# Bounds of the project's queues where they differ from those of [queue]:
# queue_messages_max = …, queue_bytes_max = "…", queue_policy = "…", queue_project_bytes_max = "…"
"#;

/// A key with its comment; commented out where it has no default.
fn entry(key: &Key) -> String {
    let mut text = String::from("\n");
    comment(&mut text, key.meaning);
    comment(&mut text, &format!("Worst effect: {}", key.worst));
    comment(&mut text, &format!("Unit: {}.", key.kind.unit()));
    let name = key.parts().1;
    let default = key
        .default
        .and_then(|d| key.kind.parse(&Raw::Bare(d.to_owned())).ok());
    // Writing to a String cannot fail.
    let _ = match default {
        Some(value) => writeln!(text, "{name} = {value}"),
        None if matches!(key.kind, Kind::Count { .. }) => writeln!(text, "# {name} = …"),
        None => writeln!(text, "# {name} = \"…\""),
    };
    text
}

/// Appends a text as comment lines of at most 118 characters.
fn comment(out: &mut String, text: &str) {
    const LINE_CHARS_MAX: usize = 118;
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > LINE_CHARS_MAX {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
