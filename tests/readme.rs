//! Runs the lines of README's quick start as a new user would: in an empty directory, with the real binary.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const README: &str = include_str!("../README.md");
const PATIENCE: Duration = Duration::from_secs(30);

/// The commands of the quick start's code blocks, comments cut off, continued lines joined.
fn quick_start() -> Vec<String> {
    let section = README.split("\n## Quick start\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut commands = Vec::new();
    for block in section.split("```").skip(1).step_by(2) {
        let joined = block.replace("\\\n", " ");
        commands.extend(
            joined
                .lines()
                .map(|line| line.split("  #").next().unwrap().trim().to_owned())
                .filter(|line| !line.is_empty()),
        );
    }
    commands
}

/// A shell that runs one line in a directory where `petrel` is on the path and no port is fixed.
fn shell(line: &str, directory: &Path) -> Command {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_petrel"));
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("exec {line}"))
        .current_dir(directory)
        .env(
            "PATH",
            format!("{}:{path}", binary.parent().unwrap().display()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines that a child prints, as they come.
fn lines_of(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    let (lines, receiver) = std::sync::mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

fn wait_for(lines: &std::sync::mpsc::Receiver<String>, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) if line.contains(text) => return,
            Ok(line) => seen.push(line),
            Err(_) => panic!("no line with {text:?} came, but: {seen:#?}"),
        }
    }
}

#[test]
fn the_quick_start_works_line_by_line() {
    let commands = quick_start();
    let [serve, listen, send, curl] = commands.as_slice() else {
        panic!("the quick start has other commands than expected: {commands:#?}");
    };
    let directory = tempfile::tempdir().unwrap();
    let mut broker = shell(serve, directory.path());
    for key in ["QUIC", "HTTP", "HTTPS", "ADMIN"] {
        broker.env(format!("PETREL_{key}__LISTEN"), "127.0.0.1:0");
    }
    let mut broker = Running(broker.spawn().unwrap());
    let ready = lines_of(&mut broker.0).recv_timeout(PATIENCE).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();

    let mut device = Running(shell(listen, directory.path()).spawn().unwrap());
    let printed = lines_of(&mut device.0);
    wait_for(&printed, "news");

    let sent = shell(send, directory.path()).output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
    wait_for(&printed, "World");

    let curl = curl.replace("http://127.0.0.1:7480", ready["http"].as_str().unwrap());
    let answered = shell(&curl, directory.path())
        .env("API_KEY", ready["api_key"].as_str().unwrap())
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&answered.stdout);
    assert!(answer.contains("projects/demo/messages/"), "{answer}");
    wait_for(&printed, "World");
}
