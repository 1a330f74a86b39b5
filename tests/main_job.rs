//! The main job, end to end, as a user sees it: `serve`, `listen`, `send`, and devices with the SDK.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Answer, Api, Broker, eventually, within};
use petrel_client::{Client, Event, Events, MemoryStorage, Socket};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// `petrel listen --json` on a broker's data directory.
struct Listener {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    fn start(broker: &Broker, arguments: &[&str]) -> Self {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_petrel"))
            .args(["listen", "--json", "--data-dir"])
            .arg(&broker.ready.data_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line of a kind; lines before it of other kinds are passed over.
    async fn next(&mut self, event: &str) -> Value {
        within(event, async {
            loop {
                let line = self.lines.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("listen ended before {event}"));
                let line: Value = serde_json::from_str(&line).unwrap();
                if line["event"] == event {
                    return line;
                }
            }
        })
        .await
    }

    async fn token(&mut self) -> String {
        let line = self.next("registered").await;
        line["token"].as_str().unwrap().to_owned()
    }

    /// SIGTERM: it says goodbye and ends well.
    async fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        within("the end of listen", self.child.wait())
            .await
            .unwrap()
    }
}

fn safe(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.text);
}

fn numbered(n: usize) -> Value {
    json!({ "data": { "n": n.to_string() } })
}

fn number(line: &Value) -> usize {
    line["data"]["n"].as_str().unwrap().parse().unwrap()
}

fn millis_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn two_hundred_publishes_arrive_once_and_in_order() {
    let broker = Broker::start();
    let api = Api::new(&broker);
    let mut listener = Listener::start(&broker, &["--count", "200"]);
    let token = listener.token().await;
    let mut latencies = Vec::new();
    for n in 0..200 {
        let sent_at = millis_now();
        if n % 20 == 0 {
            let sent = Command::new(env!("CARGO_BIN_EXE_petrel"))
                .args([
                    "send",
                    "--token",
                    &token,
                    "--data",
                    &format!("n={n}"),
                    "--data-dir",
                ])
                .arg(&broker.ready.data_dir)
                .output()
                .unwrap();
            assert!(sent.status.success(), "{sent:?}");
            let name = String::from_utf8(sent.stdout).unwrap();
            assert!(name.starts_with("projects/demo/messages/"), "{name}");
        } else {
            safe(&api.publish_token(&token, numbered(n)).await);
        }
        let line = listener.next("message").await;
        assert_eq!(number(&line), n);
        assert_eq!(line["redelivered"], false);
        latencies.push(
            line["received_at_ms"]
                .as_u64()
                .unwrap()
                .saturating_sub(sent_at),
        );
    }
    latencies.sort_unstable();
    // Recorded by `petrel demo`; here only what no busy machine excuses.
    assert!(latencies[100] < 100, "median {} ms", latencies[100]);
    let ended = within("the end after --count", listener.child.wait()).await;
    assert!(ended.unwrap().success());
    assert_books_balance(&api).await;
}

/// 50 messages while nobody listens, 10 of them with one collapse key and 5 with a second to live: 36 should come.
async fn what_waited_comes_back(is_killed: bool) {
    let mut broker = Broker::start();
    let api = Api::new(&broker);
    let mut listener = Listener::start(&broker, &[]);
    let token = listener.token().await;
    assert!(listener.stop().await.success());
    let mut expected = Vec::new();
    for n in 0..50 {
        let mut message = numbered(n);
        match n {
            10..20 => message["petrel"] = json!({ "collapse_key": "score" }),
            20..25 => message["petrel"] = json!({ "ttl": "1s" }),
            _ => {}
        }
        if !(10..19).contains(&n) && !(20..25).contains(&n) {
            expected.push(n);
        }
        safe(&api.publish_token(&token, message).await);
    }
    assert_eq!(expected.len(), 36);
    // The deadlines of five messages have to pass: time itself is what is waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    if is_killed {
        broker.kill();
        broker.restart();
    }
    let mut listener = Listener::start(&broker, &["--count", "36"]);
    assert_eq!(listener.token().await, token, "the same registration");
    let mut came = Vec::new();
    for _ in 0..36 {
        came.push(number(&listener.next("message").await));
    }
    assert_eq!(came, expected);
    let ended = within("the end after --count", listener.child.wait()).await;
    assert!(ended.unwrap().success());
    assert_books_balance(&Api::new(&broker)).await;
}

#[tokio::test]
async fn what_waited_comes_back_in_order() {
    what_waited_comes_back(false).await;
}

#[tokio::test]
async fn what_waited_comes_back_in_order_after_kill_9() {
    what_waited_comes_back(true).await;
}

/// Everything accepted is settled or owed, as `/metrics` tells it.
async fn assert_books_balance(api: &Api) {
    eventually("the books balance", async || {
        let owed_at_start = api.metric("petrel_delivery_owed_at_start", "").await;
        let accepted = api.metric("petrel_delivery_accepted_total", "").await;
        let settled = api.metric("petrel_delivery_settled_total", "").await;
        let owed = api.metric("petrel_delivery_owed", "").await;
        owed_at_start + accepted == settled + owed
    })
    .await;
}

/// A device of the SDK in this process.
struct Device {
    client: Client,
    events: Events,
}

