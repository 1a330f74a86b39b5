//! `cargo xtask test`: builds everything once and runs every test.
//!
//! The tests start the real binary, and unmodified clients of other people's in Python and JavaScript. Those are
//! installed below the target directory, never on the system, and only when their lists change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::programs;
use crate::workspace::{BUILD, BUILD_TARGETS, Workspace};

const PYTHON_LIST: &str = "tests/clients/requirements.txt";
const NODE_LIST: &str = "tests/clients/package.json";
const NODE_LOCK: &str = "tests/clients/package-lock.json";

/// The interpreter that tests start Python clients with.
const PYTHON_VARIABLE: &str = "TEST_PYTHON";
/// The folder that tests hand to node as `NODE_PATH`.
const NODE_VARIABLE: &str = "TEST_NODE_MODULES";
/// The device on a QUIC stack that is not the workspace's.
const OTHER_STACK_VARIABLE: &str = "TEST_OTHER_STACK";

/// A workspace of its own, so that ours neither builds nor locks what it stands on.
const OTHER_STACK: &str = "tests/other-stack";

/// Runs the tests; `arguments` is what stood behind `test`.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<ExitCode> {
    let for_cargo = match arguments.split_first() {
        None => &[],
        Some((dashes, rest)) if dashes == "--" => rest,
        Some((other, _)) => bail!(
            "`test` does not take `{other}`; what is meant for `cargo test` goes after `--`, \
             as in `cargo xtask test -- {other}`"
        ),
    };
    programs::require(&programs::TEST)?;
    let target = workspace.target()?;
    let python = python(workspace, &target)?;
    let node_modules = node_modules(workspace, &target)?;
    let other_stack = other_stack(workspace, &target)?;

    // Built first and apart, so that tests find every binary. The second command then compiles nothing.
    let mut build = workspace.cargo("build");
    build.args(BUILD).args(BUILD_TARGETS);
    if !status(&mut build)? {
        bail!("the build failed: mend what stands above");
    }
    let mut test = workspace.cargo("test");
    test.args(BUILD)
        .args(for_cargo)
        .env(PYTHON_VARIABLE, python)
        .env(OTHER_STACK_VARIABLE, other_stack);
    if let Some(node_modules) = node_modules {
        test.env(NODE_VARIABLE, node_modules);
    }
    if workspace.ci {
        test.env("CI", "true");
    }
    let status = test.status().context("cargo cannot be started")?;
    // Cargo's own code; 1 if a signal ended it.
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// The Python to test with: one of our own with the listed packages, or the system's if nothing is listed.
fn python(workspace: &Workspace, target: &Path) -> Result<PathBuf> {
    let list = workspace.root.join(PYTHON_LIST);
    if !list.exists() {
        return Ok(PathBuf::from("python3"));
    }
    let folder = target.join("python");
    let interpreter = folder.join("bin/python");
    Stamp::new(&folder, &[&list])?.install_unless_current(|| {
        println!("installing {PYTHON_LIST} into {}", folder.display());
        run_quietly(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
            "no Python environment can be made: `apt install python3-venv` may be missing",
        )?;
        run_quietly(
            Command::new(&interpreter)
                .args(["-m", "pip", "install", "--quiet", "--no-input"])
                .args(["--disable-pip-version-check", "--progress-bar", "off"])
                .arg("--requirement")
                .arg(&list),
            "pip cannot install the test clients: is there a way to the package index?",
        )
    })?;
    Ok(interpreter)
}

