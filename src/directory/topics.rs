//! Topics and their members.

use dashmap::DashMap;
use petrel_protocol::{Ordinal, ProjectId, TopicName};
use roaring::RoaringBitmap;

use crate::store::TopicId;

/// Names lead to numbers, numbers to members. No guard is held over another look-up.
#[derive(Default)]
pub(super) struct Topics {
    id_by_name: DashMap<(ProjectId, TopicName), TopicId>,
    members_by_id: DashMap<TopicId, RoaringBitmap>,
}

impl Topics {
    pub(super) fn name(&self, id: TopicId, project: ProjectId, name: &TopicName) {
        self.id_by_name.insert((project, name.clone()), id);
    }

    pub(super) fn join(&self, id: TopicId, device: Ordinal) {
        self.members_by_id.entry(id).or_default().insert(device.0);
    }

    pub(super) fn leave(&self, id: TopicId, device: Ordinal) {
        if let Some(mut members) = self.members_by_id.get_mut(&id) {
            members.remove(device.0);
        }
    }

    pub(super) fn members(&self, project: ProjectId, name: &TopicName) -> RoaringBitmap {
        let id = self
            .id_by_name
            .get(&(project, name.clone()))
            .map(|id| *id.value());
        id.and_then(|id| self.members_by_id.get(&id).map(|m| m.value().clone()))
            .unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> u64 {
        let names: usize = self
            .id_by_name
            .iter()
            .map(|e| e.key().1.as_str().len() + size_of::<(ProjectId, TopicName, TopicId)>())
            .sum();
        let members: usize = self
            .members_by_id
            .iter()
            .map(|e| e.value().serialized_size())
            .sum();
        (names + members) as u64
    }
}
