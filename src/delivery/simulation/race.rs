//! The small race, exhausted: one device, one publish, and every order of at most seven steps of publisher, committer
//! and session, each order followed by a crash or by coming to rest.

use std::sync::{Arc, Mutex};

use super::world::{HOUR, World, crash, lock, start};
use super::{Life, rest, turn};
use crate::presence::Presence;

const STEPS_MAX: usize = 7;

/// What may happen, one at a time, around the one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A publisher sends it, once.
    Publish,
    /// The committer takes one operation.
    Turn,
    /// The same, and the ack window ends.
    Late,
    /// The same, but the next step happens before the commit is done.
    LateAround,
    /// The device attaches, in place of its older session if it has one.
    Attach,
    /// The new session scans.
    Scan,
    /// The shard works off its mailbox.
    Shard,
    /// The device takes what was sent, and acks it.
    Ack,
    /// The session ends, with what is on its way.
    Detach,
}

const STEPS: [Step; 9] = [
    Step::Publish,
    Step::Turn,
    Step::Late,
    Step::LateAround,
    Step::Attach,
    Step::Scan,
    Step::Shard,
    Step::Ack,
    Step::Detach,
];

impl World {
    /// Whether a step would do anything.
    fn can(&mut self, step: Step) -> bool {
        let at = self.devices[0].at;
        let is_published = !self.publishes.is_empty();
        let life = self.life();
        let has_operations = !life.operations.is_empty();
        match step {
            Step::Publish => !is_published,
            Step::Turn => has_operations,
            // A message may be held back for its ack.
            Step::Late | Step::LateAround => has_operations || life.delivery.pending.devices() > 0,
            Step::Attach => true,
            Step::Scan => at.is_some_and(|(shard, conn)| {
                let session = self.shard(shard).session(conn);
                session.is_some_and(|s| s.is_open && !s.outbox.is_idle())
            }),
            Step::Shard => life.delivery.mailboxes()[0].stats().depth > 0,
            Step::Ack => at.is_some_and(|(shard, conn)| {
                let session = self.shard(shard).session(conn);
                session.is_some_and(|s| !s.wire.is_empty())
            }),
            Step::Detach => at.is_some(),
        }
    }

    /// Does any step but a turn.
    pub(super) fn race(&mut self, step: Step) {
        self.say(format!("{step:?}"));
        match step {
            Step::Publish => self.publish_plainly(0),
            Step::Attach => self.open_session(0, 0),
            Step::Scan => {
                if let Some((shard, conn)) = self.devices[0].at {
                    self.shard(shard).scan(conn);
                }
            }
            Step::Shard => _ = self.shard(0).handle_mailbox(usize::MAX),
            Step::Ack => {
                self.receive(0);
                while self.acks(0) {}
            }
            Step::Detach => self.close(0),
            Step::Turn | Step::Late | Step::LateAround => {}
        }
    }
}

/// Plays an order from the start; `None` if one of its steps would do nothing.
fn play(presence: &Arc<Presence>, steps: &[Step]) -> Option<(Arc<Mutex<World>>, Life)> {
    let mut world = World::new(0, Arc::clone(presence));
    world.devices.truncate(1);
    world.settings.ack_window = HOUR;
    world.settings.batch_operations_max = 1;
    let world = Arc::new(Mutex::new(world));
    let mut life = Life {
        committer: start(&world),
        windows: 0,
    };
    // Being registered is not part of the race.
    lock(&world).attach(0, 0);
    turn(&world, &mut life, false);
    lock(&world).shard(0).handle_mailbox(usize::MAX);
    lock(&world).hear();
    lock(&world).close(0);
    let mut steps = steps.iter();
    while let Some(&step) = steps.next() {
        if !lock(&world).can(step) {
            crash(&mut lock(&world));
            return None;
        }
        match step {
            Step::Turn | Step::Late => turn(&world, &mut life, step == Step::Late),
            Step::LateAround => {
                lock(&world).meanwhile = steps.next().copied();
                turn(&world, &mut life, true);
            }
            _ => lock(&world).race(step),
        }
    }
    Some((world, life))
}

fn finish(world: &Arc<Mutex<World>>, mut life: Life, is_crashing: bool, steps: &[Step]) {
    lock(world).is_crashing = is_crashing;
    if is_crashing {
        crash(&mut lock(world));
        life = Life {
            committer: start(world),
            windows: 0,
        };
    }
    super::explain(
        world,
        &format!("the order {steps:?}, crash: {is_crashing}"),
        || {
            rest::settle(world, &mut life);
            lock(world).check();
        },
    );
}

/// Tries every step after an order that makes sense; how many orders there are.
fn explore(presence: &Arc<Presence>, steps: &mut Vec<Step>) -> usize {
    let mut orders = 0;
    for step in STEPS {
        steps.push(step);
        // A turn that waits for its next step makes no order yet.
        let is_half = step == Step::LateAround;
        let played = if is_half { None } else { play(presence, steps) };
        if let Some((world, life)) = played {
            finish(&world, life, false, steps);
            let (world, life) = play(presence, steps).unwrap();
            finish(&world, life, true, steps);
            orders += 1;
            if steps.len() < STEPS_MAX {
                orders += explore(presence, steps);
            }
        } else if is_half && steps.len() < STEPS_MAX && steps.contains(&Step::Publish) {
            orders += explore(presence, steps);
        }
        steps.pop();
    }
    orders
}

#[test]
fn no_order_of_publish_commit_attach_ack_and_detach_loses_a_message() {
    let orders = explore(&Arc::default(), &mut Vec::new());
    println!("{orders} orders");
    assert!(orders > 1000, "{orders}");
}
