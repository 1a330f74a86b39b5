//! What can go wrong at the start: each ends with an exit code that is not 0 and a text that names the way out.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

use common::{Broker, eventually};

/// Runs `petrel` to its end.
fn petrel(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_petrel"))
        .args(arguments)
        .current_dir(directory)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// It fails, and says all of this on stderr.
fn check(output: &Output, expect: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it should have failed: {stderr}");
    for text in expect {
        assert!(stderr.contains(text), "no {text:?} in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

const FREE: [&str; 9] = [
    "serve",
    "--quic",
    "127.0.0.1:0",
    "--http",
    "127.0.0.1:0",
    "--https",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
];

#[test]
fn a_taken_port_is_named_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let mut quic = FREE;
    quic[2] = &taken;
    check(
        &petrel(directory.path(), &quic, &[]),
        &["quic.listen", &taken, "port 0"],
    );
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let mut http = FREE;
    http[4] = &taken;
    check(
        &petrel(directory.path(), &http, &[]),
        &["http.listen", &taken, "port 0"],
    );
}

/// No system grants a gigabyte unless it was told to.
#[tokio::test]
async fn small_socket_buffers_are_named_with_what_to_say_to_the_system() {
    let broker = Broker::with_config("[quic]\nshards = 2\nsocket_buffer = \"1GiB\"\n");
    for line in [
        "sysctl -w net.core.rmem_max=1073741824",
        "sysctl -w net.core.wmem_max=1073741824",
    ] {
        // Once, not once for each shard. It may take a moment from the broker's stderr to here.
        eventually(line, async || broker.logged().matches(line).count() == 1).await;
    }
}

/// Its shards share the port among themselves; a second broker must not get a share.
#[test]
fn a_second_broker_does_not_join_the_shards_of_the_first() {
    for (first, second) in [("4", "4"), ("2", "1"), ("1", "3")] {
        let broker = Broker::with_config(&format!("[quic]\nshards = {first}\n"));
        let taken = broker.ready.quic.to_string();
        let directory = tempfile::tempdir().unwrap();
        let mut quic = FREE;
        quic[2] = &taken;
        check(
            &petrel(directory.path(), &quic, &[("PETREL_QUIC__SHARDS", second)]),
            &["quic.listen", &taken, "in use", "port 0"],
        );
    }
}

#[test]
fn a_data_directory_in_use_names_the_process() {
    let broker = Broker::start();
    let data_dir = broker.ready.data_dir.to_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let arguments = [&FREE[..], &["--data-dir", data_dir]].concat();
    check(
        &petrel(directory.path(), &arguments, &[]),
        &["in use by process", "--data-dir"],
    );
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let arguments = [&FREE[..], &["--data-dir", file.to_str().unwrap()]].concat();
    check(
        &petrel(directory.path(), &arguments, &[]),
        &[file.to_str().unwrap(), "--data-dir"],
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn a_damaged_key_is_named_and_kept() {
    let mut broker = Broker::start();
    broker.kill();
    let key = broker.ready.data_dir.join("keys/transport.key");
    std::fs::write(&key, "short").unwrap();
    let data_dir = broker.ready.data_dir.to_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let arguments = [&FREE[..], &["--data-dir", data_dir]].concat();
    check(
        &petrel(directory.path(), &arguments, &[]),
        &["transport.key", "backup"],
    );
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "short");
}

#[test]
fn all_bad_keys_of_a_configuration_are_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("petrel.toml");
    let text =
        "[quic]\nidle_timeout = 0\nlisten = \"nowhere\"\n[sotre]\nx = 1\n[http]\npermits = -1\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let expect = ["quic.idle_timeout", "quic.listen", "sotre", "http.permits"];
    let checked = petrel(directory.path(), &["config", "check", path], &[]);
    check(&checked, &expect);
    let served = petrel(directory.path(), &["serve", "--config", path], &[]);
    check(&served, &expect);
    assert!(!directory.path().join("petrel-data").exists());
}

#[test]
fn unknown_variables_and_exposed_plain_ports_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    check(
        &petrel(directory.path(), &FREE, &[("PETREL_QIUC__LISTEN", "x")]),
        &["PETREL_QIUC__LISTEN"],
    );
    let mut exposed = FREE;
    exposed[4] = "0.0.0.0:0";
    exposed[8] = "0.0.0.0:0";
    check(
        &petrel(directory.path(), &exposed, &[]),
        &[
            "http.allow_plain_beyond_loopback",
            "admin.allow_beyond_loopback",
        ],
    );
}

#[test]
fn commands_without_a_broker_say_what_to_start() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["listen"][..], &["send", "--topic", "news"]] {
        check(&petrel(directory.path(), arguments, &[]), &["petrel serve"]);
    }
}

#[test]
fn the_shipped_configurations_are_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["config/petrel.toml", "config/dev.toml"] {
        let file = root.join(name);
        let checked = petrel(root, &["config", "check", file.to_str().unwrap()], &[]);
        assert!(checked.status.success(), "{checked:?}");
    }
    let shown = petrel(root, &["config", "show", "--quic", "127.0.0.1:1"], &[]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("quic.listen = ") && text.contains("--quic"),
        "{text}"
    );
}