/// The folder with the listed JavaScript packages, if any are listed.
fn node_modules(workspace: &Workspace, target: &Path) -> Result<Option<PathBuf>> {
    let list = workspace.root.join(NODE_LIST);
    if !list.exists() {
        return Ok(None);
    }
    let lock = workspace.root.join(NODE_LOCK);
    let folder = target.join("node");
    Stamp::new(&folder, &[&list, &lock])?.install_unless_current(|| {
        println!("installing {NODE_LIST} into {}", folder.display());
        // npm installs beside the list, so the list goes where the packages shall be.
        fs::create_dir_all(&folder)
            .and_then(|()| fs::copy(&list, folder.join("package.json")))
            .with_context(|| format!("{} cannot be written", folder.display()))?;
        let subcommand = if lock.exists() {
            fs::copy(&lock, folder.join("package-lock.json"))
                .with_context(|| format!("{} cannot be written", folder.display()))?;
            "ci"
        } else {
            "install"
        };
        run_quietly(
            Command::new("npm")
                .args([subcommand, "--no-audit", "--no-fund", "--loglevel=error"])
                .arg("--progress=false")
                .current_dir(&folder),
            "npm cannot install the test clients: is there a way to the package index?",
        )
    })?;
    Ok(Some(folder.join("node_modules")))
}

/// Builds the device on another QUIC stack; its binary. Unoptimized: it is busy for seconds, and builds in a minute.
fn other_stack(workspace: &Workspace, target: &Path) -> Result<PathBuf> {
    let target = target.join("other-stack");
    let mut build = workspace.cargo("build");
    build
        .arg("--manifest-path")
        .arg(workspace.root.join(OTHER_STACK).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    if !status(&mut build)? {
        bail!("the build of {OTHER_STACK} failed: mend what stands above");
    }
    Ok(target.join("debug/other-stack"))
}

/// Remembers with which lists a folder was filled.
struct Stamp {
    path: PathBuf,
    content: String,
}

impl Stamp {
    /// A stamp in `folder` over the content of the files that exist.
    fn new(folder: &Path, lists: &[&Path]) -> Result<Self> {
        let mut content = String::new();
        for list in lists.iter().filter(|list| list.exists()) {
            content += &fs::read_to_string(list)
                .with_context(|| format!("{} cannot be read", list.display()))?;
            content.push('\0');
        }
        Ok(Self {
            path: folder.join(".petrel-stamp"),
            content,
        })
    }

    /// Calls `install` unless the folder was filled with these very lists. The stamp goes first and comes back last,
    /// so that an install that broke off is made anew.
    fn install_unless_current(&self, install: impl FnOnce() -> Result<()>) -> Result<()> {
        match fs::read_to_string(&self.path) {
            Ok(stamped) if stamped == self.content => return Ok(()),
            Ok(_) => fs::remove_file(&self.path)
                .with_context(|| format!("{} cannot be removed", self.path.display()))?,
            Err(_) => {}
        }
        install()?;
        fs::write(&self.path, &self.content)
            .with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

fn run_quietly(command: &mut Command, way_out: &'static str) -> Result<()> {
    if status(command)? {
        Ok(())
    } else {
        bail!("{way_out}")
    }
}

/// Whether a command whose output the user sees succeeded.
fn status(command: &mut Command) -> Result<bool> {
    let status = command
        .status()
        .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_install_is_repeated_only_when_its_list_changed_or_it_failed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let list = folder.path().join("list");
        let absent = folder.path().join("absent");
        let installs = |list_content: &str, works: bool| {
            fs::write(&list, list_content).expect("a list");
            let stamp = Stamp::new(folder.path(), &[&list, &absent]).expect("a stamp");
            let mut called = false;
            let result = stamp.install_unless_current(|| {
                called = true;
                if works { Ok(()) } else { bail!("no network") }
            });
            assert_eq!(result.is_ok(), works || !called);
            called
        };
        assert!(installs("a", true));
        assert!(!installs("a", true));
        assert!(installs("b", false));
        assert!(installs("a", true), "a failed install leaves no stamp");
        assert!(!installs("a", true));
    }

    #[test]
    fn arguments_for_cargo_stand_behind_two_dashes() {
        let workspace = Workspace {
            root: PathBuf::new(),
            ci: true,
        };
        let error = run(&workspace, &["replay".to_owned()]).expect_err("must fail");
        assert!(
            error.to_string().contains("cargo xtask test -- replay"),
            "{error}"
        );
    }
}
