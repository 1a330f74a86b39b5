//! Opens a store over an engine that counts what reaches it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use petrel::config::StoreEngine;
use petrel::store::{
    Change, Durability, Embedded, Loaded, OnLoss, OrderedMap, Pair, Store, StoreError, Witnessed,
    open_engine,
};
use serde::Serialize;

use crate::settings::{Engine, Settings};

/// What an engine was asked for. Times are of the thread that asked.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    keys_written: AtomicU64,
    bytes_written: AtomicU64,
    batches: AtomicU64,
    write_ns: AtomicU64,
    sync_ns: AtomicU64,
    gets: AtomicU64,
    ranges: AtomicU64,
}

/// The same at one moment, or between two.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counted {
    /// Keys put or removed.
    pub(crate) keys_written: u64,
    /// Of keys and values.
    pub(crate) bytes_written: u64,
    /// Batches that were written.
    pub(crate) batches: u64,
    /// In writing batches, not durably.
    pub(crate) write_ns: u64,
    /// In making them durable.
    pub(crate) sync_ns: u64,
    /// Values that were asked for.
    pub(crate) gets: u64,
    /// Ranges that were asked for.
    pub(crate) ranges: u64,
}

impl Counts {
    pub(crate) fn now(&self) -> Counted {
        Counted {
            keys_written: self.keys_written.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            batches: self.batches.load(Relaxed),
            write_ns: self.write_ns.load(Relaxed),
            sync_ns: self.sync_ns.load(Relaxed),
            gets: self.gets.load(Relaxed),
            ranges: self.ranges.load(Relaxed),
        }
    }

    /// What came after an earlier moment.
    pub(crate) fn since(&self, earlier: &Counted) -> Counted {
        let now = self.now();
        Counted {
            keys_written: now.keys_written - earlier.keys_written,
            bytes_written: now.bytes_written - earlier.bytes_written,
            batches: now.batches - earlier.batches,
            write_ns: now.write_ns - earlier.write_ns,
            sync_ns: now.sync_ns - earlier.sync_ns,
            gets: now.gets - earlier.gets,
            ranges: now.ranges - earlier.ranges,
        }
    }
}

/// An engine that counts.
struct Counting<M> {
    map: M,
    counts: Arc<Counts>,
}

impl<M: OrderedMap> OrderedMap for Counting<M> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.counts.gets.fetch_add(1, Relaxed);
        self.map.get(key)
    }

    fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        self.counts.ranges.fetch_add(1, Relaxed);
        self.map.range(from, to)
    }

    fn range_back<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + 'a> {
        self.counts.ranges.fetch_add(1, Relaxed);
        self.map.range_back(from, to)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let length = |(k, v): &Change| (k.len() + v.as_ref().map_or(0, Vec::len)) as u64;
        let bytes = changes.iter().map(length).sum();
        self.counts.bytes_written.fetch_add(bytes, Relaxed);
        let keys = changes.len() as u64;
        self.counts.keys_written.fetch_add(keys, Relaxed);
        self.counts.batches.fetch_add(1, Relaxed);
        let started = Instant::now();
        let written = self.map.write(changes);
        add_since(&self.counts.write_ns, started);
        written
    }

    fn sync(&mut self, level: Durability) -> Result<(), StoreError> {
        let started = Instant::now();
        let synced = self.map.sync(level);
        add_since(&self.counts.sync_ns, started);
        synced
    }

    fn disk_bytes(&self) -> u64 {
        self.map.disk_bytes()
    }

    fn disk_free(&self) -> Option<u64> {
        self.map.disk_free()
    }
}

fn add_since(sum: &AtomicU64, started: Instant) {
    let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    sum.fetch_add(ns, Relaxed);
}

/// An open store and how it came to be open.
pub(crate) struct Opened {
    pub(crate) store: Box<dyn Store>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) loaded: Loaded,
    /// Opening the engine's files.
    pub(crate) open: Duration,
    /// Reading what serving keeps in memory.
    pub(crate) load: Duration,
}

fn open_map(settings: &Settings) -> Result<Box<dyn OrderedMap>, StoreError> {
    let engine = match settings.engine {
        Engine::Sled => StoreEngine::Sled,
        Engine::Fjall => StoreEngine::Fjall,
        Engine::Memory => StoreEngine::Memory,
    };
    open_engine(engine, &directory(settings), settings.cache_bytes)
}

fn directory(settings: &Settings) -> PathBuf {
    settings.dir.join(settings.engine.name())
}

/// Opens the store of a run, with its witness, and loads it.
pub(crate) fn open(settings: &Settings) -> Result<Opened> {
    let started = Instant::now();
    let map = open_map(settings)?;
    let open = started.elapsed();
    let counts = Arc::<Counts>::default();
    let counting = Counting {
        map,
        counts: Arc::clone(&counts),
    };
    let started = Instant::now();
    let mut store: Box<dyn Store> = if settings.engine == Engine::Memory {
        Box::new(Embedded::new(counting, 1))
    } else {
        let witnessed = Witnessed::new(counting, &directory(settings), OnLoss::Refuse)?;
        Box::new(Embedded::new(witnessed, 1))
    };
    let loaded = store.load()?;
    store.commit()?;
    Ok(Opened {
        store,
        counts,
        loaded,
        open,
        load: started.elapsed(),
    })
}

/// What stands in an engine: how much, and how fast all of it is read in order.
pub(crate) struct Live {
    pub(crate) keys: u64,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

/// Adds up all keys and values.
pub(crate) fn live(settings: &Settings) -> Result<Live> {
    add_up(&open_map(settings)?)
}

fn add_up(map: &impl OrderedMap) -> Result<Live> {
    let started = Instant::now();
    let (mut keys, mut bytes) = (0, 0);
    for pair in map.range(&[0], &[u8::MAX]) {
        let (key, value) = pair?;
        keys += 1;
        bytes += (key.len() + value.len()) as u64;
    }
    Ok(Live {
        keys,
        bytes,
        took: started.elapsed(),
    })
}

/// How an engine makes a commit durable.
pub(crate) fn durability(engine: Engine) -> &'static str {
    match engine {
        Engine::Sled => "durable: flush and fdatasync of sled's file with every commit",
        Engine::Fjall => "durable: sync of the journal with every commit",
        Engine::Memory => "none: memory",
    }
}
