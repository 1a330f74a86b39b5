//! What happens in a world, made from a seed.

use std::{ops::Range, time::Duration};

use petrel_quic::sim::Link;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{CLIENT, SERVER};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Good,
    /// Some 5 % loss, duplicates, delay and reordering.
    Lossy,
    /// Likewise, with 100 ms delay.
    Stormy,
}

impl Weather {
    pub(super) fn link(self) -> Link {
        match self {
            Self::Good => Link::GOOD,
            Self::Lossy => Link::LOSSY,
            Self::Stormy => Link::STORMY,
        }
    }

    pub(crate) fn any(rng: &mut StdRng) -> Self {
        [Self::Good, Self::Lossy, Self::Stormy][rng.random_range(0..3)]
    }
}

/// When clients change their address. Connections of the handshake engine do not always survive it under loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moves {
    InGoodWeather,
    InAnyWeather,
}

/// What is done at one end of a line, or to all the world. Without a connection it is nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Connect {
        line: usize,
    },
    Send {
        line: usize,
        end: usize,
        bytes: usize,
    },
    Ping {
        line: usize,
        end: usize,
    },
    UpdateKeys {
        line: usize,
        end: usize,
    },
    Pause {
        line: usize,
        end: usize,
    },
    Resume {
        line: usize,
        end: usize,
    },
    /// The client gets another port, and says so.
    Rebind {
        line: usize,
    },
    Close {
        line: usize,
        end: usize,
        code: u32,
    },
    /// The server forgets everything.
    Restart,
    Weather(Weather),
}

/// Actions, each after a pause.
#[derive(Debug, Clone, Default)]
pub(crate) struct Round {
    pub(crate) actions: Vec<(Duration, Action)>,
}

impl Round {
    fn of(actions: impl IntoIterator<Item = Action>) -> Self {
        let actions = actions.into_iter();
        Self {
            actions: actions.map(|action| (Duration::ZERO, action)).collect(),
        }
    }
}

/// Rounds that leave all ends with the same knowledge, whoever serves them: within a round many things are under way at
/// once; what ends connections comes only between rounds, in good weather.
pub(crate) fn rounds(seed: u64, lines: usize, count: usize, moves: Moves) -> Vec<Round> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut rounds = vec![Round::of((0..lines).map(|line| Action::Connect { line }))];
    while rounds.len() < count {
        let weather = Weather::any(rng);
        let mut round = Round::of([Action::Weather(weather)]);
        for _ in 0..rng.random_range(1..12) {
            let line = rng.random_range(0..lines);
            let action = harmless(rng, line);
            let is_move = matches!(action, Action::Rebind { .. });
            if !is_move || moves == Moves::InAnyWeather || weather == Weather::Good {
                round.actions.push((pause(rng), action));
            }
        }
        rounds.push(round);
        if rng.random_ratio(1, 6) {
            rounds.push(ending(rng, lines));
            rounds.push(Round::of((0..lines).map(|line| Action::Connect { line })));
        }
    }
    rounds
}

/// A round in which connections end, and nobody has noticed yet.
fn ending(rng: &mut StdRng, lines: usize) -> Round {
    let mut round = Round::of([Action::Weather(Weather::Good)]);
    let (line, end) = (rng.random_range(0..lines), rng.random_range(0..2));
    let code = rng.random();
    let mut act = |action| round.actions.push((Duration::ZERO, action));
    match rng.random_range(0..4) {
        0 => act(Action::Restart),
        1 => {
            // At the same time.
            act(Action::Close { line, end, code });
            let end = 1 - end;
            act(Action::Close { line, end, code });
        }
        _ => act(Action::Close { line, end, code }),
    }
    let bytes = size(rng);
    act(Action::Send { line, end, bytes });
    round
}

/// Everything under way at once on one line, for about as long as `during`; now and then something at the `moment`.
pub(crate) fn crossing(seed: u64, during: Duration, moment: Duration) -> Round {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut at = Duration::ZERO;
    let mut acts: Vec<(Duration, Action)> = Vec::new();
    while at < during {
        acts.push((at, harmless(rng, 0)));
        at += pause(rng);
    }
    let around = |rng: &mut StdRng| moment.saturating_sub(ms(rng, 0..150)) + ms(rng, 0..150);
    let line = 0;
    if rng.random_ratio(1, 2) {
        acts.push((around(rng), Action::Rebind { line }));
    }
    if rng.random_ratio(1, 2) {
        // Many packets, after which the handshake engine updates its keys more often than not.
        let at = around(rng);
        let end = rng.random_range(0..2);
        acts.extend((0..60).map(|i| {
            (
                at + i * ms(rng, 0..8),
                Action::Send {
                    line,
                    end,
                    bytes: 9,
                },
            )
        }));
    }
    if rng.random_ratio(1, 5) {
        let (end, code) = (rng.random_range(0..2), rng.random());
        acts.push((around(rng), Action::Close { line, end, code }));
    }
    acts.sort_by_key(|(at, _)| *at);
    let mut before = Duration::ZERO;
    let actions = acts.into_iter().map(|(at, action)| {
        let pause = at - before;
        before = at;
        (pause, action)
    });
    Round {
        actions: actions.collect(),
    }
}

fn harmless(rng: &mut StdRng, line: usize) -> Action {
    let end = [CLIENT, SERVER][rng.random_range(0..2)];
    match rng.random_range(0..20) {
        0 => Action::Rebind { line },
        1 => Action::Pause { line, end },
        2 | 3 => Action::Resume { line, end },
        4 | 5 => Action::Ping { line, end },
        6..=8 => Action::UpdateKeys { line, end },
        _ => Action::Send {
            line,
            end,
            bytes: size(rng),
        },
    }
}

/// Mostly small, now and then beyond the windows.
fn size(rng: &mut StdRng) -> usize {
    match rng.random_range(0..10) {
        0 => rng.random_range(1..60_000),
        1 | 2 => rng.random_range(1..5_000),
        _ => rng.random_range(1..200),
    }
}

/// Mostly short, so that what follows crosses what is under way; now and then time to rest.
fn pause(rng: &mut StdRng) -> Duration {
    match rng.random_range(0..10) {
        0 | 1 => Duration::ZERO,
        2..=6 => ms(rng, 0..100),
        _ => ms(rng, 0..1_500),
    }
}

fn ms(rng: &mut StdRng, range: Range<u64>) -> Duration {
    Duration::from_micros(rng.random_range(range.start * 1_000..range.end * 1_000))
}
