//! Damaged, foreign and unusable stores under the real binary: each has a clear outcome, none is deleted, and a start
//! without `--accept-loss` never begins with less than was answered 200.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use petrel::store::{Durability, OrderedMap as _, SledMap};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::json;

use common::{Api, Broker, RawDevice};

/// As the command line documents it.
const DAMAGED: i32 = 65;

const DEVICES: usize = 8;
const MESSAGES: usize = 40;

/// A data directory with a store of known content.
struct Filled {
    broker: Broker,
    tokens: Vec<String>,
    next: std::cell::Cell<u32>,
}

impl Filled {
    /// Devices that are away with messages for each, all answered 200, after `kill -9`; opened once in between, so that
    /// every kind of file is there.
    async fn new() -> Self {
        let mut broker = Broker::start();
        let mut tokens = Vec::new();
        for _ in 0..DEVICES {
            tokens.push(RawDevice::register(&broker).await.token);
        }
        for half in 0..2 {
            let api = Api::new(&broker);
            for number in 0..MESSAGES / 2 {
                for token in &tokens {
                    let data = json!({ "n": (half * MESSAGES + number).to_string(), "fill": "x".repeat(500) });
                    let answer = api.publish_token(token, json!({ "data": data })).await;
                    assert_eq!(answer.status, 200, "{}", answer.text);
                }
            }
            if half == 0 {
                broker.restart();
            }
        }
        broker.kill();
        Self {
            broker,
            tokens,
            next: std::cell::Cell::new(0),
        }
    }

    /// A copy of the data directory, to be damaged.
    fn copy(&self) -> PathBuf {
        let number = self.next.get();
        self.next.set(number + 1);
        let from = &self.broker.ready.data_dir;
        let to = from.with_file_name(format!("copy-{number}"));
        let copied = Command::new("cp").arg("-a").arg(from).arg(&to).status();
        assert!(copied.unwrap().success());
        to
    }
}

/// How a start went.
struct Start {
    child: Child,
    /// The first line of its output: empty if it ended before it was ready.
    ready: String,
    /// `None` while it runs.
    code: Option<i32>,
    /// What it logged until it was ready or ended.
    log: String,
}