impl Device {
    async fn start(broker: &Broker, socket: &Socket, storage: MemoryStorage) -> Self {
        let (client, events) = Client::builder(&broker.ready.quic.to_string())
            .ca_file(&broker.ready.ca)
            .project(&broker.ready.project)
            .app_key(&broker.ready.app_key)
            .storage(storage)
            .socket(socket)
            .connect()
            .await
            .unwrap();
        Self { client, events }
    }

    async fn message(&mut self) -> petrel_client::Message {
        within("a message", async {
            loop {
                match self.events.next().await {
                    Some(Event::Message(delivery)) => {
                        delivery.done();
                        return delivery.into_message();
                    }
                    Some(_) => {}
                    None => panic!("the device closed"),
                }
            }
        })
        .await
    }
}

/// A broadcast is written once, however many are offline, and everybody has it once in the end.
#[tokio::test]
async fn a_topic_of_a_thousand_costs_one_write_and_reaches_all() {
    const DEVICES: usize = 1000;
    const OFFLINE: usize = 300;
    let broker = Broker::start();
    let api = Api::new(&broker);
    let sockets: Vec<Socket> = (0..16).map(|_| Socket::bind().unwrap()).collect();
    let directory = tempfile::tempdir().unwrap();
    let mut offline = Vec::new();
    let mut online = Vec::new();
    for n in 0..DEVICES {
        let socket = &sockets[n % sockets.len()];
        if n < OFFLINE {
            let path = directory.path().join(format!("{n}.json"));
            let device = start_with_file(&broker, socket, &path).await;
            device.client.subscribe("all").await.unwrap();
            device.client.close().await;
            offline.push(path);
        } else {
            let device = Device::start(&broker, socket, MemoryStorage::default()).await;
            device.client.subscribe("all").await.unwrap();
            online.push(device);
        }
    }
    eventually("the offline devices are gone", async || {
        api.metric("petrel_presence_online", "").await == (DEVICES - OFFLINE) as f64
    })
    .await;
    let operations = "petrel_store_operations_total";
    let before = api.metric(operations, "kind=\"append\"").await;
    let answer = api
        .publish_topic("all", json!({ "data": { "n": "1" } }))
        .await;
    safe(&answer);
    for device in &mut online {
        assert_eq!(device.message().await.id, answer.id());
    }
    assert_eq!(api.metric(operations, "kind=\"broadcast\"").await, 1.0);
    assert_eq!(api.metric(operations, "kind=\"append\"").await, before);
    assert_eq!(api.metric("petrel_delivery_owed", "").await, OFFLINE as f64);

    for (n, path) in offline.iter().enumerate() {
        let mut device = start_with_file(&broker, &sockets[n % sockets.len()], path).await;
        assert_eq!(device.message().await.id, answer.id());
        device.client.close().await;
    }
    assert_books_balance(&api).await;
    assert_eq!(api.metric("petrel_delivery_owed", "").await, 0.0);
    // Nobody has it twice: a second broadcast is the next thing that each one gets.
    let second = api
        .publish_topic("all", json!({ "data": { "n": "2" } }))
        .await;
    safe(&second);
    for device in &mut online {
        assert_eq!(device.message().await.id, second.id());
    }
}

async fn start_with_file(broker: &Broker, socket: &Socket, path: &std::path::Path) -> Device {
    let (client, events) = Client::builder(&broker.ready.quic.to_string())
        .ca_file(&broker.ready.ca)
        .project(&broker.ready.project)
        .app_key(&broker.ready.app_key)
        .storage(petrel_client::FileStorage::open(path).unwrap())
        .socket(socket)
        .connect()
        .await
        .unwrap();
    Device { client, events }
}

/// A connection that rested when the broker was killed is unknown to the next one, whose keys are the same: the device's
/// next packet is answered with a stateless reset, and it comes back.
#[tokio::test]
async fn after_kill_9_a_device_that_speaks_is_back_within_two_seconds() {
    let mut broker = Broker::start();
    let socket = Socket::bind().unwrap();
    let mut device = Device::start(&broker, &socket, MemoryStorage::default()).await;
    let api = Api::new(&broker);
    eventually("the connection rests", async || {
        api.metric("petrel_quic_residents", "").await == 1.0
    })
    .await;
    broker.kill();
    broker.restart_on_same_ports();
    let api = Api::new(&broker);
    assert_eq!(api.metric("petrel_presence_online", "").await, 0.0);

    let began = Instant::now();
    device.client.network_changed("another");
    eventually("the device is back", async || {
        api.metric("petrel_presence_online", "").await == 1.0
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    eventually("it was told by a reset", async || {
        api.metric("petrel_quic_resets_sent_total", "").await >= 1.0
    })
    .await;
    let token = device.client.token().unwrap().to_string();
    safe(&api.publish_token(&token, numbered(1)).await);
    device.message().await;
}

/// The whole story, with a kill under traffic; it checks itself and exits 0 only if nothing was lost or doubled.
#[test]
fn the_demo_holds_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_petrel"))
        .args(["demo", "--devices", "100", "--json"])
        .current_dir(directory.path())
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&demo.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(
        (&report["lost"], &report["doubled"]),
        (&json!(0), &json!(0))
    );
    assert!(report["replayed"].as_u64().unwrap() > 0, "{report}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
