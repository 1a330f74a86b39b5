//! Devices in random order, messages with content of a given size: the same in every run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use petrel::store::Store;
use petrel_core::{Address, Content, Draft, DraftOptions, Message, PerPlatform};
use petrel_protocol::{MessageId, Ordinal, ProjectId};

use crate::engine::Opened;
use crate::settings::Settings;
use crate::{calls, proc, say};

/// Operations that a group commit takes at most: `store.batch_operations_max`.
pub(crate) const GROUP_MAX: usize = 256;

/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);

/// Ids that a run may use, reserved at its start.
const IDS: u64 = 1 << 40;

/// splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound, which is far below 2^32.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize * bound) >> 32
    }

    fn hash(&mut self) -> [u8; 32] {
        let mut hash = [0; 32];
        for part in hash.chunks_exact_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes());
        }
        hash
    }

    /// Text that does not compress to less than six bits a byte.
    fn text(&mut self, bytes: usize) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::with_capacity(bytes + 10);
        while text.len() < bytes {
            let bits = self.next();
            text.extend((0..10).map(|n| char::from(LETTERS[(bits >> (6 * n)) as usize & 63])));
        }
        text.truncate(bytes);
        text
    }
}

/// Numbers from 0 up to a bound, in random order.
pub(crate) fn shuffled(count: u32, random: &mut Random) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, random.below(last + 1));
    }
    numbers
}

/// Makes messages with ids in order.
pub(crate) struct Messages {
    random: Random,
    epoch: u32,
    next: u64,
    content_bytes: usize,
}

impl Messages {
    /// Reserves ids for the run.
    pub(crate) fn new(opened: &mut Opened, settings: &Settings) -> Result<Self> {
        let next = opened.loaded.reserved_end + 1;
        opened.store.reserve(next + IDS)?;
        opened.store.commit()?;
        Ok(Self {
            random: Random::new(next),
            epoch: opened.loaded.epoch.max(1),
            next,
            content_bytes: settings.content_bytes as usize,
        })
    }

    /// The next message, with data as content and four weeks to live.
    pub(crate) fn next(&mut self, address: Address) -> Message {
        const KEY: &str = "text";
        let mut content = Content::default();
        let text = self.random.text(self.content_bytes - KEY.len());
        content.data.insert(KEY.into(), text);
        let draft = Draft {
            content,
            options: PerPlatform::same(DraftOptions::default()),
        };
        let id = MessageId {
            epoch: self.epoch,
            sequence: self.next,
        };
        self.next += 1;
        draft.accept(id, ProjectId(0), address, calls::now())
    }

    /// The next message for a device.
    pub(crate) fn to(&mut self, device: Ordinal) -> Message {
        self.next(Address::Device(device))
    }
}

/// Registers all devices, unless they are there already or shall not be.
pub(crate) fn register(opened: &mut Opened, settings: &Settings) -> Result<()> {
    if !settings.has_registrations {
        return Ok(());
    }
    let there = opened.loaded.registrations.len() as u64;
    let wanted = u64::from(settings.devices);
    let mut random = Random::new(there ^ 0x5eed);
    let store = &mut *opened.store;
    store.project("bench")?;
    let mut progress = Progress::new("registered", wanted);
    for done in there..wanted {
        let device = calls::register(store, random.hash())?;
        ensure!(
            u64::from(device.0) == done,
            "the store in {} holds other devices; choose an empty directory",
            settings.dir.display()
        );
        if (done + 1) % GROUP_MAX as u64 == 0 {
            store.commit()?;
            progress.at(done + 1);
        }
    }
    store.commit()?;
    Ok(())
}

/// Queues messages for devices, one each in turn, in the order given, in full groups.
pub(crate) fn fill(
    store: &mut dyn Store,
    messages: &mut Messages,
    devices: &[u32],
    count: u64,
    mut told: impl FnMut(u64),
) -> Result<()> {
    let mut progress = Progress::new("queued", count);
    let mut done = 0;
    for &device in devices.iter().cycle() {
        if done == count {
            break;
        }
        let device = Ordinal(device);
        calls::enqueue(store, device, &messages.to(device))?;
        done += 1;
        if done % GROUP_MAX as u64 == 0 {
            store.commit()?;
            if progress.at(done) {
                told(done);
            }
        }
    }
    store.commit()?;
    told(done);
    Ok(())
}

/// Tells how far something is.
struct Progress {
    what: &'static str,
    wanted: u64,
    told_at: Instant,
    told: u64,
}

impl Progress {
    fn new(what: &'static str, wanted: u64) -> Self {
        Self {
            what,
            wanted,
            told_at: Instant::now(),
            told: 0,
        }
    }

    /// Whether this was told.
    fn at(&mut self, done: u64) -> bool {
        let took = self.told_at.elapsed();
        if took < TELL {
            return false;
        }
        say(&format!(
            "{} {done} of {}: {:.0}/s, memory {} MiB",
            self.what,
            self.wanted,
            (done - self.told) as f64 / took.as_secs_f64(),
            proc::memory() >> 20
        ));
        self.told_at = Instant::now();
        self.told = done;
        true
    }
}
