//! Where the workspace lies, and how cargo is called in it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The flags that every build in here shares.
///
/// Cargo reuses a compiled crate only if profile and features are the same, and it settles features over all the
/// packages and targets that one command selects. One set of flags for `clippy`, `doc`, `build` and `test` therefore
/// means that hardly anything is compiled twice: the first two share the metadata of dependencies, the last two
/// their code, and all four the build scripts and procedural macros. [`BUILD_TARGETS`] belongs to this.
pub(crate) const BUILD: [&str; 3] = ["--release", "--workspace", "--all-features"];

/// What `cargo test` will want, as flags of `cargo build`: the binaries that black-box tests start (`cargo test`
/// alone leaves out those of packages without integration tests), the tests themselves, and the examples. Naming
/// the tests also makes cargo take dev-dependencies into account when it settles features.
pub(crate) const BUILD_TARGETS: [&str; 4] = ["--lib", "--bins", "--tests", "--examples"];

/// The subcommands that read the lock file, and under continuous integration must find it as committed.
const LOCKED: [&str; 5] = ["build", "clippy", "doc", "metadata", "test"];

/// The platforms whose dependencies are looked at. Petrel runs on Linux only, and without this cargo would fetch
/// crates for Windows and macOS just to read their manifests.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// The workspace that this program was started in.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Whether this runs under continuous integration: no colours, no progress, and a lock file that must fit.
    pub(crate) ci: bool,
}

impl Workspace {
    /// Finds the workspace from the current folder.
    pub(crate) fn locate() -> Result<Self> {
        let output = cargo_in(None)
            .args([
                "locate-project",
                "--workspace",
                "--message-format",
                "plain",
                "--quiet",
            ])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo cannot be started: install Rust from https://rustup.rs")?;
        let manifest = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        match manifest.parent() {
            Some(root) if output.status.success() && root.is_absolute() => Ok(Self {
                root: root.to_path_buf(),
                ci: std::env::var("CI").is_ok_and(|ci| ci != "false" && !ci.is_empty()),
            }),
            _ => bail!("no workspace here: change into Petrel's folder first"),
        }
    }

    /// `cargo <subcommand>` at the root of the workspace.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo_in(Some(self));
        command.arg(subcommand);
        if self.ci {
            command.env("CARGO_TERM_COLOR", "never");
            command.env("CARGO_TERM_PROGRESS_WHEN", "never");
            command.env("NO_COLOR", "1");
            if LOCKED.contains(&subcommand) {
                command.arg("--locked");
            }
        }
        command
    }

    /// The workspace's own packages as they stand in their `Cargo.toml` files.
    pub(crate) fn members(&self) -> Result<Value> {
        self.metadata(&["--no-deps"])
    }

    /// All packages that Petrel is built from, on the platforms it runs on.
    pub(crate) fn dependencies(&self) -> Result<Value> {
        let mut arguments = vec!["--all-features"];
        for platform in PLATFORMS {
            arguments.extend(["--filter-platform", platform]);
        }
        self.metadata(&arguments)
    }

    /// The folder that cargo builds into.
    pub(crate) fn target(&self) -> Result<PathBuf> {
        let metadata = self.members()?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target_directory; update cargo")?;
        Ok(PathBuf::from(target))
    }

    fn metadata(&self, arguments: &[&str]) -> Result<Value> {
        let output = self
            .cargo("metadata")
            .args(["--format-version", "1"])
            .args(arguments)
            .stderr(Stdio::inherit())
            .output()
            .context("cargo metadata cannot be started")?;
        if !output.status.success() {
            bail!("cargo metadata failed: its message stands above");
        }
        serde_json::from_slice(&output.stdout)
            .context("cargo metadata did not print JSON; update cargo")
    }
}

/// Cargo, as if started from a shell. `cargo run`, which started us, left variables about *our* package in the
/// environment; some build scripts (ring's) ask to be rerun whenever those change, and would be each time that
/// somebody alternates between `cargo xtask` and plain cargo.
fn cargo_in(workspace: Option<&Workspace>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_our_package) {
            command.env_remove(name);
        }
    }
    if let Some(workspace) = workspace {
        command.current_dir(&workspace.root);
    }
    command
}

fn is_about_our_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_")
        || variable.starts_with("CARGO_MANIFEST_")
        || matches!(
            variable,
            "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_user_survive_and_our_package_does_not() {
        for ours in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_CRATE_NAME"] {
            assert!(is_about_our_package(ours), "{ours}");
        }
        for theirs in [
            "CARGO_TARGET_DIR",
            "CARGO_HOME",
            "CARGO_TERM_COLOR",
            "CARGO_BUILD_JOBS",
        ] {
            assert!(!is_about_our_package(theirs), "{theirs}");
        }
    }
}
