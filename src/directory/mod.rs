//! Who there is: projects with their keys, registered devices, topics with their members.
//!
//! What it is: the part of the store that serving needs in memory, loaded at the start and changed only after the
//! change is durable. Lookups return owned values; no guard leaves this room.
//!
//! What it never does: write to the store, or know who is connected.

mod devices;
mod projects;
mod topics;

use petrel_core::{Day, PerPlatform};
use petrel_protocol::{
    DeviceSecret, DeviceToken, Ordinal, Platform, ProjectId, TokenError, TokenSealer, TopicName,
    Unsealed,
};
use ring::digest::{SHA256, digest};
use roaring::RoaringBitmap;

pub use self::devices::Device;
pub use self::projects::{ProjectKeys, ProjectLimits, Projects};
use crate::store::{Loaded, Registration, SecretHash, TopicId};

use self::devices::Devices;
use self::topics::Topics;

/// SHA-256 of a device secret: what the broker keeps of it.
#[must_use]
pub fn hash_secret(secret: &DeviceSecret) -> SecretHash {
    sha256(secret.as_bytes())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// What is known, in memory.
pub struct Directory {
    sealer: TokenSealer,
    projects: Projects,
    devices: Devices,
    topics: Topics,
}

impl Directory {
    /// Takes what the store had.
    #[must_use]
    pub fn new(sealer: TokenSealer, projects: Projects, loaded: &Loaded) -> Self {
        let directory = Self {
            sealer,
            projects,
            devices: Devices::default(),
            topics: Topics::default(),
        };
        for registration in &loaded.registrations {
            directory.devices.insert(registration);
        }
        for (id, project, name) in &loaded.topics {
            directory.topics.name(*id, *project, name);
        }
        for (device, topic) in &loaded.subscriptions {
            directory.topics.join(*topic, *device);
        }
        directory
    }

    /// The project that an API key opens.
    #[must_use]
    pub fn project_by_api_key(&self, key: &str) -> Option<ProjectId> {
        self.projects.by_api_key(key)
    }

    /// The bounds of a project, where it has its own.
    #[must_use]
    pub fn limits(&self, project: ProjectId) -> Option<ProjectLimits> {
        self.projects.limits(project)
    }

    /// The project of a name.
    #[must_use]
    pub fn project_by_name(&self, name: &str) -> Option<ProjectId> {
        self.projects.by_name(name)
    }

    /// The project of a name, if the key is one of its app keys.
    #[must_use]
    pub fn project_by_app_key(&self, name: &str, key: &str) -> Option<ProjectId> {
        self.projects.by_app_key(name, key)
    }

    /// The token of a device.
    #[must_use]
    pub fn token(&self, project: ProjectId, ordinal: Ordinal) -> DeviceToken {
        self.sealer.seal(Unsealed { project, ordinal })
    }

    /// Reads a token: whose device it names, alive or not.
    ///
    /// # Errors
    /// [`TokenError`] for a token that this broker did not make.
    pub fn unseal(&self, token: &str) -> Result<Unsealed, TokenError> {
        self.sealer.unseal(token)
    }

    /// A registered device; `None` if the registration never was or has ended.
    #[must_use]
    pub fn device(&self, ordinal: Ordinal) -> Option<Device> {
        self.devices.find(ordinal)
    }

    /// Remembers that a device was seen on a day; whether that is news, so that it is to be written.
    #[must_use]
    pub fn saw(&self, ordinal: Ordinal, day: Day) -> bool {
        self.devices.saw(ordinal, day)
    }

    /// When a device was last seen; `None` if it is not registered.
    #[must_use]
    pub fn seen(&self, ordinal: Ordinal) -> Option<Day> {
        self.devices.seen(ordinal)
    }

    /// Looks at so many ordinals from one on: devices last seen before a day, and where to go on; `None` at the end.
    #[must_use]
    pub fn unseen_since(
        &self,
        day: Day,
        from: Ordinal,
        ordinals_max: usize,
    ) -> (Vec<Ordinal>, Option<Ordinal>) {
        self.devices.unseen_since(day, from, ordinals_max)
    }

    /// Whether the secret is that of the device.
    #[must_use]
    pub fn is_secret_of(&self, ordinal: Ordinal, secret: &DeviceSecret) -> bool {
        self.devices.has_secret(ordinal, &hash_secret(secret))
    }

    /// Takes in a registration that is durable now.
    pub fn registered(&self, registration: &Registration) {
        self.devices.insert(registration);
    }

    /// Forgets a registration that has durably ended.
    pub fn unregistered(&self, ordinal: Ordinal, topics: &[TopicId]) {
        self.devices.remove(ordinal);
        for topic in topics {
            self.topics.leave(*topic, ordinal);
        }
    }

    /// Takes in a new secret.
    pub fn rotated(&self, ordinal: Ordinal, secret_hash: &SecretHash) {
        self.devices.rotate(ordinal, secret_hash);
    }

    /// Takes in a durable subscription.
    pub fn subscribed(&self, id: TopicId, project: ProjectId, name: &TopicName, device: Ordinal) {
        self.topics.name(id, project, name);
        // A registration may have ended while its subscription was being written.
        if self.devices.find(device).is_some() {
            self.topics.join(id, device);
        }
    }

    /// Takes in the durable end of a subscription.
    pub fn unsubscribed(&self, id: TopicId, device: Ordinal) {
        self.topics.leave(id, device);
    }

    /// The registered devices of the project that are subscribed to a topic.
    #[must_use]
    pub fn audience(&self, project: ProjectId, topic: &TopicName) -> RoaringBitmap {
        self.topics.members(project, topic) & self.devices.of_project(project)
    }

    /// The devices of a set for which a platform block speaks: index as in [`PerPlatform::variants`].
    #[must_use]
    pub fn by_variant(&self, project: ProjectId, devices: &RoaringBitmap) -> [RoaringBitmap; 3] {
        let mut variants = <[RoaringBitmap; 3]>::default();
        for platform in Platform::ALL {
            variants[PerPlatform::<()>::variant(platform)] |=
                devices & self.devices.on_platform(project, platform);
        }
        variants
    }

    /// How many devices are registered, and an estimate of the bytes of this room.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let (devices, bytes) = self.devices.size();
        (devices, bytes + self.topics.bytes())
    }
}
