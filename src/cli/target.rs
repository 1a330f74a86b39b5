//! Which broker a command talks to: the one of a data directory, or one given by addresses and keys.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::data_dir::Ready;

/// The data directory that commands use when none is named.
pub(super) const DATA_DIR: &str = "./petrel-data";

/// The ready line of the broker that runs on a data directory.
pub(super) fn ready(data_dir: Option<&Path>) -> Result<Ready, Failure> {
    let data_dir = data_dir.map_or_else(|| PathBuf::from(DATA_DIR), Path::to_owned);
    Ok(Ready::read(&data_dir)?)
}

/// A value of the ready line that only the self-made demo project has.
pub(super) fn demo_value(value: Option<String>, flag: &str) -> Result<String, Failure> {
    value.ok_or_else(|| {
        Failure::new(format!(
            "this broker has projects of its own configuration, so nothing is known without being told; pass {flag}"
        ))
    })
}
