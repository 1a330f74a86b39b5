//! A device as a child process: commands in, one JSON object a line out.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::common::{Broker, within};

/// A process that prints lines. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line, and what it tells of.
    pub(crate) async fn line(&mut self, awaited: &str) -> (String, Value) {
        let line = within(awaited, self.lines.next_line()).await.unwrap();
        let line = line.unwrap_or_else(|| panic!("the device ended before `{awaited}`"));
        let line: Value = serde_json::from_str(&line).unwrap();
        (line["event"].as_str().unwrap().to_owned(), line)
    }

    /// The next line, which must be of this kind.
    pub(crate) async fn next(&mut self, event: &str) -> Value {
        let (came, line) = self.line(event).await;
        assert_eq!(came, event, "{line}");
        line
    }

    /// Asks it to end, as Ctrl-C or a system that shuts down does.
    pub(crate) async fn terminate(&self) {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill {pid}")])
            .status();
        assert!(sent.await.unwrap().success(), "SIGTERM to {pid}");
    }

    /// Waits for its end; there must be no further line.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let line = within("the device's end", self.lines.next_line()).await;
        assert_eq!(line.unwrap(), None);
        within("the device's end", self.child.wait()).await.unwrap()
    }
}

/// A device that takes commands.
pub(crate) struct Device {
    pub(crate) process: Process,
    commands: ChildStdin,
    /// Where it keeps its state.
    _directory: TempDir,
}

impl Device {
    /// A device of the broker's demo project that finds it at `address` and trusts the authority in `ca`.
    pub(crate) fn start(
        mut command: Command,
        broker: &Broker,
        address: SocketAddr,
        ca: &Path,
        topics: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        command
            .current_dir(&directory)
            .args(["--broker", &address.to_string()])
            .arg("--ca")
            .arg(ca)
            .args(["--project", &broker.ready.project])
            .args(["--app-key", &broker.ready.app_key]);
        for topic in topics {
            command.args(["--topic", topic]);
        }
        let mut process = Process::start(command);
        Self {
            commands: process.child.stdin.take().unwrap(),
            process,
            _directory: directory,
        }
    }

    /// Gives a command and waits until it is carried out. Messages that come meanwhile are returned.
    pub(crate) async fn order(&mut self, command: &str) -> Vec<Value> {
        let line = format!("{command}\n");
        let written = self.commands.write_all(line.as_bytes());
        within("room for a command", written).await.unwrap();
        let mut early = Vec::new();
        loop {
            let (event, line) = self.process.line(command).await;
            match event.as_str() {
                "message" => early.push(line),
                "done" => {
                    assert_eq!(line["command"], command);
                    return early;
                }
                _ => panic!("at `{command}`: {line}"),
            }
        }
    }
}
