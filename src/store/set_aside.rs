//! Opening a database whose files may be damaged, and moving one out of the way.
//!
//! A database that is damaged is moved only when the operator says that its loss is accepted, never by a start that
//! merely fails. A start that fails changes nothing, so that every further start without the flag fails with the same
//! message and none begins empty; and where the cause passes after all (a disk that answers again, memory), the next
//! start simply works, with nothing to be moved back. Nothing is ever deleted.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use petrel_core::UnixMillis;

use super::StoreError;
use super::ordered::occupied_bytes;

/// How long opening may take, whatever the size.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it must get through besides: sled recovers some 100 MB a second here, and a slow disk a tenth of that.
const BYTES_PER_SECOND: u64 = 2_000_000;

/// How often a start that takes long says so.
const PROGRESS: Duration = Duration::from_secs(5);

/// Opens and reads a database on a thread of its own, and makes [`StoreError::Damaged`] of a panic and of not coming to
/// an end: engines do both over damaged files. A thread that hangs is left behind: it cannot be ended, and holds
/// nothing that an engine opened elsewhere would wait for.
///
/// # Errors
/// What `open` says; [`StoreError::Damaged`]; [`StoreError::Engine`] if there can be no thread.
pub fn guarded<T: Send + 'static>(
    path: &Path,
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let size = Duration::from_secs(occupied_bytes(path) / BYTES_PER_SECOND);
    within(PATIENCE + size, path, open)
}

fn within<T: Send + 'static>(
    patience: Duration,
    path: &Path,
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let (sender, opened) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("petrel-open".into())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(open)));
        })
        .map_err(|error| StoreError::Engine {
            path: path.to_owned(),
            source: error.into(),
        })?;
    let started = Instant::now();
    loop {
        let left = patience.saturating_sub(started.elapsed());
        match opened.recv_timeout(left.min(PROGRESS)) {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(panic)) => {
                return Err(damaged(format!("the engine gave up: {}", said(&*panic))));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(damaged("the engine gave up".into()));
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                let seconds = patience.as_secs();
                return Err(damaged(format!("the engine was not done in {seconds} s")));
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::info!(elapsed = ?started.elapsed(), at_most = ?patience, "still opening the store");
            }
        }
    }
}

/// What a panic said, the first line of it.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.and_then(|text| text.lines().next())
        .unwrap_or("it did not say why")
}

/// Moves a database out of the way, to `db.damaged-YYYYMMDDTHHMMSSZ` beside it; where to. `None` where there is
/// nothing to move.
///
/// # Errors
/// It cannot be renamed, or the rename not be made durable.
pub fn set_aside(db: &Path, now: UnixMillis) -> io::Result<Option<PathBuf>> {
    if !db.try_exists()? {
        return Ok(None);
    }
    let stamp = stamp(now);
    let mut copy = db.with_extension(format!("damaged-{stamp}"));
    // Twice within a second: a rename would replace an empty folder and fail over a full one.
    let mut number = 1;
    while copy.try_exists()? {
        number += 1;
        copy = db.with_extension(format!("damaged-{stamp}-{number}"));
    }
    std::fs::rename(db, &copy)?;
    if let Some(parent) = db.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(Some(copy))
}

/// A time as `YYYYMMDDTHHMMSSZ`.
fn stamp(now: UnixMillis) -> String {
    let seconds = now.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the Gregorian calendar: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    // civil_from_days, for days since 1970 only.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        for (seconds, expect) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_764_000_000, "20251124T160000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(UnixMillis(seconds * 1000)), expect);
        }
    }

    #[test]
    fn what_is_set_aside_is_kept_whole_even_twice_in_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let db = directory.path().join("db");
        assert_eq!(set_aside(&db, UnixMillis(0)).unwrap(), None);
        let copies: Vec<PathBuf> = ["a", "b", "c"]
            .iter()
            .map(|content| {
                std::fs::create_dir(&db).unwrap();
                std::fs::write(db.join("db"), content).unwrap();
                let copy = set_aside(&db, UnixMillis(0)).unwrap().unwrap();
                assert!(!db.exists());
                assert_eq!(std::fs::read_to_string(copy.join("db")).unwrap(), *content);
                copy
            })
            .collect();
        assert!(copies[0].ends_with("db.damaged-19700101T000000Z"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn an_engine_that_panics_or_hangs_is_damage_and_its_errors_are_its_own() {
        let path = Path::new("/nowhere/db");
        let is_damage = |outcome: Result<(), StoreError>, text: &str| {
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert!(matches!(error, StoreError::Damaged { .. }));
        };
        is_damage(guarded(path, || panic!("at page {}", 7)), "at page 7");
        let (hold, held) = mpsc::channel::<()>();
        let hangs = move || {
            let _ = held.recv();
            Ok(())
        };
        is_damage(within(Duration::from_millis(50), path, hangs), "not done");
        drop(hold);
        let error = guarded(path, || -> Result<(), _> {
            Err(StoreError::NewerSchema { found: 2, known: 1 })
        });
        assert!(matches!(error, Err(StoreError::NewerSchema { .. })));
        assert_eq!(guarded(path, || Ok(5)).unwrap(), 5);
    }
}
