//! Reading an export into an empty store. Everything is verified before anything counts.

use std::io::{self, BufRead, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};

use super::check::hex;
use super::export::{ExportHeader, FORMAT, Line, Trailer, VERSION};
use super::kinds::Kind;
use super::life;
use super::swap::{self, Places};
use super::walk::{self, SLICE, Seen};
use super::{MaintenanceError, Opener, Progress};
use crate::store::{Change, Durability, Mark, OrderedMap, layout, mark_path};

/// Longest line. A broadcast to every device there can be takes a few megabytes.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How many pairs are written between two syncs.
const SYNC_EVERY: u64 = 65_536;

/// Numbers of which the larger holds, that of the export or that of the store it goes into: what was given out is never
/// given out again.
const KEPT_NUMBERS: [&str; 3] = ["next_ordinal", "next_topic", "last_time"];

/// What an import goes by.
pub struct ImportTerms<'a> {
    /// Fingerprints of the sealing keys of the data directory.
    pub sealing_keys: &'a [String],
    /// Where those keys are, to be named.
    pub keys: PathBuf,
    /// Whether an export of another broker is taken.
    pub foreign: bool,
    /// The new epoch is at least this, such as the time in seconds.
    pub epoch: u32,
    /// Called for an export of another broker, once all of it is verified: takes the sealing keys out of use, so that
    /// no token that was ever given out here names a device of the other broker.
    pub retire_keys: &'a mut dyn FnMut() -> io::Result<()>,
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Imported {
    /// Pairs and their bytes.
    pub seen: Seen,
    /// Values that the export had left out.
    pub skipped: u64,
    /// The new epoch.
    pub epoch: u32,
    /// Whether the sealing keys are others.
    pub is_foreign: bool,
}

/// Imports into the data directory, whose lock the caller holds. Until the very end the store there stays as it is.
///
/// # Errors
/// The store is not empty, the export is not whole or not for this program or this broker, or the disk fails.
pub fn import(
    data_dir: &Path,
    from: &mut dyn BufRead,
    terms: &mut ImportTerms<'_>,
    open: Opener<'_>,
    progress: Progress<'_>,
) -> Result<Imported, MaintenanceError> {
    let places = Places::of(data_dir);
    let mut lines = Lines::new(from);
    let header = header(&mut lines)?;
    let is_foreign = !header
        .sealing_keys
        .iter()
        .all(|key| terms.sealing_keys.contains(key));
    if is_foreign && !terms.foreign {
        return Err(MaintenanceError::Foreign {
            keys: terms.keys.clone(),
        });
    }
    let floor = floor(data_dir, &places.db, open)?;
    swap::remove_all(&places.tmp)?;
    let mut filled = fill(
        &mut lines,
        &places.tmp,
        &header,
        &floor,
        terms.epoch,
        open,
        progress,
    );
    if is_foreign && filled.is_ok() {
        let retired = (terms.retire_keys)();
        filled = retired
            .map_err(|e| MaintenanceError::file(&terms.keys, "taken out of use", e))
            .and(filled);
    }
    let mut imported = match filled {
        Ok(imported) => imported,
        Err(error) => {
            let _ = swap::remove_all(&places.tmp);
            return Err(error);
        }
    };
    imported.is_foreign = is_foreign;
    // It is a witness of the store that is replaced, which is empty. What it knew is in the new one.
    let mark = mark_path(&places.db);
    swap::remove_file(&mark)?;
    swap::swap_in(data_dir)?;
    Ok(imported)
}

fn header(lines: &mut Lines<'_>) -> Result<ExportHeader, MaintenanceError> {
    let not_one = "it is not the first line of a `petrel store export`";
    if !lines.advance()? {
        return Err(lines.bad("it is empty"));
    }
    // The versions first: a newer header may have another shape.
    let any: serde_json::Value =
        serde_json::from_slice(&lines.line).map_err(|_| lines.bad(not_one))?;
    if any["format"] != FORMAT {
        return Err(lines.bad(not_one));
    }
    for (what, name, known) in [
        ("format version", "version", VERSION),
        ("schema version", "schema", layout::SCHEMA),
    ] {
        let found = any[name].as_u64().ok_or_else(|| lines.bad(not_one))?;
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        if found > known {
            return Err(MaintenanceError::NewerExport { what, found, known });
        }
    }
    serde_json::from_value(any).map_err(|_| lines.bad(not_one))
}

