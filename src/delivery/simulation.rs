//! Deterministic simulation of deliveries: one seed, one history.
//!
//! What it is: the real `Delivery`, `Committer`, directory, presence, mailboxes, sequencer and store over a map in
//! memory, with publishers, devices and shards played by the test, all on one thread. Others act between any two
//! operations of the store, commits fail, and a crash leaves nothing but the map. At the end everything comes to rest and
//! the books are compared: what was answered, what each device kept, what it was told is missing, what is left over.
//!
//! A failing seed is printed with its steps. `PETREL_SIM_SEED=n` runs that seed alone, `PETREL_SIM_SEEDS=n` so many.

mod device;
mod hooked;
mod publisher;
mod race;
mod rest;
mod seeded;
mod session;
mod shard;
mod steps;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::world::{World, crash, lock, start};
use crate::delivery::Committer;
use crate::presence::Presence;

const SEEDS: u64 = 1_000;
const STEPS: usize = 400;

/// The committer of the running process, and how many ack windows have ended.
struct Life {
    committer: Committer,
    windows: u32,
}

/// One turn of the committer over a group of some size; `is_late` ends the ack windows and makes it housekeep.
fn turn(world: &Mutex<World>, life: &mut Life, is_late: bool) {
    let mut group = Vec::new();
    {
        let mut world = lock(world);
        let most = world.settings.batch_operations_max;
        let most = 1 + world.rng.below(most);
        while group.len() < most {
            let Ok(operation) = world.life().operations.try_recv() else {
                break;
            };
            group.push(operation);
        }
        let line = format!("turn of {} operations, late: {is_late}", group.len());
        world.say(line);
    }
    let mut now = Instant::now();
    if is_late {
        life.windows += 1;
        now += Duration::from_secs(7200) * life.windows;
    }
    life.committer.turn(&mut group, now);
}

fn simulate(world: &Arc<Mutex<World>>) {
    let begin = || {
        let committer = start(world);
        lock(world).is_wild = true;
        Life {
            committer,
            windows: 0,
        }
    };
    let mut life = begin();
    for _ in 0..STEPS {
        let choice = lock(world).rng.below(200);
        match choice {
            0..50 => turn(world, &mut life, choice < 20),
            50 if lock(world).is_crashing => lock(world).is_dead = true,
            _ => lock(world).step(),
        }
        if lock(world).is_dead {
            crash(&mut lock(world));
            life = begin();
        }
    }
    rest::settle(world, &mut life);
    lock(world).check();
}

/// Acts; a panic is preceded by the steps that led to it.
fn explain(world: &Mutex<World>, what: &str, act: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(act)) {
        for line in &lock(world).trace {
            println!("{line}");
        }
        println!("this was {what}");
        resume_unwind(panic);
    }
}

fn run(seed: u64, presence: &Arc<Presence>) {
    let world = Arc::new(Mutex::new(World::new(seed, Arc::clone(presence))));
    explain(&world, &format!("PETREL_SIM_SEED={seed}"), || {
        simulate(&world)
    });
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_answered_is_lost_whatever_happens() {
    let presence = Arc::default();
    if let Some(seed) = from_env("PETREL_SIM_SEED") {
        return run(seed, &presence);
    }
    for seed in 0..from_env("PETREL_SIM_SEEDS").unwrap_or(SEEDS) {
        run(seed, &presence);
    }
}
