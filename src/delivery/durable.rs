//! What becomes true of a broadcast with its commit, and when its log lets go of it. Called on the committer's thread.

use petrel_core::{DropReason, PerPlatform};
use petrel_protocol::MessageId;

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
            }
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
    }
}
