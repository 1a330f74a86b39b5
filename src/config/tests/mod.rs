//! The configuration as a whole. The file is given as text and the environment as a list, so that no test depends on
//! the machine.

mod files;
mod layers;
mod projects;
mod values;

use std::path::Path;

use super::{Config, ConfigErrors, Flag};

fn load(file: &str, env: &[(&str, &str)], flags: &[Flag]) -> Result<Config, ConfigErrors> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_layers(
        Some((Path::new("petrel.toml"), Ok(file.to_owned()))),
        env,
        flags,
    )
}

fn errors(file: &str, env: &[(&str, &str)]) -> Vec<String> {
    match load(file, env, &[]) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems().iter().map(ToString::to_string).collect(),
    }
}

/// Checks that a file has exactly these problems, each by a part of its text.
fn check_errors(file: &str, expect: &[&str]) {
    let found = errors(file, &[]);
    assert_eq!(found.len(), expect.len(), "{file}: {found:#?}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.contains(expect), "{found}");
    }
}
