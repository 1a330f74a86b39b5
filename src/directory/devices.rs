//! Registered devices, by ordinal.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use petrel_core::Day;
use petrel_protocol::{Ordinal, Platform, ProjectId};
use roaring::RoaringBitmap;

use crate::store::{Registration, SecretHash};

/// A registered device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its number.
    pub ordinal: Ordinal,
    /// Whose it is.
    pub project: ProjectId,
    /// What kind it is.
    pub platform: Platform,
}

/// 24 bytes a device. Half of the hash of 256 random bits is still beyond guessing.
#[derive(Clone, Copy)]
struct Entry {
    secret_hash: [u8; 16],
    project: ProjectId,
    platform: Option<Platform>,
    seen: Day,
}

const VACANT: Entry = Entry {
    secret_hash: [0; 16],
    project: ProjectId(0),
    platform: None,
    seen: Day(0),
};

fn half(hash: &SecretHash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

#[derive(Default)]
struct Inner {
    entries: Vec<Entry>,
    by_project: HashMap<ProjectId, [RoaringBitmap; 4]>,
    count: u64,
}

#[derive(Default)]
pub(super) struct Devices {
    inner: RwLock<Inner>,
}

impl Devices {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, registration: &Registration) {
        let mut inner = self.write();
        let at = registration.ordinal.0 as usize;
        if inner.entries.len() <= at {
            inner.entries.resize(at + 1, VACANT);
        }
        let is_new = inner.entries[at].platform.is_none();
        inner.entries[at] = Entry {
            secret_hash: half(&registration.secret_hash),
            project: registration.project,
            platform: Some(registration.platform),
            seen: registration.seen,
        };
        inner.count += u64::from(is_new);
        inner.by_project.entry(registration.project).or_default()[registration.platform.index()]
            .insert(registration.ordinal.0);
    }

    pub(super) fn remove(&self, device: Ordinal) {
        let mut inner = self.write();
        let Some(entry) = inner.entries.get_mut(device.0 as usize) else {
            return;
        };
        let entry = std::mem::replace(entry, VACANT);
        if let Some(platform) = entry.platform {
            inner.count -= 1;
            if let Some(sets) = inner.by_project.get_mut(&entry.project) {
                sets[platform.index()].remove(device.0);
            }
        }
    }

    pub(super) fn rotate(&self, device: Ordinal, hash: &SecretHash) {
        if let Some(entry) = self.write().entries.get_mut(device.0 as usize) {
            entry.secret_hash = half(hash);
        }
    }

    pub(super) fn find(&self, device: Ordinal) -> Option<Device> {
        let inner = self.read();
        let entry = inner.entries.get(device.0 as usize)?;
        Some(Device {
            ordinal: device,
            project: entry.project,
            platform: entry.platform?,
        })
    }

    /// Remembers that a device was seen on a day; whether that is news.
    pub(super) fn saw(&self, device: Ordinal, day: Day) -> bool {
        let at = device.0 as usize;
        let is_news = |e: &Entry| e.platform.is_some() && e.seen != day;
        if !self.read().entries.get(at).is_some_and(is_news) {
            return false;
        }
        let mut inner = self.write();
        let entry = inner.entries.get_mut(at).filter(|e| is_news(e));
        entry.map(|e| e.seen = day).is_some()
    }

    /// When a device was last seen.
    pub(super) fn seen(&self, device: Ordinal) -> Option<Day> {
        let inner = self.read();
        let entry = inner.entries.get(device.0 as usize)?;
        entry.platform.map(|_| entry.seen)
    }

    /// Looks at so many entries from an ordinal on: those that were last seen before a day, and where to go on; `None`
    /// at the end.
    pub(super) fn unseen_since(
        &self,
        day: Day,
        from: Ordinal,
        entries_max: usize,
    ) -> (Vec<Ordinal>, Option<Ordinal>) {
        let inner = self.read();
        let start = (from.0 as usize).min(inner.entries.len());
        let end = start.saturating_add(entries_max).min(inner.entries.len());
        let unseen = (start..)
            .zip(&inner.entries[start..end])
            .filter(|(_, entry)| entry.platform.is_some() && entry.seen < day)
            .map(|(at, _)| Ordinal(at as u32));
        let next = (end < inner.entries.len()).then_some(Ordinal(end as u32));
        (unseen.collect(), next)
    }

    pub(super) fn has_secret(&self, device: Ordinal, hash: &SecretHash) -> bool {
        let inner = self.read();
        // Hashes of 256 random bits are compared: timing tells nothing that helps to find the secret.
        inner
            .entries
            .get(device.0 as usize)
            .is_some_and(|e| e.platform.is_some() && e.secret_hash == half(hash))
    }

    pub(super) fn of_project(&self, project: ProjectId) -> RoaringBitmap {
        let inner = self.read();
        let sets = inner.by_project.get(&project);
        sets.map_or_else(RoaringBitmap::new, |sets| {
            sets.iter().fold(RoaringBitmap::new(), |all, set| all | set)
        })
    }

    pub(super) fn on_platform(&self, project: ProjectId, platform: Platform) -> RoaringBitmap {
        let inner = self.read();
        inner
            .by_project
            .get(&project)
            .map_or_else(RoaringBitmap::new, |sets| sets[platform.index()].clone())
    }

    pub(super) fn size(&self) -> (u64, u64) {
        let inner = self.read();
        let sets: usize = inner
            .by_project
            .values()
            .flatten()
            .map(RoaringBitmap::serialized_size)
            .sum();
        let entries = inner.entries.capacity() * size_of::<Entry>();
        (inner.count, (entries + sets) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 24);
    }

    #[test]
    fn a_removed_device_is_gone_and_its_neighbour_stays() {
        let devices = Devices::default();
        let registration = |ordinal, secret: u8| Registration {
            ordinal: Ordinal(ordinal),
            project: ProjectId(1),
            secret_hash: [secret; 32],
            platform: Platform::Ios,
            seen: Day(5),
        };
        devices.insert(&registration(0, 1));
        devices.insert(&registration(5, 2));
        assert!(devices.has_secret(Ordinal(5), &[2; 32]));
        assert!(!devices.has_secret(Ordinal(5), &[1; 32]));
        assert!(
            !devices.has_secret(Ordinal(3), &[0; 32]),
            "a vacant entry has no secret"
        );
        assert!(devices.saw(Ordinal(5), Day(9)) && !devices.saw(Ordinal(5), Day(9)));
        assert!(!devices.saw(Ordinal(3), Day(9)), "nobody is there");
        assert_eq!(devices.seen(Ordinal(5)), Some(Day(9)));
        let unseen = |day, from, most| devices.unseen_since(Day(day), Ordinal(from), most);
        assert_eq!(unseen(6, 0, 99), (vec![Ordinal(0)], None));
        assert_eq!(unseen(10, 0, 5), (vec![Ordinal(0)], Some(Ordinal(5))));
        assert_eq!(unseen(10, 5, 5), (vec![Ordinal(5)], None));
        assert_eq!(unseen(10, 99, 5), (vec![], None));
        devices.remove(Ordinal(5));
        devices.remove(Ordinal(5));
        assert_eq!(devices.find(Ordinal(5)), None);
        assert_eq!(
            devices.of_project(ProjectId(1)).iter().collect::<Vec<_>>(),
            [0]
        );
        assert_eq!(devices.size().0, 1);
        devices.rotate(Ordinal(0), &[7; 32]);
        assert!(devices.has_secret(Ordinal(0), &[7; 32]));
    }
}
