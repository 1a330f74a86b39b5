//! Every requirement of `docs/protocol.md` is cited by a test, and no test cites one that is not there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where tests of the protocol live.
const ROOMS: [&str; 7] = [
    "tests",
    "protocol/src",
    "core/src",
    "quic/src",
    "quic/tests",
    "client/tests",
    "src",
];

/// What marks a test, as it stands alone on a line.
const ATTRIBUTES: [&str; 2] = ["#[test]", "#[tokio::test"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `PROTO-n` of a text.
fn cited(text: &str) -> BTreeSet<u32> {
    text.split("PROTO-")
        .skip(1)
        .filter_map(|rest| {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..digits].parse().ok()
        })
        .collect()
}

/// The numbers that the document defines: `- **PROTO-n** …`. Each once.
fn defined() -> BTreeSet<u32> {
    let document = std::fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let mut numbers = BTreeSet::new();
    for line in document
        .lines()
        .filter(|line| line.starts_with("- **PROTO-"))
    {
        let number = *cited(&line[..line.rfind("**").unwrap()]).first().unwrap();
        assert!(numbers.insert(number), "PROTO-{number} is defined twice");
    }
    numbers
}

/// Every source file below a folder but this one, which cites numbers that are none.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with(file!())
        {
            found.push(path);
        }
    }
}

/// The comments of each test of a source file: those right above it and those inside it, by its name.
fn comments_of_tests(source: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut tests = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !ATTRIBUTES
            .iter()
            .any(|attribute| line.trim_start().starts_with(attribute))
        {
            continue;
        }
        let is_head = |line: &&&str| {
            let line = line.trim_start();
            line.starts_with("//") || line.starts_with("#[")
        };
        let above = lines[..at].iter().rev().take_while(is_head);
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let body = lines[at..].iter().take_while(|line| **line != end);
        let name = body
            .clone()
            .find_map(|line| line.split("fn ").nth(1)?.split('(').next())
            .unwrap_or_default();
        let inside = body.filter_map(|line| line.split_once("//").map(|(_, comment)| comment));
        let comments: Vec<&str> = above.copied().chain(inside).collect();
        tests.push((name.to_owned(), comments.join("\n")));
    }
    tests
}

/// Which tests cite which number, over all rooms.
fn tests_by_number() -> BTreeMap<u32, Vec<String>> {
    let mut by_number: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for room in ROOMS {
        let mut files = Vec::new();
        sources(&root().join(room), &mut files);
        for file in files {
            let source = std::fs::read_to_string(&file).unwrap();
            let place = file.strip_prefix(root()).unwrap().display();
            for (name, comments) in comments_of_tests(&source) {
                for number in cited(&comments) {
                    by_number
                        .entry(number)
                        .or_default()
                        .push(format!("{place}: {name}"));
                }
            }
        }
    }
    by_number
}

#[test]
fn every_requirement_is_cited_by_a_test() {
    let tests = tests_by_number();
    let missing: Vec<_> = defined()
        .into_iter()
        .filter(|n| !tests.contains_key(n))
        .collect();
    assert!(
        missing.is_empty(),
        "no test cites these PROTO numbers: {missing:?}"
    );
}

#[test]
fn every_cited_requirement_is_defined() {
    let defined = defined();
    assert!(defined.len() > 30, "the document is not read: {defined:?}");
    for (number, tests) in tests_by_number() {
        assert!(
            defined.contains(&number),
            "PROTO-{number} is not in docs/protocol.md: {tests:?}"
        );
    }
    // Also where code says which requirement it obeys.
    for room in ROOMS.iter().chain(&["client/src"]) {
        let mut files = Vec::new();
        sources(&root().join(room), &mut files);
        for file in &files {
            let unknown: Vec<_> = cited(&std::fs::read_to_string(file).unwrap())
                .difference(&defined)
                .copied()
                .collect();
            assert!(
                unknown.is_empty(),
                "{}: {unknown:?} are not defined",
                file.display()
            );
        }
    }
}

#[test]
fn comments_above_and_inside_a_test_are_found_and_no_others() {
    let attribute = "#[test]";
    let source = format!(
        "/// PROTO-90 is code's.\nfn code() {{}}\n\n/// PROTO-91: above.\n{attribute}\nfn one() {{\n    \
         // PROTO-92, PROTO-93\n}}\n\n// PROTO-94 is after.\n"
    );
    let tests = comments_of_tests(&source);
    assert_eq!(tests.len(), 1);
    assert_eq!(tests[0].0, "one");
    assert_eq!(cited(&tests[0].1), BTreeSet::from([91, 92, 93]));
}
