//! The real `petrel-load` against the real broker, small.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fewer sockets than a real run: each takes memory of its own.
const SMALL: [&str; 2] = ["--set", "sockets=5"];

fn load() -> Command {
    Command::new(env!("CARGO_BIN_EXE_petrel-load"))
}

/// The broker's binary, which is built into the same directory.
fn broker() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_petrel-load")).with_file_name("petrel");
    assert!(
        path.is_file(),
        "{} is missing: build the whole workspace first",
        path.display()
    );
    path
}

fn text_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs to the end; the JSON document that it writes.
fn run(arguments: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("result.json");
    let output = load()
        .arg("run")
        .args(arguments)
        .args(SMALL)
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap()
}

fn number(json: &Value, key: &str) -> f64 {
    json[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is {}", json[key]))
}

#[track_caller]
fn within(json: &Value, key: &str, from: f64, to: f64) {
    let value = number(json, key);
    assert!((from..=to).contains(&value), "{key} is {value}");
}

#[test]
fn fanout_reaches_every_device_exactly_once() {
    broker();
    let json = run(&[
        "fanout",
        "--set",
        "devices=200",
        "--set",
        "rounds=3",
        "--set",
        "hold=200ms",
    ]);
    assert_eq!(
        (&json["scenario"], &json["ok"]),
        (&"fanout".into(), &true.into())
    );
    for (key, value) in [
        ("lost", 0),
        ("doubled", 0),
        ("foreign", 0),
        ("cut_off", 0),
        ("connected_peak", 200),
        ("deliveries", 600),
        ("published", 6),
    ] {
        assert_eq!(json[key], value, "{key}");
    }
    // Those of the warm-up are left out.
    assert_eq!(json["publish_to_app_ms"]["count"], 600);
    let times = &json["publish_to_app_ms"];
    assert!(number(times, "p50") > 0.0 && number(times, "p50") <= number(times, "p99"));
    within(&json, "server_cpu_us_per_delivery", 1.0, 10_000.0);
    within(&json, "generator_cpu_us_per_delivery", 1.0, 10_000.0);
    within(&json, "acked_deliveries_per_s", 1.0, 1e7);
    // At least the message and its ack, and their acknowledgements at most.
    within(&json, "packets_per_delivery", 2.0, 6.0);
    within(&json, "server_cpu_us_per_handshake", 10.0, 100_000.0);
    assert!(
        json["command"]
            .as_str()
            .unwrap()
            .starts_with("petrel-load run fanout")
    );
}

#[test]
fn fanout_at_a_fixed_rate_tells_how_well_it_kept_it() {
    broker();
    let json = run(&[
        "fanout",
        "--set",
        "devices=50",
        "--set",
        "rounds=5",
        "--set",
        "warm_up=0",
        "--set",
        "interval=40ms",
        "--set",
        "hold=0s",
    ]);
    assert_eq!((&json["lost"], &json["doubled"]), (&0.into(), &0.into()));
    within(&json, "broadcasts_per_s_intended", 24.999, 25.001);
    // Five in at least four intervals.
    within(&json, "broadcasts_per_s", 0.1, 31.3);
    within(&json, "publish_late_ms_max", 0.0, 30_000.0);
}

#[test]
fn idle_measures_memory_and_handshakes() {
    broker();
    let json = run(&[
        "idle",
        "--set",
        "devices=300",
        "--set",
        "steps=3",
        "--set",
        "settle=200ms",
        "--set",
        "hold=1s",
        "--set",
        "resumed=60",
        "--set",
        "broadcast=true",
        "--set",
        "aftermath=100ms",
        "--set",
        "keep_alive=1s",
    ]);
    assert_eq!(json["ok"], true);
    assert_eq!(
        (&json["connected_peak"], &json["registered_new"]),
        (&300.into(), &300.into())
    );
    assert_eq!(
        (&json["lost"], &json["doubled"], &json["deliveries"]),
        (&0.into(), &0.into(), &300.into())
    );
    assert_eq!(
        (
            &json["connect_ms"]["count"],
            &json["resumed_connect_ms"]["count"]
        ),
        (&300.into(), &60.into())
    );
    within(
        &json,
        "server_cpu_us_per_resumed_handshake",
        10.0,
        100_000.0,
    );
    // With so few devices the slope is rough; that it is one of bytes and not of something else shows even so.
    within(&json, "server_bytes_per_device", 50.0, 200_000.0);
    within(&json, "server_pss_bytes", 1e6, 1e9);
    let memory = json["memory"].as_array().unwrap();
    let steps: Vec<&Value> = memory
        .iter()
        .filter(|point| point["stage"] == "step")
        .collect();
    let connected: Vec<&Value> = steps.iter().map(|point| &point["connected"]).collect();
    assert_eq!(connected, [&Value::from(100), &200.into(), &300.into()]);
    assert!(json["server_growth_bytes"].is_i64());
    assert!(
        json["server_bytes_per_device_by_owner"]["sessions"]
            .as_f64()
            .unwrap()
            > 0.0
    );
}

#[test]
fn a_later_run_brings_the_same_devices_back() {
    broker();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let run = |devices: &str| {
        run(&[
            "fanout",
            "--set",
            devices,
            "--set",
            "rounds=1",
            "--set",
            "hold=0s",
            "--home",
            home.to_str().unwrap(),
        ])
    };
    assert_eq!(run("devices=60")["registered_new"], 60);
    assert_eq!(run("devices=60")["registered_new"], 0);
    let more = run("devices=100");
    assert_eq!(
        (&more["registered_new"], &more["lost"], &more["deliveries"]),
        (&40.into(), &0.into(), &100.into())
    );
}

#[test]
fn devices_are_kept_alive_and_one_that_is_cut_off_is_told() {
    broker();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("petrel.toml");
    let text = "[quic]\nidle_timeout = \"5s\"\nkeep_alive = \"2s\"\n[session]\nhello_timeout = \"2s\"\nunresponsive_after = \"2s\"\n";
    std::fs::write(&config, text).unwrap();
    let run = |keep_alive: &str, json: &str| {
        let mut command = load();
        command.args([
            "run",
            "idle",
            "--set",
            "devices=20",
            "--set",
            "steps=2",
            "--set",
            "settle=0s",
            "--set",
            "resumed=0",
        ]);
        command
            .args(["--set", "hold=8s", "--set", keep_alive, "--broker-config"])
            .arg(&config)
            .args(SMALL);
        let json = dir.path().join(json);
        let output = command.arg("--json").arg(&json).output().unwrap();
        let document = std::fs::read(&json).unwrap_or_else(|_| panic!("{}", text_of(&output)));
        (
            output.status.success(),
            serde_json::from_slice::<Value>(&document).unwrap(),
        )
    };
    let (kept, cut) = std::thread::scope(|scope| {
        let cut = scope.spawn(|| run("keep_alive=1h", "cut.json"));
        (run("keep_alive=broker", "kept.json"), cut.join().unwrap())
    });
    assert_eq!(
        (kept.0, &kept.1["cut_off"]),
        (true, &0.into()),
        "{}",
        kept.1
    );
    assert_eq!(
        (cut.0, &cut.1["cut_off"], &cut.1["ok"]),
        (false, &20.into(), &false.into())
    );
    assert!(
        cut.1["problems"][0]
            .as_str()
            .unwrap()
            .contains("20 sessions were cut off: a session was cut off: timed out")
    );
}

/// A broker that nobody here but the test started.
struct Foreign {
    child: Child,
    dir: tempfile::TempDir,
}

impl Foreign {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(broker());
        command.arg("serve").arg("--data-dir").arg(dir.path());
        for flag in ["--quic", "--http", "--https", "--admin"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.contains("\"ready\":true"), "{line}");
        Self { child, dir }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_running_broker_is_used_and_left_running() {
    let mut foreign = Foreign::start();
    let file = foreign.dir.path().join("registrations");
    let data_dir = foreign.dir.path().to_str().unwrap().to_owned();
    let arguments = [
        "idle",
        "--set",
        "devices=40",
        "--set",
        "steps=2",
        "--set",
        "settle=100ms",
        "--set",
        "resumed=0",
        "--data-dir",
        &data_dir,
        "--registrations",
        file.to_str().unwrap(),
    ];
    let json = run(&arguments);
    assert_eq!(
        (&json["ok"], &json["registered_new"]),
        (&true.into(), &40.into())
    );
    assert!(
        json["warnings"][0]
            .as_str()
            .unwrap()
            .contains("not restarted"),
        "{}",
        json["warnings"]
    );
    assert_eq!(foreign.child.try_wait().unwrap(), None);
    assert_eq!(run(&arguments)["registered_new"], 0);

    // The file is of no use with another broker, and says so.
    let other = Foreign::start();
    let data_dir = other.dir.path().to_str().unwrap();
    let file = file.to_str().unwrap();
    let output = load()
        .args([
            "run",
            "idle",
            "--data-dir",
            data_dir,
            "--registrations",
            file,
        ])
        .output()
        .unwrap();
    assert!(
        !output.status.success() && text_of(&output).contains("another broker"),
        "{}",
        text_of(&output)
    );
}

#[test]
fn what_cannot_be_run_says_why() {
    for (arguments, expect) in [
        ("idle --set devces=5", "it has aftermath"),
        ("idle --data-dir /nonexistent", "petrel serve --data-dir"),
        ("idle --petrel /nonexistent/petrel", "cargo build --release"),
        (
            "idle --broker 192.0.2.1:7443 --ca /dev/null --project p --app-key a --http http://127.0.0.1:1 --api-key k",
            "loopback only",
        ),
    ] {
        let output = load()
            .arg("run")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(
            text_of(&output).contains(expect),
            "{arguments}: {}",
            text_of(&output)
        );
    }
}

#[test]
fn an_interrupted_run_takes_its_broker_with_it() {
    broker();
    let mut child = load()
        .args([
            "run",
            "idle",
            "--set",
            "devices=20",
            "--set",
            "settle=0s",
            "--set",
            "hold=1h",
            "--set",
            "steps=2",
        ])
        .args(SMALL)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut address = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, started)) = line.split_once("broker started on ") {
            address = Some(started.trim().to_owned());
        }
        if line.contains("20 devices online") {
            break;
        }
    }
    let address = address.unwrap();
    assert!(UdpSocket::bind(&address).is_err(), "nobody is at {address}");
    let killed = Command::new("/bin/sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status()
        .unwrap();
    assert!(killed.success());
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        UdpSocket::bind(&address).is_ok(),
        "somebody is still at {address}"
    );
}