/// Numbers of the store that is there, below which the imported one must not go.
fn floor(
    data_dir: &Path,
    db: &Path,
    open: Opener<'_>,
) -> Result<Vec<(&'static str, u64)>, MaintenanceError> {
    let mark = Mark::read(db).map_err(|e| MaintenanceError::file(&mark_path(db), "read", e))?;
    let mark = mark.unwrap_or_default();
    let witnessed = |name| match name {
        "next_ordinal" => u64::from(mark.ordinals_end),
        "epoch" => u64::from(mark.epoch),
        _ => 0,
    };
    let names = KEPT_NUMBERS.into_iter().chain(["epoch"]);
    if !db.is_dir() {
        return Ok(names.map(|name| (name, witnessed(name))).collect());
    }
    let map = open(db)?;
    let (mut registrations, mut others) = (0, 0);
    for pair in map.range(walk::FIRST, walk::END) {
        let (key, _) = pair?;
        match key.first() {
            Some(&layout::META | &layout::PROJECT) => {}
            Some(&layout::REGISTRATION) => registrations += 1,
            _ => others += 1,
        }
    }
    if registrations + others > 0 {
        return Err(MaintenanceError::NotEmpty {
            path: data_dir.to_owned(),
            registrations,
            others,
        });
    }
    let mut floor = Vec::new();
    for name in names {
        let number = life::meta(&*map, name)?.unwrap_or(0);
        floor.push((name, number.max(witnessed(name))));
    }
    Ok(floor)
}

