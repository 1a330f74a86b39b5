//! What a scenario is run with: its own TOML file, a file of the user's over it, `--set key=value` over both.
//!
//! The built-in file of a scenario names every setting it has. So an unknown key is found by looking there, and the
//! defaults are where a reader looks for them.

mod duration;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use toml::{Table, Value};

use self::duration::{Acked, Broker, duration, unless};

const IDLE: &str = include_str!("../scenarios/idle.toml");
const FANOUT: &str = include_str!("../scenarios/fanout.toml");

/// The key that says which program a file is for.
const SCENARIO: &str = "scenario";

/// Most bytes of the bitmaps that tell which device got which message.
const TALLY_BYTES_MAX: u64 = 1 << 30;

/// What every scenario has.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Generator {
    pub(crate) devices: u32,
    pub(crate) threads: u32,
    pub(crate) sockets: u32,
    pub(crate) concurrency: u32,
    #[serde(deserialize_with = "unless::<Broker, _>")]
    pub(crate) keep_alive: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) patience: Duration,
    #[serde(deserialize_with = "duration")]
    pub(crate) hold: Duration,
}

/// Density.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Idle {
    #[serde(flatten)]
    pub(crate) generator: Generator,
    pub(crate) steps: u32,
    #[serde(deserialize_with = "duration")]
    pub(crate) settle: Duration,
    pub(crate) resumed: u32,
    pub(crate) broadcast: bool,
    #[serde(deserialize_with = "duration")]
    pub(crate) aftermath: Duration,
}

/// Fan-out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fanout {
    #[serde(flatten)]
    pub(crate) generator: Generator,
    pub(crate) rounds: u32,
    pub(crate) warm_up: u32,
    #[serde(deserialize_with = "unless::<Acked, _>")]
    pub(crate) interval: Option<Duration>,
    pub(crate) payload_bytes: usize,
}

/// A scenario, ready to be run.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    Idle(Idle),
    Fanout(Fanout),
}

/// A program and the settings as they were put together, for the record.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) program: Program,
    pub(crate) table: Table,
}

impl Settings {
    /// `scenario` is the name of a built-in one, or the path of a file (it ends in `.toml`).
    pub(crate) fn new(scenario: &str, set: &[String]) -> Result<Self> {
        let (name, own) = if scenario.ends_with(".toml") {
            let text = std::fs::read_to_string(Path::new(scenario))
                .with_context(|| format!("cannot read the scenario {scenario}"))?;
            let own: Table =
                toml::from_str(&text).with_context(|| format!("{scenario} is not TOML"))?;
            let name = own.get(SCENARIO).and_then(Value::as_str).map(str::to_owned);
            let name = name.ok_or_else(|| {
                anyhow!(
                    "{scenario} does not say what it is: write scenario = \"idle\" or \"fanout\""
                )
            })?;
            (name, own)
        } else {
            (scenario.to_owned(), Table::new())
        };
        let mut table: Table = toml::from_str(built_in(&name)?)?;
        for (key, value) in own {
            put(&mut table, &name, &key, value)?;
        }
        for pair in set {
            let (key, text) = pair
                .split_once('=')
                .with_context(|| format!("--set {pair}: write it as key=value"))?;
            put(&mut table, &name, key.trim(), value(text.trim()))?;
        }
        let program = program(&name, &table)?;
        let faults = program.faults();
        if !faults.is_empty() {
            bail!("{name} cannot be run so: {}", faults.join("; "));
        }
        Ok(Self { program, table })
    }
}

impl Program {
    pub(crate) fn generator(&self) -> &Generator {
        match self {
            Self::Idle(idle) => &idle.generator,
            Self::Fanout(fanout) => &fanout.generator,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Idle(_) => "idle",
            Self::Fanout(_) => "fanout",
        }
    }

    /// Everything that is out of its bounds, all at once.
    fn faults(&self) -> Vec<String> {
        let mut bounds = self.generator().bounds();
        bounds.extend(match self {
            Self::Idle(idle) => idle.bounds(),
            Self::Fanout(fanout) => fanout.bounds(),
        });
        bounds
            .into_iter()
            .filter(|(_, holds, _)| !holds)
            .map(|(key, _, what)| format!("{key} has to be {what}"))
            .collect()
    }
}

