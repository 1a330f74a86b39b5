//! `petrel store compact`.

use super::super::Failure;
use super::place::{Place, Stopped};
use super::progress::{Progress, print, size};
use crate::store::maintenance;

pub(super) fn run(place: &Place, json: bool) -> Result<(), Failure> {
    let stopped = Stopped::take(&place.config()?)?;
    let lost = stopped.loss(&*stopped.open_store()?)?;
    if lost.is_some() {
        return Err(Failure::new(
            "nothing was rewritten: what is left would take the place of what may still be brought back. Put a backup \
             in its place, or start the broker once with --accept-loss",
        ));
    }
    let progress = Progress::new("rewritten");
    let compacted =
        maintenance::compact(stopped.path(), &|path| stopped.open(path), &mut |seen| {
            progress.set(seen);
        })?;
    drop(progress);
    let text = format!(
        "{} values, {} live\n{} on disk before, {} after\n",
        compacted.live.pairs,
        size(compacted.live.bytes),
        size(compacted.before_bytes),
        size(compacted.after_bytes)
    );
    print(json, &compacted, &text)
}
