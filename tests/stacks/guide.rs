//! `docs/guides/device.md`, as its reader follows it: the quick start's broker, and its own commands, in one directory.

use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use crate::common::{Api, Broker, eventually};
use crate::process::Process;
use crate::{PYTHON, given, in_repository};

const GUIDE: &str = include_str!("../../docs/guides/device.md");

/// The block of the page that runs the device, to be run by a shell.
fn run_block() -> String {
    let block = GUIDE.split("```").skip(1).step_by(2);
    let mut runs = block.filter(|block| block.contains("device.py --broker"));
    let run = runs.next().unwrap().to_owned();
    assert_eq!(runs.next(), None, "one block runs the device");
    run
}

/// The device as the page runs it, against a broker on a free port.
fn start(directory: &Path, broker: &Broker) -> Process {
    let address = broker.ready.quic.to_string();
    let script = run_block().replace("127.0.0.1:7443", &address);
    assert!(script.contains(&address), "the page names the default port");
    // The shell becomes the device, so that a signal meets it.
    let script = script.replace("\nvenv/bin/python device", "\nexec venv/bin/python device");
    let mut command = Command::new("sh");
    command.args(["-ec", &script]).current_dir(directory);
    Process::start(command)
}

#[test]
fn the_device_is_as_short_as_the_guide_says() {
    assert!(GUIDE.contains("in under 200 lines"));
    let device = std::fs::read_to_string(in_repository("docs/guides/device.py")).unwrap();
    assert!(device.lines().count() < 200);
}

/// PROTO-12, PROTO-27, PROTO-33: a device that comes back with its token gets what it missed, and nothing twice.
#[tokio::test]
async fn the_guide_works_as_it_is_written() {
    let broker = Broker::start();
    let api = Api::new(&broker);
    let directory = tempfile::tempdir().unwrap();
    let venv = Path::new(&given(PYTHON))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    let put = |from: &Path, name: &str| {
        std::os::unix::fs::symlink(from, directory.path().join(name)).unwrap();
    };
    put(&venv, "venv");
    put(&broker.ready.data_dir, "petrel-data");
    put(&in_repository("docs/guides/device.py"), "device.py");

    let mut token = None;
    for round in 0..3 {
        // From the second round on, what was published while it was away, and the answer to Subscribe, in any order.
        let mut due = vec!["subscribed".to_owned()];
        if token.is_some() {
            let missed = format!("missed {round}");
            publish(&api, &missed).await;
            due.push(missed);
        }
        let mut device = start(directory.path(), &broker);
        let registered = device.next("registered").await["token"].clone();
        assert_eq!(*token.get_or_insert(registered.clone()), registered);
        while !due.is_empty() {
            let (event, line) = device.line("what it missed").await;
            let came = line["body"].as_str().unwrap_or(&event);
            let found = due.iter().position(|due| due == came);
            due.remove(found.unwrap_or_else(|| panic!("not due: {line}")));
        }
        let live = format!("live {round}");
        publish(&api, &live).await;
        assert_eq!(device.next("message").await["body"], live);
        device.terminate().await;
        assert_eq!(device.next("closed").await["code"], 0);
        assert!(device.ended().await.success());
    }
    eventually("nothing owed", async || {
        api.metric("petrel_delivery_owed", "").await == 0.0
    })
    .await;
}

async fn publish(api: &Api, body: &str) {
    let notification = json!({ "notification": { "title": "Hello", "body": body } });
    let answer = api.publish_topic("news", notification).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}
