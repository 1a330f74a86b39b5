//! Projects and the keys that open them.

use std::collections::{HashMap, HashSet};

use petrel_core::queue::Limits;
use petrel_protocol::ProjectId;

use super::sha256;

/// The keys of one project, in clear, as configured.
#[derive(Clone, Default)]
pub struct ProjectKeys {
    /// For servers: they may send.
    pub api_keys: Vec<String>,
    /// For apps: they may register devices.
    pub app_keys: Vec<String>,
}

/// Bounds of what waits for the devices of a project.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProjectLimits {
    /// Of the queue of one device.
    pub queue: Limits,
    /// Most bytes in queues and logs.
    pub bytes_max: u64,
}

/// All projects. Keys are kept and compared as hashes: how long a look-up takes says nothing about a key.
#[derive(Default)]
pub struct Projects {
    by_name: HashMap<String, ProjectId>,
    by_api_key: HashMap<[u8; 32], ProjectId>,
    app_keys: HashSet<(ProjectId, [u8; 32])>,
    limits: HashMap<ProjectId, ProjectLimits>,
}

impl Projects {
    /// Adds a project.
    pub fn insert(&mut self, name: &str, id: ProjectId, keys: &ProjectKeys) {
        self.by_name.insert(name.to_owned(), id);
        for key in &keys.api_keys {
            self.by_api_key.insert(sha256(key.as_bytes()), id);
        }
        for key in &keys.app_keys {
            self.app_keys.insert((id, sha256(key.as_bytes())));
        }
    }

    /// Gives a project bounds of its own.
    pub fn limit(&mut self, id: ProjectId, limits: ProjectLimits) {
        self.limits.insert(id, limits);
    }

    pub(super) fn limits(&self, id: ProjectId) -> Option<ProjectLimits> {
        self.limits.get(&id).copied()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<ProjectId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn by_api_key(&self, key: &str) -> Option<ProjectId> {
        self.by_api_key.get(&sha256(key.as_bytes())).copied()
    }

    pub(super) fn by_app_key(&self, name: &str, key: &str) -> Option<ProjectId> {
        let id = self.by_name(name)?;
        self.app_keys
            .contains(&(id, sha256(key.as_bytes())))
            .then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_their_own_project_only() {
        let keys = |api: &str, app: &str| ProjectKeys {
            api_keys: vec![api.into()],
            app_keys: vec![app.into()],
        };
        let mut projects = Projects::default();
        projects.insert("a", ProjectId(0), &keys("api-a", "app-a"));
        projects.insert("b", ProjectId(1), &keys("api-b", "app-b"));
        assert_eq!(projects.by_api_key("api-b"), Some(ProjectId(1)));
        assert_eq!(projects.by_api_key("app-b"), None, "an app key cannot send");
        assert_eq!(projects.by_app_key("a", "app-a"), Some(ProjectId(0)));
        for (name, key) in [("a", "app-b"), ("a", "api-a"), ("c", "app-a"), ("a", "")] {
            assert_eq!(projects.by_app_key(name, key), None, "{name} {key}");
        }
    }
}
