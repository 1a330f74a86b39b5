//! The real binary as a child process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, POLL, within};

/// How a broker is started, beside free ports and a temporary data directory.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// The text of a configuration file; none without text.
    pub(crate) config: String,
    /// Further flags of `petrel serve`.
    pub(crate) flags: Vec<String>,
}

impl Options {
    pub(crate) fn config(text: &str) -> Self {
        Self {
            config: text.to_owned(),
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    pub(crate) fn start(self) -> Broker {
        Broker::start_with(self)
    }
}

/// What the ready line says. A broker with configured projects names none here.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) project: String,
    pub(crate) api_key: String,
    pub(crate) app_key: String,
    pub(crate) ca: PathBuf,
    pub(crate) data_dir: PathBuf,
}

impl Ready {
    fn parse(line: &str) -> Self {
        let json: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let address = |key: &str| {
            let text = text(key);
            let address = text.rsplit('/').next().unwrap();
            address.parse().unwrap()
        };
        assert_eq!(json["ready"], true, "{line}");
        Self {
            quic: address("quic"),
            http: address("http"),
            https: address("https"),
            admin: address("admin"),
            project: text("project"),
            api_key: text("api_key"),
            app_key: text("app_key"),
            ca: text("ca").into(),
            data_dir: text("data_dir").into(),
        }
    }
}

/// A running `petrel serve`. Killed when dropped; what it logged is shown when the test panics.
pub(crate) struct Broker {
    pub(crate) ready: Ready,
    options: Options,
    dir: TempDir,
    process: Process,
}

impl Broker {
    /// With the defaults.
    pub(crate) fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// With the text of a configuration file.
    pub(crate) fn with_config(text: &str) -> Self {
        Self::start_with(Options::config(text))
    }

    pub(crate) fn start_with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("petrel.toml"), &options.config).unwrap();
        let (process, ready) = Process::start(&dir, &options, &["127.0.0.1:0".parse().unwrap(); 4]);
        Self {
            ready,
            options,
            dir,
            process,
        }
    }

    /// SIGKILL; returns when the process is gone. A second call does nothing.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends SIGTERM and returns at once.
    pub(crate) fn ask_to_end(&self) {
        self.signal("TERM");
    }

    /// Sends SIGHUP and returns at once.
    pub(crate) fn hang_up(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let pid = self.process.child.id();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status();
        assert!(sent.unwrap().success(), "SIG{name} to {pid}");
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        self.process.stderr()
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        within("the end of the broker", async {
            loop {
                if let Some(status) = self.process.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await
    }

    /// SIGTERM, then waits for the end. Devices of the same runtime go on meanwhile.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.ended().await
    }

    /// Starts again on the same data directory, on other ports. What still runs is killed first.
    pub(crate) fn restart(&mut self) {
        self.restart_at(&["127.0.0.1:0".parse().unwrap(); 4]);
    }

    /// Starts again with another configuration.
    pub(crate) fn reconfigure(&mut self, config: &str) {
        self.kill();
        config.clone_into(&mut self.options.config);
        std::fs::write(self.dir.path().join("petrel.toml"), config).unwrap();
        self.restart();
    }

    /// Starts again on the same data directory and the same ports. What still runs is killed first.
    pub(crate) fn restart_on_same_ports(&mut self) {
        let Ready {
            quic,
            http,
            https,
            admin,
            ..
        } = self.ready;
        self.restart_at(&[quic, http, https, admin]);
    }

    fn restart_at(&mut self, addresses: &[SocketAddr; 4]) {
        self.kill();
        let (process, ready) = Process::start(&self.dir, &self.options, addresses);
        self.process = process;
        self.ready = ready;
    }

    /// The most memory that the process ever had in RAM, in bytes.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes: u64 = peak
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        kilobytes * 1024
    }

    /// Everything that it logged since it was started last.
    pub(crate) fn stderr(&self) -> String {
        self.process.stderr()
    }
}

/// A process and what it says.
struct Process {
    child: Child,
    stderr: Arc<Mutex<String>>,
}

impl Process {
    /// Starts it and waits for its ready line.
    fn start(dir: &TempDir, options: &Options, addresses: &[SocketAddr; 4]) -> (Self, Ready) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petrel"));
        command
            .arg("serve")
            .arg("--config")
            .arg(dir.path().join("petrel.toml"))
            .arg("--data-dir")
            .arg(dir.path().join("data"));
        for (flag, address) in ["--quic", "--http", "--https", "--admin"]
            .iter()
            .zip(addresses)
        {
            command.arg(flag).arg(address.to_string());
        }
        command.args(&options.flags);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PETREL_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let process = Self {
            child,
            stderr: Arc::default(),
        };
        let kept = Arc::clone(&process.stderr);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let (first_line, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = stdout;
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = first_line.send(line);
            // Read on, so that the broker never meets a closed pipe.
            let _ = stdout.read_to_end(&mut Vec::new());
        });
        match ready.recv_timeout(PATIENCE) {
            Ok(line) if !line.is_empty() => (process, Ready::parse(&line)),
            Ok(_) => panic!("the broker ended before it was ready"),
            Err(_) => panic!("the broker is not ready within {PATIENCE:?}"),
        }
    }

    fn kill(&mut self) {
        // Refused where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn stderr(&self) -> String {
        let kept = self.stderr.lock();
        kept.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show_if_panicking(&self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "shown with the test that failed")]
            {
                eprintln!("---- the broker logged:\n{}----", self.stderr());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.show_if_panicking();
    }
}

/// A broker that tests of one binary share: it lives as long as any of them uses it.
pub(crate) struct Pool {
    broker: Mutex<Weak<Broker>>,
    config: &'static str,
}

impl Pool {
    pub(crate) const fn new(config: &'static str) -> Self {
        Self {
            broker: Mutex::new(Weak::new()),
            config,
        }
    }

    /// The running one, or a new one.
    pub(crate) fn broker(&self) -> Shared {
        let mut slot = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
        let broker = slot.upgrade().unwrap_or_else(|| {
            let broker = Arc::new(Broker::with_config(self.config));
            *slot = Arc::downgrade(&broker);
            broker
        });
        Shared(broker)
    }
}

/// One test's share of a broker.
pub(crate) struct Shared(Arc<Broker>);

impl Deref for Shared {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.process.show_if_panicking();
    }
}
