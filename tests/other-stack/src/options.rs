//! The command line: that of docs/guides/device.py, as far as tests use it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// What the device is told.
pub(crate) struct Options {
    pub(crate) broker: SocketAddr,
    pub(crate) ca: PathBuf,
    pub(crate) project: String,
    pub(crate) app_key: String,
    pub(crate) topics: Vec<String>,
}

impl Options {
    /// Reads pairs of flag and value.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut broker, mut ca, mut project, mut app_key) = (None, None, None, None);
        let mut topics = Vec::new();
        while let Some(flag) = arguments.next() {
            let value = arguments
                .next()
                .with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--broker" => broker = Some(value.parse().context("--broker")?),
                "--ca" => ca = Some(value.into()),
                "--project" => project = Some(value),
                "--app-key" => app_key = Some(value),
                "--topic" => topics.push(value),
                _ => bail!("no such flag: {flag}"),
            }
        }
        Ok(Self {
            broker: broker.context("--broker is missing")?,
            ca: ca.context("--ca is missing")?,
            project: project.context("--project is missing")?,
            app_key: app_key.context("--app-key is missing")?,
            topics,
        })
    }
}
