//! The broker of the demo: a child process in a directory of its own. Neither outlives the values here.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::super::Failure;
use crate::config::ENVIRONMENT_PREFIX;
use crate::data_dir::Ready;

/// How long the broker may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a killed process may take to be gone, in steps of [`REAP_STEP`].
const REAP_STEPS: u32 = 400;
const REAP_STEP: Duration = Duration::from_millis(5);

/// What is shown of the broker's log after a failure.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 * 1024;

/// A temporary directory, readable by its owner alone, removed with everything in it when dropped.
pub(super) struct Home {
    path: PathBuf,
}

impl Home {
    pub(super) fn new() -> Result<Self, Failure> {
        let mut random = [0; 8];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Failure::new("the operating system gives no random bytes"))?;
        let name = format!(
            "petrel-demo-{}-{:016x}",
            std::process::id(),
            u64::from_le_bytes(random)
        );
        let path = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| {
                Failure::new(format!(
                    "cannot make {}: {error}; set TMPDIR to a directory that can be written",
                    path.display()
                ))
            })?;
        Ok(Self { path })
    }

    fn log_path(&self) -> PathBuf {
        self.path.join("broker.log")
    }

    /// A failure with the last lines of the broker's log.
    pub(super) fn explain(&self, failure: &Failure) -> Failure {
        match self.log_tail() {
            tail if tail.is_empty() => Failure::with_code(failure.code(), failure),
            tail => {
                let text = format!("{failure}\n\nthe broker's last words:\n{tail}");
                Failure::with_code(failure.code(), text)
            }
        }
    }

    fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A file may still appear while the tree is being removed; the broker is gone by now, so once more suffices.
        for _ in 0..3 {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => thread::sleep(REAP_STEP),
                _ => return,
            }
        }
    }
}

/// A running broker. Dropping it kills it and waits until it is gone.
pub(super) struct Broker {
    child: Child,
    ready: Ready,
    /// Kept open: who writes to a closed pipe fails.
    _stdout: BufReader<ChildStdout>,
}

impl Broker {
    /// Starts `petrel serve` in a home, on the ports of an earlier run or on free ones, and waits until it is ready.
    pub(super) async fn start(home: &Home, earlier: Option<&Ready>) -> Result<Self, Failure> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(home.log_path())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(home.path.join("data"))
            .args(["--log-format", "text"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        for (flag, address) in addresses(earlier) {
            command.args([flag, address]);
        }
        // The demo shows the broker as it is without configuration.
        for (name, _) in std::env::vars_os() {
            if name
                .as_encoded_bytes()
                .starts_with(ENVIRONMENT_PREFIX.as_bytes())
            {
                command.env_remove(name);
            }
        }
        let child = command
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start the broker: {error}")))?;
        Self::await_ready(Guard(Some(child)))
            .await
            .map_err(|problem| Failure::new(format!("the broker did not start: {problem}")))
    }

    async fn await_ready(mut guard: Guard) -> Result<Self, String> {
        let stdout = guard.0.as_mut().and_then(|child| child.stdout.take());
        let mut stdout = BufReader::new(stdout.ok_or("it has no stdout")?);
        let mut line = String::new();
        match timeout(READY_TIMEOUT, stdout.read_line(&mut line)).await {
            Err(_) => return Err(format!("not ready within {} s", READY_TIMEOUT.as_secs())),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(0)) => return Err("it ended at once".to_owned()),
            Ok(Ok(_)) => {}
        }
        let ready =
            serde_json::from_str(&line).map_err(|e| format!("its ready line is odd: {e}"))?;
        Ok(Self {
            child: guard.0.take().ok_or("it is gone")?,
            ready,
            _stdout: stdout,
        })
    }

    /// What it said when it was ready.
    pub(super) fn ready(&self) -> &Ready {
        &self.ready
    }

    /// SIGKILL: no drain, no flush, no goodbye. Returns when the process is gone.
    pub(super) async fn kill(mut self) -> Result<Ready, Failure> {
        self.child
            .kill()
            .await
            .map_err(|error| Failure::new(format!("cannot kill the broker: {error}")))?;
        Ok(self.ready.clone())
    }

    /// Memory that is the broker's own, in bytes.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()?));
        proportional(&proc).or_else(|| resident(&proc))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        reap(&mut self.child);
    }
}

/// A child that is not a [`Broker`] yet.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            reap(child);
        }
    }
}

/// Kills and waits, without a runtime: this also runs while a future is dropped or a panic unwinds.
fn reap(child: &mut Child) {
    let _ = child.start_kill();
    for _ in 0..REAP_STEPS {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(REAP_STEP);
    }
}

/// The address flags: those of the earlier run, or free ports on loopback.
fn addresses(earlier: Option<&Ready>) -> [(&'static str, &str); 4] {
    match earlier {
        None => ["--quic", "--http", "--https", "--admin"].map(|flag| (flag, "127.0.0.1:0")),
        Some(ready) => [
            ("--quic", &*ready.quic),
            ("--http", without_scheme(&ready.http)),
            ("--https", without_scheme(&ready.https)),
            ("--admin", without_scheme(&ready.admin)),
        ],
    }
}

fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, address)| address)
}

/// Proportional set size: pages shared with others (the binary itself, run twice here) count by their share.
fn proportional(proc: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(proc.join("smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Resident set size, where the kernel does not tell the former.
fn resident(proc: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(proc.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_private_and_goes_with_all_that_is_in_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = Home::new().unwrap();
        let path = home.path.clone();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        std::fs::create_dir(path.join("data")).unwrap();
        let lines: Vec<String> = (0..40).map(|n| format!("line {n}")).collect();
        std::fs::write(home.log_path(), lines.join("\n")).unwrap();
        let tail = home.log_tail();
        assert!(
            tail.starts_with("line 25\n") && tail.ends_with("line 39"),
            "{tail}"
        );
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn a_restart_gets_the_same_addresses() {
        let line = r#"{"ready":true,"quic":"127.0.0.1:1","http":"http://127.0.0.1:2","https":"https://127.0.0.1:3",
            "admin":"http://127.0.0.1:4","public_url":"","project":null,"api_key":null,"app_key":null,"ca":"",
            "data_dir":""}"#;
        let ready: Ready = serde_json::from_str(line).unwrap();
        let ports = addresses(Some(&ready)).map(|(_, address)| address.to_owned());
        assert_eq!(
            ports,
            ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]
        );
        assert!(
            addresses(None)
                .iter()
                .all(|(_, address)| *address == "127.0.0.1:0")
        );
    }

    #[test]
    fn memory_of_a_process_is_known() {
        let own = Path::new("/proc/self");
        assert!(resident(own).is_some_and(|bytes| bytes > 100_000));
        assert!(proportional(own).is_none_or(|bytes| bytes > 100_000));
    }
}