/// Writes all pairs into a new database and verifies the last line.
fn fill(
    lines: &mut Lines<'_>,
    tmp: &Path,
    header: &ExportHeader,
    floor: &[(&'static str, u64)],
    epoch: u32,
    open: Opener<'_>,
    progress: Progress<'_>,
) -> Result<Imported, MaintenanceError> {
    let mut map = open(tmp)?;
    let mut seen = Seen::default();
    let mut batch = Batch::default();
    let mut last_key: Vec<u8> = Vec::new();
    let trailer = loop {
        // Everything before this line.
        let sum = lines.sum();
        if !lines.advance()? {
            return Err(lines.bad("it ends here, without its last line: the file was cut off"));
        }
        if let Ok(trailer) = serde_json::from_slice::<Trailer>(&lines.line) {
            if trailer.sha256 != sum.hex() || !trailer.end {
                return Err(lines.bad("the SHA-256 is another one: the file was changed"));
            }
            break trailer;
        }
        let (key, value) = pair(lines)?;
        if key <= last_key {
            return Err(lines.bad("its key is not above the one before"));
        }
        seen.add(&key, &value);
        last_key.clone_from(&key);
        if batch.push(key, value) {
            batch.write(&mut *map)?;
            if seen.pairs % SYNC_EVERY < SLICE.pairs as u64 {
                map.sync(Durability::Durable)?;
            }
            progress(seen);
        }
    };
    if trailer.pairs != seen.pairs {
        return Err(lines.bad("it counts another number of lines: the file was changed"));
    }
    if lines.advance()? {
        return Err(lines.bad("something follows the last line"));
    }
    batch.write(&mut *map)?;
    if life::meta(&*map, "schema")? != Some(u64::from(header.schema)) {
        return Err(lines.bad("its schema version is not that of the first line"));
    }
    let epoch = begin_life(&mut *map, header.epoch, floor, epoch)?;
    if trailer.skipped > 0 {
        map.write(&[life::put_meta(layout::SUMMARIZE, 1)])?;
    }
    map.sync(Durability::Durable)?;
    progress(seen);
    Ok(Imported {
        seen,
        skipped: trailer.skipped,
        epoch,
        is_foreign: false,
    })
}

/// A new epoch, above all that were, and numbers that were never given out.
fn begin_life(
    map: &mut dyn OrderedMap,
    exported_epoch: u32,
    floor: &[(&'static str, u64)],
    at_least: u32,
) -> Result<u32, MaintenanceError> {
    let of_floor = |name| {
        let number = floor
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, n)| *n);
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    let at_least = at_least
        .max(exported_epoch.saturating_add(1))
        .max(of_floor("epoch").saturating_add(1));
    let epoch = life::next_epoch(map, at_least)?;
    let mut changes = vec![life::put_meta("epoch", u64::from(epoch))];
    for &(name, number) in floor.iter().filter(|(name, _)| *name != "epoch") {
        if life::meta(map, name)?.unwrap_or(0) < number {
            changes.push(life::put_meta(name, number));
        }
    }
    map.write(&changes)?;
    let ordinal = life::next_ordinal(map)?;
    map.write(&[life::put_meta("next_ordinal", ordinal)])?;
    Ok(epoch)
}

/// The pair of a line.
fn pair(lines: &Lines<'_>) -> Result<(Vec<u8>, Vec<u8>), MaintenanceError> {
    let line: Line<'_> = serde_json::from_slice(&lines.line)
        .map_err(|_| lines.bad("it is not a line of an export"))?;
    let kind = Kind::named(&line.kind)
        .ok_or_else(|| lines.bad("it is of a kind that this Petrel does not know"))?;
    let decode = |text: &str| {
        STANDARD
            .decode(text)
            .map_err(|_| lines.bad("it is not base64"))
    };
    let mut key = vec![kind.byte];
    key.extend_from_slice(&decode(&line.key)?);
    let value = layout::seal(&decode(&line.value)?);
    match kind.problem(&key, &value) {
        Some(problem) => Err(lines.bad(problem)),
        None => Ok((key, value)),
    }
}

#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

impl Batch {
    /// Whether it is full.
    fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.bytes += key.len() + value.len();
        self.changes.push((key, Some(value)));
        self.changes.len() >= SLICE.pairs || self.bytes >= SLICE.bytes
    }

    fn write(&mut self, map: &mut dyn OrderedMap) -> Result<(), MaintenanceError> {
        self.bytes = 0;
        map.write(&std::mem::take(&mut self.changes))?;
        Ok(())
    }
}

/// Bounded lines, hashed.
struct Lines<'a> {
    from: &'a mut dyn BufRead,
    line: Vec<u8>,
    number: u64,
    context: Context,
}

/// The hash so far; finished only where it is needed.
struct Sum(Context);

impl Sum {
    fn hex(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

impl<'a> Lines<'a> {
    fn new(from: &'a mut dyn BufRead) -> Self {
        Self {
            from,
            line: Vec::new(),
            number: 0,
            context: Context::new(&SHA256),
        }
    }

    /// Reads the next line; whether there is one.
    fn advance(&mut self) -> Result<bool, MaintenanceError> {
        self.line.clear();
        self.number += 1;
        let mut bounded = (&mut *self.from).take(LINE_BYTES_MAX);
        bounded
            .read_until(b'\n', &mut self.line)
            .map_err(MaintenanceError::Unreadable)?;
        if self.line.is_empty() {
            return Ok(false);
        }
        if self.line.last() != Some(&b'\n') {
            let problem = if self.line.len() as u64 == LINE_BYTES_MAX {
                "it is far too long"
            } else {
                "it ends in the middle: the file was cut off"
            };
            return Err(self.bad(problem));
        }
        self.context.update(&self.line);
        Ok(true)
    }

    fn sum(&self) -> Sum {
        Sum(self.context.clone())
    }

    fn bad(&self, problem: &str) -> MaintenanceError {
        MaintenanceError::BadExport {
            line: self.number,
            problem: problem.into(),
        }
    }
}
