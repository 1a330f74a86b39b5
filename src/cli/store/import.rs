//! `petrel store import`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::super::Failure;
use super::place::{Place, Stopped, epoch_now, say, wall_ms};
use super::progress::{Progress, size};
use crate::data_dir::Keyring;
use crate::store::maintenance::{self, ImportTerms, Imported};

pub(super) fn run(place: &Place, file: &Path, foreign: bool) -> Result<(), Failure> {
    let config = place.config()?;
    // Before the directory is made for it.
    let mut from: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let opened = File::open(file).map_err(|error| {
            Failure::new(format!(
                "{} cannot be read: {error}; name what `petrel store export` wrote",
                file.display()
            ))
        })?;
        Box::new(BufReader::new(opened))
    };
    let stopped = Stopped::take_or_make(&config)?;
    let keyring = Keyring::open(&stopped.data_dir)?;
    let sealing_keys = keyring.sealing_fingerprints()?;
    let progress = Progress::new("imported");
    let imported = maintenance::import(
        stopped.path(),
        &mut *from,
        &mut ImportTerms {
            sealing_keys: &sealing_keys,
            keys: stopped.path().join("keys"),
            foreign,
            epoch: epoch_now(),
            retire_keys: &mut || keyring.retire_sealing(wall_ms()),
        },
        &|path| stopped.open(path),
        &mut |seen| progress.set(seen),
    )?;
    drop(progress);
    tell(&imported);
    Ok(())
}

fn tell(imported: &Imported) {
    if imported.skipped > 0 {
        say(&format!(
            "the export had left out {} values that could not be read",
            imported.skipped
        ));
    }
    if imported.is_foreign {
        say(
            "the sealing keys were put aside: devices register again, and servers learn their new tokens",
        );
    }
    say(&format!(
        "imported {} values, {}; ids of messages begin anew with epoch {:x}",
        imported.seen.pairs,
        size(imported.seen.bytes),
        imported.epoch
    ));
}
