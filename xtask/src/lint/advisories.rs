//! Known vulnerabilities of dependencies, where a tool and its database are at hand.
//!
//! This never goes to the network: lint must give the same answer twice, and must work on a train.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::workspace::Workspace;

use super::{Verdict, succeed};

/// A tool that knows advisories: its subcommand of cargo, the folder below `CARGO_HOME` in which it keeps its
/// database, the arguments that check offline, and the command that fetches the database.
struct Tool {
    subcommand: &'static str,
    database: &'static str,
    arguments: &'static [&'static str],
    fetch: &'static str,
}

const TOOLS: [Tool; 2] = [
    Tool {
        subcommand: "deny",
        database: "advisory-dbs",
        arguments: &["--offline", "check", "advisories"],
        fetch: "cargo deny fetch",
    },
    Tool {
        subcommand: "audit",
        database: "advisory-db",
        arguments: &["--no-fetch", "--stale"],
        fetch: "cargo audit",
    },
];

pub(super) fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut without_database = None;
    for tool in &TOOLS {
        if !is_installed(tool, workspace) {
            continue;
        }
        if cargo_home().is_some_and(|home| home.join(tool.database).is_dir()) {
            let mut command = workspace.cargo(tool.subcommand);
            return succeed(
                command.args(tool.arguments),
                "update the crates named above, or choose others",
            );
        }
        without_database.get_or_insert(tool);
    }
    Ok(Verdict::NotChecked(match without_database {
        Some(tool) => format!("no database on this machine; `{}` fetches it", tool.fetch),
        None => "neither cargo-deny nor cargo-audit is installed; \
                 `cargo install cargo-deny && cargo deny fetch` gets one"
            .to_owned(),
    }))
}

fn is_installed(tool: &Tool, workspace: &Workspace) -> bool {
    // The program itself, because `cargo deny` of a cargo without it may spell out suggestions.
    Command::new(format!("cargo-{}", tool.subcommand))
        .args([tool.subcommand, "--version"])
        .current_dir(&workspace.root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}
