//! Every dependency's licence must be one that asks for no more than attribution.
//!
//! The expressions are SPDX's (`OR`, `AND`, `WITH`, parentheses), and the older `MIT/Apache-2.0` of crates.io.

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

use super::{Verdict, report};

/// Permissive licences, and those with an exception that only widens them.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(super) fn check(workspace: &Workspace) -> Result<Verdict> {
    let metadata = workspace.dependencies()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages; update cargo")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        let version = package["version"].as_str().unwrap_or("?");
        match package["license"].as_str() {
            None => findings.push(format!("{name} {version} names no licence")),
            Some(licence) => match is_allowed(licence) {
                Ok(true) => {}
                Ok(false) => findings.push(format!("{name} {version} is under {licence}")),
                Err(error) => findings.push(format!("{name} {version}: `{licence}`: {error}")),
            },
        }
    }
    report(
        findings,
        "choose another crate, or, if the licence is permissive, add it to xtask/src/lint/licences.rs",
    )
}

/// Whether an expression can be met with allowed licences only.
fn is_allowed(expression: &str) -> Result<bool> {
    let mut parser = Parser {
        tokens: tokens(expression),
    };
    let allowed = parser.any_of()?;
    match parser.tokens.pop() {
        None => Ok(allowed),
        Some(token) => bail!("`{token}` is not expected there"),
    }
}

/// The words of an expression, the first one last.
fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    spaced.split_whitespace().rev().map(str::to_owned).collect()
}

/// Recursive descent; `AND` binds tighter than `OR`. The input is bounded by what a Cargo.toml holds.
struct Parser {
    tokens: Vec<String>,
}

impl Parser {
    fn any_of(&mut self) -> Result<bool> {
        let mut allowed = self.all_of()?;
        while self.takes("OR") {
            allowed |= self.all_of()?;
        }
        Ok(allowed)
    }

    fn all_of(&mut self) -> Result<bool> {
        let mut allowed = self.one()?;
        while self.takes("AND") {
            allowed &= self.one()?;
        }
        Ok(allowed)
    }

    fn one(&mut self) -> Result<bool> {
        if self.takes("(") {
            let allowed = self.any_of()?;
            if !self.takes(")") {
                bail!("a parenthesis is not closed");
            }
            return Ok(allowed);
        }
        let mut licence = self.word()?;
        if self.takes("WITH") {
            licence = format!("{licence} WITH {}", self.word()?);
        }
        Ok(ALLOWED.contains(&licence.as_str()))
    }

    fn word(&mut self) -> Result<String> {
        match self.tokens.pop() {
            Some(word) if !["AND", "OR", "WITH", "(", ")"].contains(&word.as_str()) => Ok(word),
            Some(word) => bail!("`{word}` stands where a licence should"),
            None => bail!("a licence is missing at the end"),
        }
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.tokens.last().is_some_and(|token| token == word);
        if found {
            self.tokens.pop();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged() {
        let check = |expression: &str, expect: bool| {
            assert_eq!(
                is_allowed(expression).expect(expression),
                expect,
                "{expression}"
            );
        };
        check("MIT", true);
        check("MIT OR Apache-2.0", true);
        check("MIT/Apache-2.0", true);
        check("Unlicense/MIT", true);
        check("Apache-2.0 AND ISC", true);
        check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
        check("Apache-2.0 WITH LLVM-exception OR MIT", true);
        check("GPL-3.0-only", false);
        check("GPL-3.0-only OR MIT", true);
        check("GPL-3.0-only AND MIT", false);
        check("MIT AND (GPL-2.0-only OR MPL-2.0)", false);
        check("GPL-2.0-only WITH Classpath-exception-2.0", false);
        // AND binds tighter.
        check("MIT OR ISC AND GPL-3.0-only", true);
        check("(MIT OR ISC) AND GPL-3.0-only", false);
    }

    #[test]
    fn what_is_no_expression_is_not_allowed() {
        for expression in [
            "", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH",
        ] {
            assert!(is_allowed(expression).is_err(), "{expression}");
        }
    }
}
