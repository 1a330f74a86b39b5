//! What becomes true of a broadcast with its commit, and when its log lets go of it. Called on the committer's thread.

use std::collections::HashMap;

use petrel_core::{DropReason, PerPlatform};
use petrel_protocol::{MessageId, Ordinal, ProjectId, TopicName};
use roaring::RoaringBitmap;

use super::Delivery;
use super::broadcasts::{Broadcast, Stage};

/// A broadcast is durable: it is owed from now on, and replaces older ones of its topic and collapse key.
pub(super) fn broadcast_committed(delivery: &Delivery, broadcast: &Broadcast) {
    // A registration may have ended between the choice of the audience and the place among the operations.
    delivery.settle_for_dead(broadcast);
    delivery.ledger.accept(broadcast.owed().len());
    broadcast.set_stage(Stage::Live);
    let keys = broadcast
        .message
        .options
        .map(|options| options.collapse_key.clone());
    if keys.variants().into_iter().flatten().all(Option::is_none) {
        return;
    }
    let project = broadcast.message.project;
    let targeted = broadcast.owed().targeted().clone();
    let by_variant = delivery.directory.by_variant(project, &targeted);
    for older in delivery.broadcasts.all() {
        let is_older = older.message.id < broadcast.message.id
            && older.message.project == project
            && older.topic() == broadcast.topic()
            && older.stage() == Stage::Live;
        if !is_older {
            continue;
        }
        for (variant, devices) in by_variant.iter().enumerate() {
            let new_key = variant_key(&keys, variant);
            let old = older.message.options.map(|o| o.collapse_key.clone());
            if new_key.is_some() && new_key == variant_key(&old, variant) {
                let replaced = older.settle_all(devices);
                delivery.ledger.drop(DropReason::Collapsed, replaced);
                older.tally.drop(DropReason::Collapsed, replaced);
            }
        }
    }
}

/// Settles again what gaps that were told stand for: settled sets are written behind.
pub(super) fn tell_loaded(
    delivery: &Delivery,
    told: &[(Ordinal, ProjectId, TopicName, MessageId)],
) {
    for (device, project, topic, newest) in told {
        for broadcast in delivery.broadcasts.owed_to(*device) {
            let message = &broadcast.message;
            let is_told = broadcast.stage() == Stage::Trimmed
                && message.project == *project
                && broadcast.topic() == Some(topic)
                && message.id <= *newest;
            if is_told {
                broadcast.settle(*device);
            }
        }
    }
}

/// Replaces again what broadcasts had replaced when the broker was killed: settled sets are written behind. Called once,
/// with everything that the store had.
pub(super) fn collapse_loaded(delivery: &Delivery) {
    // By address and key, the devices that a newer broadcast stands for. The newest comes first.
    let mut replaced: HashMap<_, RoaringBitmap> = HashMap::new();
    for broadcast in delivery.broadcasts.all().into_iter().rev() {
        let message = &broadcast.message;
        let keys = message.options.map(|options| options.collapse_key.clone());
        if keys.variants().into_iter().flatten().all(Option::is_none) {
            continue;
        }
        let targeted = broadcast.owed().targeted().clone();
        let by_variant = delivery.directory.by_variant(message.project, &targeted);
        for (variant, devices) in by_variant.iter().enumerate() {
            let Some(key) = variant_key(&keys, variant) else {
                continue;
            };
            let address = (message.project, broadcast.topic().cloned());
            let newer = replaced.entry((address, key.clone(), variant)).or_default();
            // One that its log let go of first is in a gap, which may have been told.
            if broadcast.stage() == Stage::Live {
                broadcast.settle_all(&(devices & &*newer));
            }
            *newer |= devices;
        }
    }
}

fn variant_key<K>(keys: &PerPlatform<Option<K>>, variant: usize) -> Option<&K> {
    keys.variants()[variant].unwrap_or(&keys.common).as_ref()
}

/// A log has let go of a broadcast: whoever is owed it gets a gap instead.
pub(super) fn trimmed(delivery: &Delivery, id: MessageId) {
    if let Some(broadcast) = delivery.broadcasts.find(id)
        && broadcast.stage() == Stage::Live
    {
        // Under the lock, so that an ack is counted before or not at all.
        let sets = broadcast.owed();
        broadcast.set_stage(Stage::Trimmed);
        delivery.ledger.drop(DropReason::Trimmed, sets.len());
        broadcast.tally.drop(DropReason::Trimmed, sets.len());
        broadcast.mark_dirty();
    }
}
