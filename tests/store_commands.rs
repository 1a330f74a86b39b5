//! `petrel store`, as an operator uses it: the guide's commands line by line, a backup under load, and bad input.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Api, Broker, RawDevice, eventually, id, label, within};
use petrel_protocol::MessageId;
use serde_json::{Value, json};
use tokio::sync::Mutex;

const GUIDE: &str = include_str!("../docs/guides/backup.md");

fn petrel(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_petrel"))
        .arg("store")
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .output()
        .unwrap()
}

/// Runs it on a thread that may block, while the test's devices and publishers go on.
async fn petrel_meanwhile(data_dir: &Path, arguments: &[&str]) -> Output {
    let data_dir = data_dir.to_owned();
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    let run = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        petrel(&data_dir, &arguments)
    });
    run.await.unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&succeeded(output)).unwrap()
}

/// It fails with this code, and says all of this.
fn failed(output: &Output, code: i32, expect: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    for text in expect {
        assert!(stderr.contains(text), "no {text:?} in: {stderr}");
    }
}

/// Commands of the guide's code blocks, comments cut off.
fn guide_commands() -> Vec<String> {
    GUIDE
        .split("```sh\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .map(|line| line.split("  #").next().unwrap().trim().to_owned())
        .collect()
}

fn shell(line: &str, directory: &Path) -> Command {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_petrel"));
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(line)
        .current_dir(directory)
        .env(
            "PATH",
            format!("{}:{path}", binary.parent().unwrap().display()),
        )
        .stdin(Stdio::null());
    command
}

struct Running(Child);

impl Running {
    fn serve(directory: &Path) -> Self {
        let mut serve = shell("exec petrel serve", directory);
        for key in ["QUIC", "HTTP", "HTTPS", "ADMIN"] {
            serve.env(format!("PETREL_{key}__LISTEN"), "127.0.0.1:0");
        }
        let mut child = serve.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.contains("\"ready\":true"), "{line}");
        Self(child)
    }

    /// The guide says to stop it; the next command needs it gone.
    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the broker does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_guide_works_line_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = Running::serve(directory.path());
    let commands = guide_commands();
    assert!(commands.len() > 10, "{commands:?}");
    for line in commands {
        if line == "petrel serve" {
            broker = Running::serve(directory.path());
            continue;
        }
        let done = shell(&line, directory.path()).output().unwrap();
        assert!(done.status.success(), "{line}: {done:?}");
        if line.starts_with("kill ") {
            broker.wait();
        }
    }
    // What was moved is served.
    let new_data = directory.path().join("new-data");
    assert!(json_of(&petrel(&new_data, &["check", "--json"]))["bad"] == 0);
    std::fs::rename(
        directory.path().join("petrel-data"),
        directory.path().join("away"),
    )
    .unwrap();
    std::fs::rename(&new_data, directory.path().join("petrel-data")).unwrap();
    drop(Running::serve(directory.path()));
}

/// Publishes without end; what was answered 200, in order.
async fn publish(
    api: Api,
    tokens: Arc<Vec<String>>,
    answered: Arc<Mutex<Vec<(usize, MessageId, String)>>>,
    worker: usize,
    stop: Arc<AtomicBool>,
) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let device = n % tokens.len();
        let text = format!("{worker}-{n}");
        let fields = json!({ "data": { "n": text } });
        let answer = api.publish_token(&tokens[device], fields).await;
        answered.lock().await.push((device, answer.id(), text));
        n += 1;
    }
}

#[tokio::test]
async fn a_backup_made_under_load_restores_everything_answered_before_it() {
    const DEVICES: usize = 8;
    let mut broker = Broker::with_config("[queue]\nmessages_max = 100000\nbytes_max = \"64MiB\"\n");
    let mut devices = Vec::new();
    for _ in 0..DEVICES {
        devices.push(RawDevice::register(&broker).await);
    }
    let tokens: Arc<Vec<String>> = Arc::new(devices.iter().map(|d| d.token.clone()).collect());
    let hellos: Vec<_> = devices.iter().map(RawDevice::hello).collect();
    for device in devices {
        device.goodbye().await;
    }
    let answered = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (tokens, answered, stop) = (tokens.clone(), answered.clone(), stop.clone());
            tokio::spawn(publish(Api::new(&broker), tokens, answered, worker, stop))
        })
        .collect();
    eventually("some messages in the store", async || {
        answered.lock().await.len() >= 300
    })
    .await;

    let stats = petrel_meanwhile(&broker.ready.data_dir, &["stats", "--json"]).await;
    let stats = json_of(&stats);
    assert!(
        stats["running"] == true && stats["queued_messages"].as_u64().unwrap() > 0,
        "{stats}"
    );

    let before = answered.lock().await.clone();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("copy");
    let arguments = ["backup", target.to_str().unwrap(), "--json"];
    let done = petrel_meanwhile(&broker.ready.data_dir, &arguments).await;
    assert_eq!(json_of(&done)["state"], "done");
    // It goes on after the backup.
    let so_far = answered.lock().await.len();
    eventually("publishes after the backup", async || {
        answered.lock().await.len() > so_far + 20
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        within("the end of a publisher", worker).await.unwrap();
    }
    let all_ids: HashSet<MessageId> = answered.lock().await.iter().map(|(_, id, _)| *id).collect();
    assert!(answered.lock().await.len() > before.len());

    // As the guide says.
    broker.kill();
    let data_dir = broker.ready.data_dir.clone();
    std::fs::rename(&data_dir, elsewhere.path().join("before")).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&target)
        .arg(&data_dir)
        .status();
    assert!(copied.unwrap().success());
    broker.restart();

    let api = Api::new(&broker);
    for (n, hello) in hellos.into_iter().enumerate() {
        let last = api
            .publish_token(&tokens[n], json!({ "data": { "n": "last" } }))
            .await;
        assert!(!all_ids.contains(&last.id()), "an id was used twice");
        let mut device = RawDevice::greet(&broker, hello).await;
        let mut got = HashSet::new();
        loop {
            let message = device.message().await;
            device.ack([id(&message)]).await;
            assert!(
                got.insert(label(&message).to_owned()),
                "twice: {}",
                label(&message)
            );
            if label(&message) == "last" {
                break;
            }
        }
        for (_, id, text) in before.iter().filter(|(device, _, _)| *device == n) {
            assert!(
                got.contains(text),
                "{text} ({id}) was answered before the backup began"
            );
        }
    }
    // A new registration gets none of the ordinals that may have been given out since.
    let device = RawDevice::register(&broker).await;
    assert!(!tokens.contains(&device.token));
}