impl Drop for Start {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Start {
    /// Starts on a data directory; waits until the broker is ready or has ended. A hang ends the test by its time.
    fn on(data_dir: &Path, flags: &[&str]) -> Self {
        let log = data_dir.with_extension("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_petrel"))
            .args(["serve", "--data-dir"])
            .arg(data_dir)
            .args(["--quic", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let code = if ready.is_empty() {
            let status = child.wait().unwrap();
            Some(status.code().unwrap_or(-1))
        } else {
            // Read on, so that the broker never meets a closed pipe.
            std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
            None
        };
        let log = std::fs::read_to_string(&log).unwrap();
        Self {
            child,
            ready,
            code,
            log,
        }
    }

    /// A number of the line that tells what was found in the store.
    fn found(&self, field: &str) -> usize {
        let line = self.log.lines().find(|l| l.contains("the store is open"));
        let line = line.unwrap_or_else(|| panic!("not opened: {}", self.log));
        let (_, rest) = line.split_once(&format!("{field}=")).unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// It runs with everything, or counts what is unreadable; or it refused with the one message.
    fn check(&self, data_dir: &Path, what: &str) {
        match self.code {
            None => {
                let (devices, messages) = (self.found("registrations"), self.found("queued"));
                let unreadable = self.found("unreadable");
                let is_whole = devices == DEVICES && messages == DEVICES * MESSAGES;
                assert!(
                    is_whole || unreadable > 0,
                    "{what}: lost silently: {}",
                    self.log
                );
            }
            Some(DAMAGED) => {
                for text in [
                    data_dir.join("db").to_str().unwrap(),
                    "petrel store import FILE",
                    "--accept-loss",
                ] {
                    assert!(self.log.contains(text), "{what}: no {text:?}: {}", self.log);
                }
            }
            code => panic!("{what}: {code:?}: {}", self.log),
        }
    }
}

/// What was set aside in a data directory.
fn copies(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains("db.damaged-"))
        .collect()
}

/// Publishes to a token; the HTTP status.
fn publish(start: &Start, token: &str) -> String {
    let ready: serde_json::Value = serde_json::from_str(&start.ready).unwrap();
    let text = |key: &str| ready[key].as_str().unwrap().to_owned();
    let body = json!({ "message": { "token": token, "data": { "n": "1" } } }).to_string();
    let address = text("http").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "POST /v1/projects/{}/messages:send HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        text("project"),
        text("api_key"),
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Each start without the flag fails alike; the first with it begins without what is lost, the next need no flag.
fn give_up(filled: &Filled, data_dir: &Path, what: &str) {
    let mut is_set_aside = false;
    for _ in 0..2 {
        let refused = Start::on(data_dir, &[]);
        assert_eq!(refused.code, Some(DAMAGED), "{what}: {}", refused.log);
        refused.check(data_dir, what);
        assert!(copies(data_dir).is_empty());
        is_set_aside = refused.log.contains("is damaged");
    }
    let accepted = Start::on(data_dir, &["--accept-loss"]);
    assert_eq!(accepted.code, None, "{what}: {}", accepted.log);
    assert!(accepted.log.contains("WARN"), "{what}: {}", accepted.log);
    let copies = copies(data_dir);
    assert_eq!(copies.len(), usize::from(is_set_aside), "{what}");
    for copy in &copies {
        assert!(accepted.log.contains(copy.to_str().unwrap()), "{what}");
        assert!(std::fs::read_dir(copy).unwrap().count() > 0, "{what}");
    }
    if accepted.found("registrations") == 0 {
        // Tokens of lost devices name nobody, however many register from now on.
        for token in &filled.tokens {
            let answer = publish(&accepted, token);
            assert!(answer.contains("UNREGISTERED"), "{what}: {answer}");
        }
    }
    drop(accepted);
    let again = Start::on(data_dir, &[]);
    assert_eq!(again.code, None, "{what}: {}", again.log);
}

#[tokio::test]
async fn a_truncated_database_is_refused_or_whole() {
    let filled = Filled::new().await;
    let main = |copy: &Path| copy.join("db/db");
    let bytes = std::fs::metadata(main(&filled.copy())).unwrap().len();
    for keep in [0, 100, bytes / 4, bytes / 2, bytes - 5000, bytes - 1] {
        let copy = filled.copy();
        let file = OpenOptions::new().write(true).open(main(&copy)).unwrap();
        file.set_len(keep).unwrap();
        let what = format!("{keep} of {bytes} bytes");
        Start::on(&copy, &[]).check(&copy, &what);
    }
}

#[tokio::test]
async fn a_database_that_is_gone_is_refused_until_its_loss_is_accepted() {
    let filled = Filled::new().await;
    let copy = filled.copy();
    std::fs::write(copy.join("db/db"), b"").unwrap();
    give_up(&filled, &copy, "emptied");
    // A volume that is not mounted looks like this.
    let copy = filled.copy();
    std::fs::remove_dir_all(copy.join("db")).unwrap();
    give_up(&filled, &copy, "not mounted");
}

/// Then nobody knows which ordinals were given out: other keys seal, and no old token names anybody.
#[tokio::test]
async fn without_a_witness_all_old_tokens_are_refused() {
    let filled = Filled::new().await;
    let copy = filled.copy();
    std::fs::remove_file(copy.join("db.mark")).unwrap();
    std::fs::write(copy.join("db/db"), b"").unwrap();
    let refused = Start::on(&copy, &[]);
    assert_eq!(refused.code, Some(DAMAGED), "{}", refused.log);
    let accepted = Start::on(&copy, &["--accept-loss"]);
    assert_eq!(accepted.code, None, "{}", accepted.log);
    assert!(accepted.log.contains("no witness"), "{}", accepted.log);
    for token in &filled.tokens {
        let answer = publish(&accepted, token);
        assert!(answer.contains("INVALID_ARGUMENT"), "{answer}");
    }
}

#[tokio::test]
async fn flipped_bits_never_lose_anything_silently() {
    let filled = Filled::new().await;
    let seed: [u8; 32] = match std::env::var("DAMAGE_SEED") {
        Ok(text) => std::array::from_fn(|at| *text.as_bytes().get(at).unwrap_or(&0)),
        Err(_) => *b"flipped bits, the same each time",
    };
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let whole = filled.copy();
    let start = Start::on(&whole, &[]);
    assert_eq!(start.code, None, "nothing is flipped yet: {}", start.log);
    start.check(&whole, "nothing is flipped yet");
    let mut outcomes = [0, 0, 0];
    let mut is_given_up = false;
    for round in 0..24 {
        let copy = filled.copy();
        let files: Vec<PathBuf> = std::fs::read_dir(copy.join("db"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        // The main file most of the time: it is nearly all there is.
        let path = match round % 4 {
            0 => files[random.next_u32() as usize % files.len()].clone(),
            _ => copy.join("db/db"),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let bytes = file.metadata().unwrap().len();
        if bytes == 0 {
            continue;
        }
        let at = random.next_u64() % bytes;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 1 << (random.next_u32() % 8);
        file.write_all_at(&byte, at).unwrap();
        let what = format!("round {round}: byte {at} of {}", path.display());
        let start = Start::on(&copy, &[]);
        start.check(&copy, &what);
        let has_lost = start.log.contains("has lost what was durable");
        outcomes[usize::from(start.code.is_some()) + usize::from(has_lost)] += 1;
        if start.code.is_some() && !is_given_up {
            drop(start);
            give_up(&filled, &copy, &what);
            is_given_up = true;
        }
    }
    eprintln!(
        "flipped bits: {} harmless, {} noticed by the engine, {} only by the witness",
        outcomes[0], outcomes[1], outcomes[2]
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_stays_also_when_a_loss_is_accepted() {
    let filled = Filled::new().await;
    let copy = filled.copy();
    let newer = 1000_u64.to_be_bytes();
    let sealed = [&crc32fast::hash(&newer).to_le_bytes()[..], &newer].concat();
    let mut map = SledMap::open(&copy.join("db"), 1 << 20).unwrap();
    map.write(&[(b"Mschema".to_vec(), Some(sealed.clone()))])
        .unwrap();
    map.sync(Durability::Durable).unwrap();
    drop(map);
    for flags in [&[][..], &["--accept-loss"]] {
        let start = Start::on(&copy, flags);
        assert_eq!(start.code, Some(1), "{}", start.log);
        assert!(start.log.contains("schema version 1000"), "{}", start.log);
        assert!(start.log.contains("use the newer Petrel"), "{}", start.log);
        assert!(copies(&copy).is_empty());
    }
    let map = SledMap::open(&copy.join("db"), 1 << 20).unwrap();
    assert_eq!(map.get(b"Mschema").unwrap(), Some(sealed));
}

/// The data directory's own lock is tested in `starting.rs`; this one is the engine's.
#[tokio::test]
async fn a_database_that_another_process_holds_is_not_damaged() {
    let filled = Filled::new().await;
    let copy = filled.copy();
    let holder = File::open(copy.join("db/db")).unwrap();
    holder.lock().unwrap();
    for flags in [&[][..], &["--accept-loss"]] {
        let start = Start::on(&copy, flags);
        assert_eq!(start.code, Some(1), "{}", start.log);
        assert!(
            start.log.contains("could not acquire lock"),
            "{}",
            start.log
        );
        assert!(copies(&copy).is_empty());
    }
    drop(holder);
    let start = Start::on(&copy, &[]);
    assert_eq!(start.code, None, "{}", start.log);
    start.check(&copy, "after the other process");
}

#[tokio::test]
async fn a_database_without_permission_is_not_damaged() {
    let filled = Filled::new().await;
    let copy = filled.copy();
    let file = copy.join("db/db");
    let permit = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    permit(0);
    if File::open(&file).is_ok() {
        eprintln!(
            "skipped: this user (root?) may read everything, so that no permission can be missing"
        );
        return;
    }
    for flags in [&[][..], &["--accept-loss"]] {
        let start = Start::on(&copy, flags);
        assert_eq!(start.code, Some(1), "{}", start.log);
        assert!(
            start.log.contains("check disk space and permissions"),
            "{}",
            start.log
        );
        assert!(copies(&copy).is_empty());
    }
    permit(0o600);
    let start = Start::on(&copy, &[]);
    start.check(&copy, "with permission");
}

/// Publishers are refused before the disk is full; devices go on, and with room again so do publishers.
#[tokio::test]
async fn on_a_disk_that_is_nearly_full_publishers_wait_and_devices_go_on() {
    let mut broker = Broker::start();
    let device = RawDevice::register(&broker).await;
    let hello = device.hello();
    device.wire.hang_up().await;
    let api = Api::new(&broker);
    let message = |n: u32| json!({ "data": { "n": n.to_string() } });
    for n in 0..3 {
        api.publish_token(&hello.token, message(n)).await.id();
    }
    // More than any disk of a test has.
    broker.reconfigure("[store]\ndisk_reserve = \"1024GiB\"\n");
    let api = Api::new(&broker);
    // Looked at twice a second.
    common::eventually("a refusal", async || {
        let answer = api.publish_token(&hello.token, message(3)).await;
        answer.status == 503 && answer.reason() == "DISK_FULL"
    })
    .await;
    assert_eq!(
        api.publish_topic("news", message(4)).await.reason(),
        "DISK_FULL"
    );
    let mut device = RawDevice::greet(&broker, hello.clone()).await;
    assert_eq!(device.take(3).await, ["0", "1", "2"]);
    assert_eq!(device.subscribe("news").await, Ok(()));
    // What goes now or never takes no room.
    let now = json!({ "data": { "n": "5" }, "petrel": { "ttl": "0s" } });
    api.publish_token(&hello.token, now).await.id();
    device.wire.hang_up().await;

    broker.reconfigure("");
    let api = Api::new(&broker);
    api.publish_token(&hello.token, message(6)).await.id();
    let mut device = RawDevice::greet(&broker, hello).await;
    // Before it comes what was accepted before the first refusal, and what was acked with the last word.
    while device.take(1).await != ["6"] {}
}

/// A project has bounds of its own: refuse where the others evict.
#[tokio::test]
async fn a_project_with_a_policy_of_its_own_is_served_by_it() {
    let key = "test-api-key-not-secret";
    let app = "test-app-key-not-secret";
    let broker = Broker::with_config(&format!(
        "[queue]\nmessages_max = 1\n[projects.strict]\napi_keys = [\"{key}\"]\napp_keys = [\"{app}\"]\n\
         queue_messages_max = 2\nqueue_policy = \"refuse\"\n"
    ));
    let register = petrel_protocol::wire::Register {
        project: "strict".into(),
        app_key: app.into(),
        ..RawDevice::registration(&broker)
    };
    let device = RawDevice::register_as(&broker, register).await;
    let token = device.token.clone();
    device.wire.hang_up().await;
    let api = Api::with_keys(&broker, "strict", key);
    let message = |n: u32| json!({ "data": { "n": n.to_string() } });
    for n in 0..2 {
        api.publish_token(&token, message(n)).await.id();
    }
    let refused = api.publish_token(&token, message(2)).await;
    assert_eq!(
        (refused.status, refused.reason().as_str()),
        (429, "QUEUE_FULL")
    );
}
