//! `cargo xtask lint`: everything that must hold of the code without running it.
//!
//! All checks run, whatever the earlier ones say, so that one run shows all there is to mend.

mod advisories;
mod licences;
mod purity;
mod rooms;
mod rust_tokens;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::workspace::{BUILD, Workspace};
use crate::{codegen, programs};

/// What a check found, if it found nothing wrong.
enum Verdict {
    Holds,
    /// It could not be made here; the reason is printed, and nothing fails.
    NotChecked(String),
}

type Check = fn(&Workspace) -> Result<Verdict>;

/// In this order: the quick ones with the most frequent findings first.
const CHECKS: [(&str, Check); 8] = [
    ("format", format),
    ("generated code", generated_code),
    ("imports between crates", purity::check),
    ("imports between rooms", rooms::check),
    ("licences", licences::check),
    ("advisories", advisories::check),
    ("clippy", clippy),
    ("docs", docs),
];

/// Runs every check and says which failed.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    programs::require(&programs::LINT)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        match check(workspace) {
            Ok(Verdict::Holds) => println!("lint: {name}: ok"),
            Ok(Verdict::NotChecked(reason)) => println!("lint: {name}: not checked: {reason}"),
            Err(error) => {
                println!("lint: {name}: FAILED: {error:#}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lint: failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn format(workspace: &Workspace) -> Result<Verdict> {
    let mut command = workspace.cargo("fmt");
    succeed(
        command.args(["--all", "--check"]),
        "run `cargo fmt --all` and commit the result",
    )
}

fn generated_code(workspace: &Workspace) -> Result<Verdict> {
    codegen::check(workspace).map(|()| Verdict::Holds)
}

fn clippy(workspace: &Workspace) -> Result<Verdict> {
    let mut command = workspace.cargo("clippy");
    command
        .args(BUILD)
        .args(["--all-targets", "--", "-D", "warnings"]);
    succeed(
        &mut command,
        "mend what stands above; where a lint is wrong, `#[expect(…, reason = \"…\")]` beside it",
    )
}

/// Private items too: their links are what a newcomer to the house follows.
fn docs(workspace: &Workspace) -> Result<Verdict> {
    let mut command = workspace.cargo("doc");
    command
        .args(BUILD)
        .args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    succeed(&mut command, "mend the doc comments that are named above")
}

/// Runs a command whose output the user sees as it comes.
fn succeed(command: &mut Command, way_out: &str) -> Result<Verdict> {
    let status = command
        .status()
        .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    if status.success() {
        Ok(Verdict::Holds)
    } else {
        bail!("{way_out}")
    }
}

/// Fails with all findings, one a line, unless there are none.
fn report(findings: Vec<String>, way_out: &str) -> Result<Verdict> {
    if findings.is_empty() {
        return Ok(Verdict::Holds);
    }
    for finding in &findings {
        println!("  {finding}");
    }
    bail!("found above: {}; {way_out}", findings.len())
}
