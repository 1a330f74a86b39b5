//! Whoever serves a connection, and whenever it changes hands: applications see the same.
//!
//! A failure names its seed: `PETREL_SIM_SEED` repeats it, `PETREL_SIM_SEEDS` asks for more of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod world;

use std::{collections::BTreeSet, ops::Range, time::Duration};

use petrel_quic::{CloseReason, Engine, sim::Identity};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    common::Engines,
    world::{Action, CLIENT, Moves, SERVER, Told, Weather, World, crossing, rounds},
};

/// How long the traffic lasts that hand-overs fall into.
const DURING: Duration = Duration::from_secs(4);

const ALL: [Engines; 4] = [
    Engines::PROTO,
    Engines::SERVER_RESIDENT,
    Engines::CLIENT_RESIDENT,
    Engines::RESIDENT,
];

fn seeds(count: u64) -> Range<u64> {
    let from_env = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    match from_env("PETREL_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("PETREL_SIM_SEEDS").unwrap_or(count),
    }
}

/// Goes through scripts step by step in a world of each kind, and compares what their applications were told.
fn compare<const N: usize>(seeds: Range<u64>, kinds: [Engines; N], moves: Moves) {
    const LINES: usize = 3;
    let identity = Identity::new();
    let (mut handed_over, mut updates) = ([0; 2], 0);
    for seed in seeds {
        let name = format!("PETREL_SIM_SEED={seed}");
        let mut worlds = kinds.map(|engines| World::new(&name, seed, &identity, engines, LINES));
        for (number, round) in rounds(seed, LINES, 30, moves).iter().enumerate() {
            let told = worlds.each_mut().map(|world| {
                world.perform(round);
                world.settle();
                world.take_told()
            });
            for (told_here, kind) in told.iter().zip(kinds) {
                let place = format!("{name}, round {number}: {round:?}, {kind:?}");
                assert_eq!(told_here, &told[0], "{place}");
            }
        }
        for mut world in worlds {
            let [clients, server] = world.handed_over();
            handed_over[CLIENT] += clients;
            handed_over[SERVER] += server;
            updates += world.key_updates_seen();
            world.finish();
        }
    }
    assert!(handed_over.iter().all(|&count| count > 0) && updates > 0);
}

#[test]
fn the_same_script_gives_the_same_history() {
    compare(seeds(40), ALL, Moves::InGoodWeather);
}

#[test]
fn clients_of_resident_connections_move_in_any_weather() {
    let kinds = [Engines::SERVER_RESIDENT, Engines::RESIDENT];
    compare(seeds(40), kinds, Moves::InAnyWeather);
}

/// What was found out about hand-overs.
#[derive(Debug, Default)]
struct Findings {
    /// When they were, in microseconds since the beginning, whatever the script.
    moments: BTreeSet<u128>,
    /// How many, and how many of them while bytes of the peer were on their way.
    count: usize,
    crossed: usize,
    /// Key updates that the handshake engine began with a resident peer.
    updates_by_proto: u64,
    /// Runs in which the script closed the connection.
    closed: usize,
    /// Runs that quinn-proto did not survive: after a change of address under loss it may count packets as in flight for
    /// ever, and then sends nothing any more, not even acknowledgements.
    stranded: usize,
}

impl Findings {
    /// Hands over `after` so long, while the seed's traffic crosses.
    fn check(&mut self, seed: u64, engines: Engines, weather: Weather, after: Duration) {
        let mut identity = Identity::new();
        identity.limits.hand_over_after = after;
        let name = format!("PETREL_SIM_SEED={seed}, {weather:?}, handed over after {after:?}");
        let mut world = World::new(&name, seed, &identity, engines, 1);
        let script = crossing(seed, DURING, after);
        world.act(&Action::Weather(weather));
        world.connect_all();
        world.perform(&script);
        world.settle();

        let [told] = &world.take_told()[..] else {
            panic!("there is one line")
        };
        let has = |is_it: fn(&Action) -> bool| script.actions.iter().any(|(_, a)| is_it(a));
        let is_in_first_life = world.handed_over()[SERVER] == 0;
        if has(|action| matches!(action, Action::Close { .. })) {
            self.closed += 1;
            assert!(told.iter().all(|told| ended_well(told)), "{told:?}");
        } else if is_in_first_life
            && has(|action| matches!(action, Action::Rebind { .. }))
            && told
                .iter()
                .any(|t| t.contains(&Told::Closed(CloseReason::TimedOut)))
        {
            self.stranded += 1;
        } else {
            // Told of nothing but all that was sent.
            let is_all =
                |told: &Vec<_>| matches!(told[..], [Told::Opened] | [Told::Opened, Told::Heard(_)]);
            assert!(told.iter().all(is_all), "{told:?}");
            see_resident(&mut world, engines);
        }
        self.note(&mut world);
        world.finish();
    }

    fn note(&mut self, world: &mut World) {
        for rest in world.rests() {
            self.moments.insert(rest.at.as_micros());
            self.count += 1;
            self.crossed += usize::from(rest.is_crossed);
        }
        if world.handed_over() != [1, 1] {
            self.updates_by_proto += world.key_updates_seen() - world.key_updates;
        }
    }
}

/// In good weather a connection is handed over, once each end has got an answer: then a key update is over, too.
fn see_resident(world: &mut World, engines: Engines) {
    world.act(&Action::Weather(Weather::Good));
    for end in [CLIENT, SERVER] {
        world.act(&Action::Ping { line: 0, end });
        world.run_for(Duration::from_secs(10));
    }
    let is_resident = [engines.client, engines.server].map(|e| e == Engine::Resident);
    assert_eq!(world.residents(), is_resident.map(usize::from));
}

/// An end that the script closed, or whose peer it closed. The word of it may be lost, and is not repeated for long.
fn ended_well(told: &[Told]) -> bool {
    let mut reasons = told.iter().filter_map(|told| match told {
        Told::Closed(reason) => Some(reason),
        _ => None,
    });
    reasons.all(|reason| {
        matches!(
            reason,
            CloseReason::Local { .. }
                | CloseReason::ByPeer { .. }
                | CloseReason::TimedOut
                | CloseReason::Reset
        )
    })
}

#[test]
fn handed_over_at_every_moment_of_a_script() {
    let mut findings = Findings::default();
    for seed in seeds(2) {
        for engines in &ALL[1..] {
            for step in 0..DURING.as_millis() as u64 / 20 {
                let after = Duration::from_millis(20 * step);
                findings.check(seed, *engines, Weather::Good, after);
            }
        }
    }
    assert!(findings.moments.len() > 50, "{findings:?}");
}

#[test]
fn handed_over_at_any_moment_in_any_weather() {
    const SEEDS: u64 = 1_000;
    let mut findings = Findings::default();
    for seed in seeds(SEEDS) {
        let mut rng = StdRng::seed_from_u64(!seed);
        let engines = ALL[rng.random_range(1..ALL.len())];
        let after = rng.random_range(Duration::ZERO..DURING);
        findings.check(seed, engines, Weather::any(&mut rng), after);
    }
    let runs = seeds(SEEDS).count();
    if runs >= SEEDS as usize {
        assert!(findings.stranded <= runs / 500, "{findings:?}");
        assert!(findings.closed > runs / 10, "{findings:?}");
        assert!(findings.crossed > findings.count / 10, "{findings:?}");
        assert!(findings.updates_by_proto > 0, "{findings:?}");
    }
}
