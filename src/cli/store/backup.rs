//! `petrel store backup`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Failure;
use super::place::{Admin, Place, Stopped, epoch_now, running};
use super::progress::{Progress, print, size};
use crate::data_dir::Ready;
use crate::store::maintenance::{self, Seen};

/// How often a running broker is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

pub(super) fn run(place: &Place, directory: &Path, json: bool) -> Result<(), Failure> {
    let config = place.config()?;
    // The broker has another working directory.
    let target = std::path::absolute(directory)?;
    let done = match running(&config)? {
        Some(ready) => ask(&ready, &target)?,
        None => copy(&Stopped::take(&config)?, &target)?,
    };
    let number = |name: &str| done[name].as_u64().unwrap_or(0);
    let text = format!(
        "{} values, {}\n{} is a data directory: start from a copy of it with `petrel serve --data-dir`\n",
        number("pairs"),
        size(number("bytes")),
        target.display()
    );
    print(json, &done, &text)
}

/// Of a broker that does not run.
fn copy(stopped: &Stopped, target: &Path) -> Result<Value, Failure> {
    let map = stopped.open_store()?;
    let progress = Progress::new("copied");
    let copied = maintenance::copy_stopped(
        stopped.path(),
        &*map,
        target,
        epoch_now(),
        &|path| stopped.open(path),
        &mut |seen| progress.set(seen),
    )?;
    Ok(json!({
        "state": "done", "directory": target, "pairs": copied.seen.pairs,
        "bytes": copied.seen.bytes, "epoch": copied.epoch,
    }))
}

/// Of a running one, which does it itself.
fn ask(ready: &Ready, target: &PathBuf) -> Result<Value, Failure> {
    let mut admin = Admin::of(ready, true)?;
    let begun = admin.post("/store/backup", json!({ "directory": target }).to_string())?;
    if begun.json().0 != 202 {
        return Err(Failure::new(format!("no backup: {}", begun.text())));
    }
    let progress = Progress::new("copied");
    loop {
        let (status, state) = admin.get("/store/backup")?.json();
        match state["state"].as_str() {
            Some("copying") if status == 200 => {
                progress.set(Seen {
                    pairs: state["pairs"].as_u64().unwrap_or(0),
                    bytes: state["bytes"].as_u64().unwrap_or(0),
                });
                std::thread::sleep(POLL);
            }
            Some("done") => return Ok(state),
            _ => {
                let problem = state["problem"]
                    .as_str()
                    .unwrap_or("the broker does not say why");
                return Err(Failure::new(format!("the backup failed: {problem}")));
            }
        }
    }
}
