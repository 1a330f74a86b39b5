//! Which crates may depend on which, as the `Cargo.toml` files say.
//!
//! The pure crates are proved pure here: what a crate does not list, its code cannot name. Development and build
//! dependencies count too, since a test with a clock of its own is no test under virtual time.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace::Workspace;

use super::{Verdict, report};

/// Sockets, clocks, tasks, randomness, storage and metrics: nothing for a crate that is a function of its input.
const IMPURE: [&str; 7] = [
    "tokio",
    "quinn",
    "quinn-proto",
    "sled",
    "dashmap",
    "metrics",
    "rand",
];

/// What one of our crates may list.
struct Rule {
    package: &'static str,
    /// Those of our crates that it may depend on.
    ours: &'static [&'static str],
    /// Those of other people's that it may not.
    banned: &'static [&'static str],
}

const RULES: [Rule; 7] = [
    Rule {
        package: "petrel-protocol",
        ours: &[],
        banned: &IMPURE,
    },
    Rule {
        package: "petrel-core",
        ours: &["petrel-protocol"],
        banned: &IMPURE,
    },
    Rule {
        package: "petrel-quic",
        ours: &[],
        // The broker's side drives quinn-proto itself; a task and a mutex per connection is what it exists to avoid.
        banned: &["quinn", "sled", "dashmap"],
    },
    Rule {
        package: "petrel-client",
        ours: &["petrel-protocol"],
        banned: &["sled", "dashmap"],
    },
    Rule {
        package: "petrel",
        // The client, because `petrel listen` is a device.
        ours: &[
            "petrel-client",
            "petrel-core",
            "petrel-protocol",
            "petrel-quic",
        ],
        banned: &[],
    },
    Rule {
        package: "petrel-load",
        ours: &["petrel-protocol", "petrel-quic"],
        banned: &[],
    },
    Rule {
        package: "xtask",
        ours: &[],
        banned: &[],
    },
];

pub(super) fn check(workspace: &Workspace) -> Result<Verdict> {
    report(
        findings(&workspace.members()?)?,
        "ARCHITECTURE.md says which crate knows which; move the code to the crate that may",
    )
}

/// What breaks the rules in the output of `cargo metadata --no-deps`.
fn findings(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages; update cargo")?;
    let our_names: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"]
            .as_str()
            .context("cargo metadata names no package; update cargo")?;
        let Some(rule) = RULES.iter().find(|rule| rule.package == name) else {
            findings.push(format!(
                "{name} has no rule in xtask/src/lint/purity.rs: add one"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(listed) = dependency["name"].as_str() else {
                continue;
            };
            // A crate may list itself, to turn on its own features for its tests.
            let ours = our_names.contains(&listed) && listed != name;
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            // An unmodified client is the best judge of a server: tests may use one.
            let is_judge = kind == "dev" && name == "petrel-quic" && listed == "quinn";
            let is_banned = rule.banned.contains(&listed) && !is_judge;
            if (ours && !rule.ours.contains(&listed)) || is_banned {
                findings.push(format!("{name} may not list {listed} ({kind} dependency)"));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(package: &str, dependency: &str, kind: Option<&str>, expect: &[&str]) {
        let ours: Vec<Value> = RULES
            .iter()
            .filter(|rule| rule.package != package)
            .map(|rule| json!({ "name": rule.package, "dependencies": [] }))
            .chain([json!({
                "name": package,
                "dependencies": [{ "name": dependency, "kind": kind }],
            })])
            .collect();
        let found = findings(&json!({ "packages": ours })).expect("findings");
        assert_eq!(found, expect, "{package} with {dependency}");
    }

    #[test]
    fn pure_crates_list_nothing_impure() {
        check("petrel-protocol", "bytes", None, &[]);
        check(
            "petrel-protocol",
            "tokio",
            None,
            &["petrel-protocol may not list tokio (normal dependency)"],
        );
        check(
            "petrel-core",
            "rand",
            Some("dev"),
            &["petrel-core may not list rand (dev dependency)"],
        );
        check("petrel-client", "rand", None, &[]);
    }

    #[test]
    fn our_crates_depend_downwards_only() {
        check("petrel-core", "petrel-protocol", None, &[]);
        check("petrel-client", "petrel-protocol", None, &[]);
        check("petrel", "petrel-quic", None, &[]);
        check("petrel-core", "petrel-core", Some("dev"), &[]);
        check(
            "petrel-quic",
            "petrel-protocol",
            None,
            &["petrel-quic may not list petrel-protocol (normal dependency)"],
        );
        check(
            "petrel-protocol",
            "petrel-core",
            None,
            &["petrel-protocol may not list petrel-core (normal dependency)"],
        );
    }

    #[test]
    fn a_crate_without_a_rule_is_named() {
        check(
            "petrel-new",
            "bytes",
            None,
            &["petrel-new has no rule in xtask/src/lint/purity.rs: add one"],
        );
    }
}
