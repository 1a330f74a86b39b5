//! Looking after a store: check, sizes, compaction, export, import, backup.
//!
//! What it is: what `petrel store` and the admin port do, over any [`OrderedMap`]. It knows the kinds of keys and the
//! shapes of values (`kinds`), and nothing of delivery.
//!
//! What it never does: open a store that a broker runs on (its callers hold the data directory's lock), or drop a value
//! without writing it elsewhere first. Memory is bounded: pairs go by in slices.
//!
//! Whoever opens a store calls [`finish_interrupted_compaction`] before, and [`begin_life_if_restored`] after.

mod backup;
mod check;
mod compact;
mod error;
mod export;
mod import;
mod kinds;
mod life;
mod place;
mod swap;
mod together;
mod usage;
mod walk;

use std::path::Path;

pub use self::backup::{Backup, Copied, Stepped};
pub use self::check::{BadValue, CheckReport, KindCount, LISTED_MAX, Repair, check, repair};
pub use self::compact::{Compacted, compact};
pub use self::error::MaintenanceError;
pub use self::export::{ExportHeader, Exported, export};
pub use self::import::{ImportTerms, Imported, import};
pub use self::kinds::Remedy;
pub use self::life::{begin_life_if_restored, is_restored};
pub use self::place::{BackupPlace, copy_stopped, directory_bytes, require_space};
pub use self::swap::{Interrupted, finish_interrupted_compaction};
pub use self::usage::{KindUsage, ProjectUsage, Usage, usage};
pub use self::walk::Seen;

use super::{OrderedMap, StoreError};

/// Opens or makes the database in a directory, by the engine that the configuration names.
pub type Opener<'a> = &'a dyn Fn(&Path) -> Result<Box<dyn OrderedMap>, StoreError>;

/// Hears now and then how far a walk is.
pub type Progress<'a> = &'a mut dyn FnMut(Seen);

#[cfg(test)]
mod tests;
