//! When a broker is killed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::common::{Broker, within};
use crate::world::{Mood, World};

/// A moment, and how the next start goes.
#[derive(Clone, Debug)]
pub(crate) enum Moment {
    /// Under the usual load.
    Steady(Duration),
    /// While broadcasts come as fast as they can.
    Burst(Duration),
    /// Right after the so-manieth publish was answered with 200.
    Answer(usize),
    /// Under way out: SIGTERM, and SIGKILL so long after it.
    Draining(Duration, Duration),
    /// Under load, and again so long after each of these starts, which may not be ready by then.
    Loading(Duration, Vec<Duration>),
}

impl Moment {
    /// The first five are one of each.
    pub(crate) fn choose(nth: usize, chance: &mut Chance) -> Self {
        let kind = if nth < 5 { nth } else { chance.below(5) };
        match kind {
            0 => Self::Steady(chance.millis(5..500)),
            1 => Self::Burst(chance.millis(5..200)),
            2 => Self::Answer(1 + chance.below(60)),
            3 => Self::Draining(chance.millis(20..300), chance.millis(0..60)),
            _ => {
                let starts = 1 + chance.below(3);
                let starts = (0..starts).map(|_| chance.millis(1..120)).collect();
                Self::Loading(chance.millis(5..300), starts)
            }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Steady(_) => "steady",
            Self::Burst(_) => "burst",
            Self::Answer(_) => "answer",
            Self::Draining(..) => "draining",
            Self::Loading(..) => "loading",
        }
    }

    /// Waits for it. Time itself is what is waited for.
    pub(crate) async fn come(&self, world: &World, broker: &Broker) {
        match self {
            Self::Steady(after) | Self::Loading(after, _) => tokio::time::sleep(*after).await,
            Self::Burst(after) => {
                world.mood.send_replace(Mood::Burst);
                tokio::time::sleep(*after).await;
            }
            Self::Answer(count) => {
                within("publishes answered with 200", async {
                    for _ in 0..*count {
                        world.accepted.notified().await;
                    }
                })
                .await;
            }
            Self::Draining(after, then) => {
                tokio::time::sleep(*after).await;
                broker.ask_to_end();
                tokio::time::sleep(*then).await;
            }
        }
    }
}

/// Starts a broker on the same data and kills it so long after.
pub(crate) fn start_and_kill(broker: &Broker, after: Duration) {
    let data_dir = &broker.ready.data_dir;
    let config = data_dir.parent().unwrap().join("petrel.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
    command.arg("serve").arg("--config").arg(config);
    command.arg("--data-dir").arg(data_dir);
    for flag in ["--quic", "--http", "--https", "--admin"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How long something takes.
pub(crate) fn timed(act: impl FnOnce()) -> Duration {
    let began = Instant::now();
    act();
    began.elapsed()
}