/// A key, whether it is within its bounds, and the bounds.
type Bound = (&'static str, bool, &'static str);

impl Generator {
    fn bounds(&self) -> Vec<Bound> {
        let second = Duration::from_secs(1);
        vec![
            (
                "devices",
                (1..=16_777_216).contains(&self.devices),
                "1 to 16777216",
            ),
            ("threads", (1..=256).contains(&self.threads), "1 to 256"),
            (
                "sockets",
                (1..=16_384).contains(&self.sockets),
                "1 to 16384",
            ),
            (
                "sockets",
                self.sockets >= self.threads,
                "at least one for each thread",
            ),
            (
                "concurrency",
                (1..=65_536).contains(&self.concurrency),
                "1 to 65536",
            ),
            (
                "patience",
                (second..=3600 * second).contains(&self.patience),
                "1s to 1h",
            ),
            ("hold", self.hold <= 7 * 86_400 * second, "at most 168h"),
            (
                "keep_alive",
                self.keep_alive.is_none_or(|every| every >= second),
                "\"broker\" or at least 1s",
            ),
        ]
    }
}

impl Idle {
    fn bounds(&self) -> Vec<Bound> {
        let hour = Duration::from_secs(3600);
        vec![
            (
                "steps",
                (2..=100).contains(&self.steps),
                "2 to 100: a slope needs two points",
            ),
            (
                "steps",
                self.steps <= self.generator.devices,
                "at most the number of devices",
            ),
            ("settle", self.settle <= hour, "at most 1h"),
            ("aftermath", self.aftermath <= hour, "at most 1h"),
        ]
    }
}

impl Fanout {
    fn bounds(&self) -> Vec<Bound> {
        let tally_bytes = u64::from(self.rounds) * u64::from(self.generator.devices) / 8;
        vec![
            (
                "rounds",
                (1..=100_000).contains(&self.rounds),
                "1 to 100000",
            ),
            ("warm_up", self.warm_up <= 10_000, "at most 10000"),
            (
                "payload_bytes",
                (96..=4096).contains(&self.payload_bytes),
                "96 to 4096",
            ),
            (
                "interval",
                self.interval
                    .is_none_or(|every| every >= Duration::from_millis(1)),
                "\"acked\" or at least 1ms",
            ),
            (
                "rounds",
                tally_bytes <= TALLY_BYTES_MAX,
                "fewer: the lists of who got what would take more than 1 GiB",
            ),
        ]
    }
}

fn built_in(name: &str) -> Result<&'static str> {
    match name {
        "idle" => Ok(IDLE),
        "fanout" => Ok(FANOUT),
        other => {
            bail!("there is no scenario {other:?}: take idle, fanout, or the path of a .toml file")
        }
    }
}

fn program(name: &str, table: &Table) -> Result<Program> {
    let value = Value::Table(table.clone());
    let program = match name {
        "idle" => value.try_into().map(Program::Idle),
        _ => value.try_into().map(Program::Fanout),
    };
    program.map_err(|error| anyhow!("a setting of {name} is odd: {}", error.to_string().trim()))
}

/// Puts a setting over the one that is there.
fn put(table: &mut Table, name: &str, key: &str, value: Value) -> Result<()> {
    let keys = || {
        let keys: Vec<&str> = table
            .keys()
            .map(String::as_str)
            .filter(|k| *k != SCENARIO)
            .collect();
        keys.join(", ")
    };
    let Some(old) = table.get(key) else {
        bail!("{name} has no setting {key:?}; it has {}", keys());
    };
    if key == SCENARIO && *old != value {
        bail!("the scenario is named once: run another one instead of setting it");
    }
    if old.type_str() != value.type_str() {
        let want = match old.type_str() {
            "integer" => "a whole number",
            "boolean" => "true or false",
            _ => "a text such as 5s",
        };
        bail!(
            "{key} of {name} has to be {want}, not of type {}",
            value.type_str()
        );
    }
    table.insert(key.to_owned(), value);
    Ok(())
}

