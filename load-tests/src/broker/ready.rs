//! The ready line of a broker: on its stdout, and in `ready.json` of its data directory.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use super::Target;
use crate::http::address;

/// As far as it is needed here.
#[derive(Clone, Deserialize)]
pub(super) struct Ready {
    pub(super) quic: String,
    pub(super) http: String,
    pub(super) https: String,
    pub(super) admin: String,
    project: Option<String>,
    api_key: Option<String>,
    app_key: Option<String>,
    ca: PathBuf,
}

impl Ready {
    pub(super) fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line)
            .context("the broker's ready line is odd: broker and petrel-load do not fit")
    }

    /// Of the broker that runs on a data directory, with its process.
    pub(super) fn read(data_dir: &Path) -> Result<(Self, Option<u32>)> {
        let shown = data_dir.display();
        let line = std::fs::read_to_string(data_dir.join("ready.json")).map_err(|error| {
            anyhow!("no broker is ready in {shown} ({error}): start one with `petrel serve --data-dir {shown}`")
        })?;
        let pid = holder(&data_dir.join("lock")).with_context(|| {
            format!("the broker of {shown} is gone: start it again with `petrel serve --data-dir {shown}`")
        })?;
        Ok((Self::parse(&line)?, pid))
    }

    pub(super) fn target(&self, pid: Option<u32>) -> Result<Target> {
        let of_demo = |value: &Option<String>| {
            value.clone().context(
                "the broker's configuration names projects, so it tells no keys: use --broker with --project, --app-key \
                 and --api-key",
            )
        };
        Ok(Target {
            quic: self
                .quic
                .parse()
                .context("the broker tells an odd address")?,
            http: address(&self.http)?,
            admin: Some(address(&self.admin)?),
            project: of_demo(&self.project)?,
            app_key: of_demo(&self.app_key)?,
            api_key: of_demo(&self.api_key)?,
            ca: std::fs::read(&self.ca)
                .with_context(|| format!("cannot read {}", self.ca.display()))?,
            pid,
        })
    }
}

/// The process that holds a broker's lock, where the file tells it. An error if nobody holds it: after a crash the file
/// is still there.
fn holder(lock: &Path) -> Result<Option<u32>> {
    let mut lock = File::open(lock)?;
    match lock.try_lock_shared() {
        Ok(()) => bail!("nobody holds its lock"),
        Err(TryLockError::Error(error)) => Err(error.into()),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            lock.read_to_string(&mut text)?;
            Ok(text.trim().parse().ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(dir: &Path, project: &str) -> String {
        let ca = dir.join("ca.pem");
        std::fs::write(&ca, "pem").unwrap();
        format!(
            r#"{{"ready":true,"quic":"127.0.0.1:1","http":"http://127.0.0.1:2","https":"https://127.0.0.1:3",
            "admin":"http://127.0.0.1:4","public_url":"","project":{project},"api_key":"k","app_key":"a",
            "ca":{ca:?},"data_dir":""}}"#
        )
    }

    fn broker(dir: &Path, project: &str) -> File {
        std::fs::write(dir.join("ready.json"), line(dir, project)).unwrap();
        std::fs::write(dir.join("lock"), "4711\n").unwrap();
        File::open(dir.join("lock")).unwrap()
    }

    #[test]
    fn a_running_broker_is_found_by_its_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = broker(dir.path(), "\"demo\"");
        lock.lock().unwrap();
        let (ready, pid) = Ready::read(dir.path()).unwrap();
        let target = ready.target(pid).unwrap();
        assert_eq!(target.quic.port(), 1);
        assert_eq!(
            (target.http.port(), target.admin.map(|admin| admin.port())),
            (2, Some(4))
        );
        assert_eq!(target.pid, Some(4711));
    }

    #[test]
    fn a_broker_that_is_not_there_or_tells_no_keys_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| Ready::read(dir).err().unwrap().to_string();
        assert!(error(dir.path()).contains("petrel serve --data-dir"));
        let lock = broker(dir.path(), "null");
        assert!(error(dir.path()).contains("is gone"));
        lock.lock().unwrap();
        let (ready, pid) = Ready::read(dir.path()).unwrap();
        let error = ready.target(pid).err().unwrap().to_string();
        assert!(error.contains("--broker"), "{error}");
    }
}
