//! `petrel store export`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::super::Failure;
use super::place::{Place, Stopped, say, wall_ms};
use super::progress::{Progress, size};
use crate::data_dir::Keyring;
use crate::store::maintenance::{self, Exported, MaintenanceError};

pub(super) fn run(place: &Place, file: &Path) -> Result<(), Failure> {
    let stopped = Stopped::take(&place.config()?)?;
    let exported = if file == Path::new("-") {
        write(&stopped, &mut BufWriter::new(std::io::stdout().lock()))?
    } else {
        to_file(&stopped, file)?
    };
    if exported.skipped > 0 {
        say(&format!(
            "{} values cannot be read and are not in the export: `petrel store check` lists them",
            exported.skipped
        ));
    }
    say(&format!(
        "exported {} values, {}",
        exported.pairs,
        size(exported.bytes)
    ));
    Ok(())
}

/// Writes a new file for the owner's eyes, which is deleted again where that fails.
fn to_file(stopped: &Stopped, path: &Path) -> Result<Exported, Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| {
            Failure::new(format!(
                "{} cannot be made: {error}; name a file that does not exist yet",
                path.display()
            ))
        })?;
    let written = write_synced(stopped, file, path);
    if written.is_err() && std::fs::remove_file(path).is_err() {
        say(&format!("{} is not whole: delete it", path.display()));
    }
    written
}

fn write_synced(stopped: &Stopped, file: File, path: &Path) -> Result<Exported, Failure> {
    let mut out = BufWriter::new(file);
    let exported = write(stopped, &mut out)?;
    let synced = out
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .and_then(|()| match path.parent() {
            Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        });
    synced.map_err(MaintenanceError::Unwritable)?;
    Ok(exported)
}

fn write(stopped: &Stopped, out: &mut dyn Write) -> Result<Exported, Failure> {
    let map = stopped.open_store()?;
    let keys = Keyring::open(&stopped.data_dir)?.sealing_fingerprints()?;
    let progress = Progress::new("exported");
    let exported = maintenance::export(&*map, keys, wall_ms(), out, &mut |seen| {
        progress.set(seen);
    })?;
    Ok(exported)
}
