//! The programs that a command needs besides cargo: are they here, are they new enough, and how to get them.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// A program of somebody else's.
pub(crate) struct Program {
    name: &'static str,
    /// The environment variable that names another program in its place.
    variable: Option<&'static str>,
    /// The oldest version that will do, if that matters.
    at_least: Option<(u32, u32)>,
    /// What it is needed for and how to get it.
    how: &'static str,
}

/// What `cargo xtask lint` needs.
pub(crate) const LINT: [Program; 3] = [CC, RUSTFMT, CLIPPY];

/// What `cargo xtask test` needs.
pub(crate) const TEST: [Program; 4] = [CC, PYTHON, NODE, NPM];

const CC: Program = Program {
    name: "cc",
    variable: Some("CC"),
    at_least: None,
    how: "a C compiler, for the cryptography: `apt install gcc libc6-dev` or your system's equivalent",
};

const RUSTFMT: Program = Program {
    name: "rustfmt",
    variable: Some("RUSTFMT"),
    at_least: None,
    how: "a component of the toolchain: `rustup component add rustfmt`",
};

const CLIPPY: Program = Program {
    name: "clippy-driver",
    variable: None,
    at_least: None,
    how: "a component of the toolchain: `rustup component add clippy`",
};

const PYTHON: Program = Program {
    name: "python3",
    variable: None,
    at_least: Some((3, 9)),
    how: "for the Python clients in the tests: `apt install python3 python3-venv` or https://www.python.org",
};

const NODE: Program = Program {
    name: "node",
    variable: None,
    at_least: Some((18, 0)),
    how: "for the JavaScript clients in the tests: `apt install nodejs` or https://nodejs.org",
};

const NPM: Program = Program {
    name: "npm",
    variable: None,
    at_least: None,
    how: "for the JavaScript clients in the tests: `apt install npm`, or with node from https://nodejs.org",
};

/// Fails if one of the programs is missing or too old, after a line for each.
pub(crate) fn require(programs: &[Program]) -> Result<()> {
    let complaints: Vec<String> = programs.iter().filter_map(complaint).collect();
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("install what is named above and run this again")
}

fn complaint(program: &Program) -> Option<String> {
    let path = program
        .variable
        .and_then(std::env::var_os)
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| OsString::from(program.name));
    let shown = path.to_string_lossy().into_owned();
    let output = Command::new(&path)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Some(format!("missing: {shown}: {}", program.how));
    };
    let (major, minor) = program.at_least?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    match version(&printed) {
        Some(found) if found >= (major, minor) => None,
        _ => Some(format!(
            "too old: {shown} says `{}`, {major}.{minor} or newer is needed: {}",
            printed.trim(),
            program.how
        )),
    }
}

/// Major and minor number in `Python 3.11.7` or `v20.20.2`.
fn version(printed: &str) -> Option<(u32, u32)> {
    let start = printed.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = printed[start..].split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let check = |printed: &str, expect| assert_eq!(version(printed), expect, "{printed}");
        check("Python 3.11.7\n", Some((3, 11)));
        check("v20.20.2\n", Some((20, 20)));
        check("Python 3.9.0rc1", Some((3, 9)));
        check("Python", None);
        check("", None);
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_to_get_it() {
        let absent = Program {
            name: "petrel-no-such-program",
            ..CC
        };
        let absent = Program {
            variable: None,
            ..absent
        };
        let line = complaint(&absent).expect("a complaint");
        assert!(
            line.starts_with("missing: petrel-no-such-program: "),
            "{line}"
        );
        assert!(line.contains("apt install"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn a_program_that_is_too_old_says_so() {
        let cargo = Program {
            name: "cargo",
            variable: None,
            at_least: Some((999, 0)),
            how: "later",
        };
        let line = complaint(&cargo).expect("a complaint");
        assert!(line.starts_with("too old: cargo says `cargo "), "{line}");
    }
}