/// What stands behind the `=` of a `--set`: a TOML value, or else the text itself.
fn value(text: &str) -> Value {
    let number = text.replace('_', "").parse().map(Value::Integer);
    let truth = text.parse().map(Value::Boolean);
    number
        .or(truth)
        .unwrap_or_else(|_| Value::String(text.trim_matches('"').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scenario: &str, pairs: &[&str]) -> Result<Settings, String> {
        let pairs: Vec<String> = pairs.iter().map(|&pair| pair.to_owned()).collect();
        Settings::new(scenario, &pairs).map_err(|error| format!("{error:#}"))
    }

    fn fails(scenario: &str, pair: &str, expect: &str) {
        let error = set(scenario, &[pair]).unwrap_err();
        assert!(error.contains(expect), "{pair}: {error}");
    }

    #[test]
    fn the_built_in_files_are_whole() {
        let Program::Idle(idle) = set("idle", &[]).unwrap().program else {
            panic!("not idle");
        };
        assert_eq!((idle.generator.devices, idle.steps), (10_000, 5));
        assert_eq!(idle.generator.keep_alive, None);
        let Program::Fanout(fanout) = set("fanout", &[]).unwrap().program else {
            panic!("not fanout");
        };
        assert_eq!((fanout.rounds, fanout.interval), (20, None));
        assert_eq!(fanout.generator.hold, Duration::from_secs(1));
    }

    #[test]
    fn settings_are_put_over_the_defaults() {
        let settings = set("fanout", &["devices=2_000", "interval=200ms", "hold=5s"]).unwrap();
        let Program::Fanout(fanout) = settings.program else {
            panic!("not fanout");
        };
        assert_eq!(fanout.generator.devices, 2000);
        assert_eq!(fanout.interval, Some(Duration::from_millis(200)));
        assert_eq!(fanout.generator.hold, Duration::from_secs(5));
        assert_eq!(settings.table["devices"], Value::Integer(2000));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        fails(
            "idle",
            "device=5",
            "it has aftermath, broadcast, concurrency, devices",
        );
        fails("idle", "devices", "key=value");
        fails("idle", "devices=many", "a whole number");
        fails("idle", "broadcast=1", "true or false");
        fails("idle", "hold=5", "a text such as 5s");
        fails("idle", "hold=5 s", "write 250ms, 5s, 2m or 1h");
        fails(
            "fanout",
            "interval=soon",
            "neither \"acked\" nor a duration",
        );
        fails("idle", "scenario=fanout", "named once");
        fails("storm", "devices=1", "take idle, fanout");
    }

    #[test]
    fn bounds_hold_at_the_limit_and_fail_one_past_it() {
        for (scenario, good, bad, key) in [
            ("idle", "devices=16777216", "devices=16777217", "devices"),
            ("idle", "steps=100", "steps=101", "steps"),
            ("idle", "steps=2", "steps=1", "steps"),
            ("idle", "sockets=16384", "sockets=16385", "sockets"),
            (
                "fanout",
                "payload_bytes=96",
                "payload_bytes=95",
                "payload_bytes",
            ),
            (
                "fanout",
                "payload_bytes=4096",
                "payload_bytes=4097",
                "payload_bytes",
            ),
            ("fanout", "interval=1ms", "interval=0ms", "interval"),
            ("fanout", "keep_alive=1s", "keep_alive=999ms", "keep_alive"),
            ("fanout", "hold=168h", "hold=169h", "hold"),
        ] {
            assert!(set(scenario, &[good]).is_ok(), "{good}");
            fails(scenario, bad, &format!("{key} has to be"));
        }
        // A bit for each device and message: 1 GiB of them at most.
        assert!(set("fanout", &["devices=16777216", "rounds=512"]).is_ok());
        let error = set("fanout", &["devices=16777216", "rounds=513"]).unwrap_err();
        assert!(error.contains("rounds has to be fewer"), "{error}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let error = set("fanout", &["rounds=0", "threads=0"]).unwrap_err();
        assert!(
            error.contains("rounds") && error.contains("threads"),
            "{error}"
        );
    }

    #[test]
    fn a_file_of_the_users_own_is_put_over_the_built_in_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let path = path.to_str().unwrap();
        std::fs::write(path, "scenario = \"idle\"\nsteps = 7\n").unwrap();
        let Program::Idle(idle) = set(path, &["devices=70"]).unwrap().program else {
            panic!("not idle");
        };
        assert_eq!((idle.steps, idle.generator.devices), (7, 70));
        std::fs::write(path, "steps = 7\n").unwrap();
        fails(path, "devices=70", "does not say what it is");
    }
}