#[tokio::test]
async fn a_running_broker_keeps_its_store_to_itself() {
    let broker = Broker::start();
    let data_dir = &broker.ready.data_dir;
    let export = data_dir.join("../x.ndjson");
    for arguments in [
        &["check"][..],
        &["compact"],
        &["export", export.to_str().unwrap()],
    ] {
        let refused = petrel_meanwhile(data_dir, arguments).await;
        failed(
            &refused,
            1,
            &[
                "in use by process",
                "stop that broker",
                "petrel store backup",
            ],
        );
    }
    assert!(!export.exists());
    // Whoever has no key starts no backup; whoever has it names a good place.
    let api = Api::new(&broker);
    assert_eq!(api.page("/store/stats").await.json()["running"], true);
    assert_eq!(api.page("/store/backup").await.json()["state"], "none");
    let inside = data_dir.join("copy");
    let refused = petrel_meanwhile(data_dir, &["backup", inside.to_str().unwrap()]).await;
    failed(&refused, 1, &["lies in the data directory"]);
    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("mine"), "mine").unwrap();
    let refused = petrel_meanwhile(data_dir, &["backup", full.path().to_str().unwrap()]).await;
    failed(&refused, 1, &["not empty", "does not exist yet"]);
    let admin_key = data_dir.join("keys/admin.key");
    std::fs::write(&admin_key, format!("petrel-admin-{}\n", "A".repeat(43))).unwrap();
    let target = full.path().join("copy");
    let refused = petrel_meanwhile(data_dir, &["backup", target.to_str().unwrap()]).await;
    failed(&refused, 1, &["send the admin key"]);
    assert!(!target.exists());
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = directory.path().join("nothing");
    for arguments in [
        &["check"][..],
        &["stats"],
        &["compact"],
        &["export", "-"],
        &["backup", "copy"],
    ] {
        failed(
            &petrel(&nothing, arguments),
            1,
            &["there is no store in", "--data-dir"],
        );
    }
    let missing = petrel(&nothing, &["import", "no-such-file"]);
    failed(&missing, 1, &["no-such-file", "petrel store export"]);
    assert!(!nothing.exists());
}

/// Messages that a check finds in queues.
fn queued(data_dir: &Path) -> u64 {
    let report = json_of(&petrel(data_dir, &["check", "--json"]));
    let kinds = report["kinds"].as_array().unwrap();
    let queue = kinds.iter().find(|kind| kind["kind"] == "queue").unwrap();
    queue["pairs"].as_u64().unwrap()
}

/// Files of the engine that were cut off or changed: no command ends as if nothing were. Where the engine opens them and
/// leaves out what it cannot read, the witness knows, and nothing is rewritten from what is left.
#[tokio::test]
async fn damaged_files_have_a_clear_outcome() {
    let mut broker = Broker::start();
    let device = RawDevice::register(&broker).await;
    let api = Api::new(&broker);
    let token = device.token.clone();
    device.goodbye().await;
    for n in 0..50 {
        let fields = json!({ "data": { "n": n.to_string() } });
        api.publish_token(&token, fields).await.id();
    }
    assert!(broker.terminate().await.success());
    let data_dir = broker.ready.data_dir.clone();
    assert!(json_of(&petrel(&data_dir, &["check", "--json"]))["bad"] == 0);
    let file = data_dir.join("db/db");
    assert_eq!(queued(&data_dir), 50);
    let good = std::fs::read(&file).unwrap();
    // Behind this, sled has prepared room and written nothing.
    let written = good.iter().rposition(|b| *b != 0).unwrap();
    let mut damages = vec![good[..written / 2].to_vec(), b"not sled".to_vec()];
    for part in 1..6 {
        let mut flipped = good.clone();
        flipped[written * part / 6] ^= 0x10;
        damages.push(flipped);
    }
    for damaged in damages {
        for arguments in [&["check"][..], &["stats"], &["compact"], &["export", "-"]] {
            // The engine may change its files by opening them.
            std::fs::write(&file, &damaged).unwrap();
            let output = petrel(&data_dir, arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            let is_lost = stderr.contains("has lost what was durable");
            if !is_lost && output.status.success() {
                // The engine had no more use for the place.
                assert_eq!(queued(&data_dir), 50, "lost silently");
                continue;
            }
            if !is_lost {
                failed(&output, 1, &["damaged", "backup", "petrel store import"]);
            }
            let may_go_on = is_lost && matches!(arguments[0], "stats" | "export");
            assert_eq!(output.status.success(), may_go_on, "{arguments:?} {stderr}");
        }
    }
}
