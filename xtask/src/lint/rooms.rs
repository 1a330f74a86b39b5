//! Which rooms of the broker (`src/`) may import which.
//!
//! A room is a module below the crate root: `src/api/**`, or a single file such as `src/broker.rs`. Each stands on
//! a floor, and imports only from lower ones; rooms of one floor do not know each other. So there are no circles,
//! and `api` and `shard` never meet.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

use super::rust_tokens::{Token, outside_tests};
use super::{Verdict, report};

/// Modules that hold only tests, whatever room they stand in.
const TEST_MODULES: [&str; 2] = ["tests", "simulation"];

/// The rooms, lowest floor first.
const FLOORS: [&[&str]; 9] = [
    &["config", "telemetry"],
    &["data_dir"],
    &["store", "presence"],
    &["directory"],
    &["delivery"],
    &["fanout"],
    &["shard", "api"],
    &["broker"],
    &["cli"],
];

/// Files that are no room: they tie the rooms together and may name all of them.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

pub(super) fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut findings = Vec::new();
    let mut files = Vec::new();
    collect(&workspace.root.join("src"), &mut files)?;
    for file in files {
        let name = file
            .strip_prefix(&workspace.root)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        let source = fs::read_to_string(&file).with_context(|| format!("{name} cannot be read"))?;
        findings.extend(findings_in(&name, &source));
    }
    let order: Vec<String> = FLOORS.iter().map(|floor| floor.join(", ")).collect();
    report(
        findings,
        &format!(
            "a room imports only from those on its left: {}; move what both need to the left, \
             or hand it over in the broker",
            order.join(" ← ")
        ),
    )
}

/// All Rust files below a folder, in a stable order.
fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// What breaks the order in one file. `name` is its path from the root of the repository.
fn findings_in(name: &str, source: &str) -> Vec<String> {
    let Some(modules) = modules(name) else {
        return Vec::new();
    };
    let Some(room) = modules.first() else {
        return Vec::new();
    };
    let Some(floor) = floor(room) else {
        return vec![format!(
            "{name}: the room `{room}` has no floor in xtask/src/lint/rooms.rs: give it one"
        )];
    };
    let mut findings = Vec::new();
    for (line, imported) in rooms_named(&outside_tests(source), modules.len()) {
        // What is no room is an item of the crate root, and the root is everybody's.
        if imported != *room && self::floor(imported).is_some_and(|other| other >= floor) {
            findings.push(format!("{name}:{line}: {room} may not import {imported}"));
        }
    }
    findings
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The modules that a file is, outermost first; none for the crate's roots and for files that hold only tests.
fn modules(name: &str) -> Option<Vec<&str>> {
    let path = name.strip_prefix("src/")?;
    let modules: Vec<&str> = path
        .strip_suffix(".rs")?
        .split('/')
        .filter(|part| *part != "mod")
        .collect();
    let is_test = modules
        .iter()
        .skip(1)
        .any(|module| TEST_MODULES.contains(module));
    (!is_test && !ROOTS.contains(&path) && !path.starts_with("bin/")).then_some(modules)
}

/// The names that a file takes from the crate root, each with its line. `depth` is how many modules deep the file is.
fn rooms_named<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<(usize, &'a str)> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut named = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let start = at;
        let mut supers = 0;
        while text(at) == "super" && text(at + 1) == "::" {
            supers += 1;
            at += 2;
        }
        if supers == 0 && text(at) == "crate" && text(at + 1) == "::" {
            supers = depth;
            at += 2;
        }
        if at == start {
            at += 1;
        } else if supers == depth {
            heads(&tokens[at..], &mut named);
        }
    }
    named
}

/// The first word of each path in `a::b` or `{a::{b, c}, d}`.
fn heads<'a>(tokens: &[Token<'a>], named: &mut Vec<(usize, &'a str)>) {
    if tokens.first().is_none_or(|token| token.text != "{") {
        named.extend(tokens.first().map(|token| (token.line, token.text)));
        return;
    }
    let mut depth = 0_usize;
    let mut at_head = false;
    for token in tokens {
        match token.text {
            "{" => {
                depth += 1;
                at_head = depth == 1;
            }
            "}" if depth <= 1 => return,
            "}" => depth -= 1,
            "," => at_head = depth == 1,
            word => {
                if at_head {
                    named.push((token.line, word));
                }
                at_head = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, source: &str, expect: &[&str]) {
        assert_eq!(findings_in(name, source), expect, "{source}");
    }

    #[test]
    fn rooms_import_downwards() {
        check("src/api/fcm.rs", "use crate::delivery::Publish;", &[]);
        check("src/broker.rs", "use crate::{api, shard};", &[]);
        check("src/store/sled.rs", "use crate::store::Store;", &[]);
        check("src/cli/listen.rs", "use crate::broker::Broker;", &[]);
        check("src/main.rs", "use crate::shard::X;", &[]);
        check("src/api/mod.rs", "use crate::Error;", &[]);
    }

    #[test]
    fn rooms_do_not_import_upwards_or_sideways() {
        check(
            "src/api/fcm.rs",
            "//! Text.\n\nuse crate::shard::Shard;",
            &["src/api/fcm.rs:3: api may not import shard"],
        );
        check(
            "src/shard/mod.rs",
            "fn f() { crate::api::g() }",
            &["src/shard/mod.rs:1: shard may not import api"],
        );
        check(
            "src/delivery.rs",
            "use crate::{\n    config::Config,\n    fanout::{self, walk, broker},\n    store,\n};",
            &["src/delivery.rs:3: delivery may not import fanout"],
        );
        check(
            "src/presence/page.rs",
            "pub(crate) use crate::broker::Broker;",
            &["src/presence/page.rs:1: presence may not import broker"],
        );
    }

    #[test]
    fn the_way_through_super_is_seen() {
        check(
            "src/api/fcm/parse.rs",
            "use super::super::super::shard::Shard; use super::shard::X; use super::super::shard::Y;",
            &["src/api/fcm/parse.rs:1: api may not import shard"],
        );
        check(
            "src/store/mod.rs",
            "use super::broker;",
            &["src/store/mod.rs:1: store may not import broker"],
        );
    }

    #[test]
    fn tests_and_comments_may_name_anything() {
        check("src/api/fcm.rs", "// crate::shard\n", &[]);
        check(
            "src/api/fcm.rs",
            "#[cfg(test)]\nmod tests {\n    use crate::shard::Shard;\n}",
            &[],
        );
        check("src/api/tests.rs", "use crate::shard::Shard;", &[]);
        check(
            "src/delivery/simulation/world.rs",
            "use crate::fanout::X;",
            &[],
        );
        check(
            "src/simulation/world.rs",
            "",
            &[
                "src/simulation/world.rs: the room `simulation` has no floor in xtask/src/lint/rooms.rs: give it one",
            ],
        );
    }

    #[test]
    fn an_unknown_room_is_named() {
        check(
            "src/attic/mod.rs",
            "",
            &[
                "src/attic/mod.rs: the room `attic` has no floor in xtask/src/lint/rooms.rs: give it one",
            ],
        );
    }
}
