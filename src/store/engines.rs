//! Opening the engine that the configuration names.

use std::path::Path;

#[cfg(feature = "fjall")]
use super::FjallMap;
use super::{MemoryMap, OrderedMap, SledMap, StoreError};
use crate::config::StoreEngine;

/// Opens or makes a database in a directory, with a page cache of so many bytes.
///
/// # Errors
/// As [`SledMap::open`].
///
/// # Panics
/// As [`SledMap::open`]; see [`guarded`](super::guarded).
pub fn open_engine(
    engine: StoreEngine,
    path: &Path,
    cache_bytes: u64,
) -> Result<Box<dyn OrderedMap>, StoreError> {
    Ok(match engine {
        StoreEngine::Sled => Box::new(SledMap::open(path, cache_bytes)?),
        #[cfg(feature = "fjall")]
        StoreEngine::Fjall => Box::new(FjallMap::open(path, cache_bytes)?),
        #[cfg(not(feature = "fjall"))]
        StoreEngine::Fjall => {
            return Err(StoreError::Engine {
                path: path.to_owned(),
                // The configuration says the same earlier, with the way out.
                source: "this petrel was built without cargo feature `fjall`".into(),
            });
        }
        StoreEngine::Memory => Box::new(MemoryMap::default()),
    })
}
