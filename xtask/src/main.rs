//! Petrel's own build tasks, run as `cargo xtask <command>`.
//!
//! Everything that continuous integration does is a command here, so that a developer can do the same with one line.
//! Nothing that ships depends on this crate, and it never writes outside the target directory, except for
//! `codegen`, which rewrites one committed file.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks to its terminal"
)]

mod codegen;
mod lint;
mod programs;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use workspace::Workspace;

const HELP: &str = "\
Petrel's build tasks.

Usage: cargo xtask <command>

Commands:
  lint              format, generated code, clippy, docs, imports between crates and rooms, licences, advisories
  test [-- ARGS]    builds everything and runs every test; ARGS go to `cargo test` (`-- NAME` runs tests by name)
  codegen           writes protocol/src/wire.rs from protocol/petrel.proto
  codegen --check   fails if protocol/src/wire.rs is not what petrel.proto says
  help              prints this
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            // One line: the chain of causes, the way out included by whoever made the error.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{HELP}");
        return Ok(ExitCode::FAILURE);
    };
    match (command.as_str(), rest) {
        ("lint", []) => lint::run(&Workspace::locate()?),
        ("test", rest) => test::run(&Workspace::locate()?, rest),
        ("codegen", []) => codegen::write(&Workspace::locate()?).map(|()| ExitCode::SUCCESS),
        ("codegen", [flag]) if flag == "--check" => {
            codegen::check(&Workspace::locate()?).map(|()| ExitCode::SUCCESS)
        }
        ("help" | "--help" | "-h", _) => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ("lint" | "codegen", _) => bail!(
            "`{command}` does not take {rest:?}; `cargo xtask help` shows what each command takes"
        ),
        _ => bail!("there is no command `{command}`; `cargo xtask help` lists them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        run(&arguments).expect_err("must fail").to_string()
    }

    #[test]
    fn wrong_arguments_name_the_way_out() {
        for arguments in [
            &["frobnicate"][..],
            &["lint", "--fast"],
            &["codegen", "--chekc"],
        ] {
            assert!(
                message(arguments).contains("cargo xtask help"),
                "{arguments:?}"
            );
        }
    }
}
