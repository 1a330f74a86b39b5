//! A broker of our own: a child process in a directory of its own. Neither outlives the values here, unless the
//! directory is the user's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{self, ChildStdout, Command};
use tokio::time::timeout;

use super::ready::Ready;

/// How long the broker may take to be ready: it reads back all registrations first.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// How long it may take to end in good order.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a killed process may take to be gone, in steps of [`REAP_STEP`].
const REAP_STEPS: u32 = 400;
const REAP_STEP: Duration = Duration::from_millis(5);

/// What is shown of the broker's log after a failure.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 * 1024;

/// Variables that configure a broker. Ours is what its file says.
const ENVIRONMENT_PREFIX: &str = "PETREL_";

/// Where our broker lives.
pub(super) struct Place {
    binary: PathBuf,
    config: Option<PathBuf>,
    directory: PathBuf,
    /// Removed with everything in it at the end; `None`: the user's.
    temporary: Option<TempDir>,
}

impl Place {
    pub(super) fn new(
        binary: Option<PathBuf>,
        config: Option<PathBuf>,
        home: Option<PathBuf>,
    ) -> Result<Self> {
        let binary = match binary {
            Some(binary) => binary,
            None => std::env::current_exe()?.with_file_name("petrel"),
        };
        if !binary.is_file() {
            bail!(
                "there is no broker at {}: build it with `cargo build --release`, or name it with --petrel FILE",
                binary.display()
            );
        }
        let (directory, temporary) = match home {
            Some(home) => {
                std::fs::create_dir_all(&home)
                    .with_context(|| format!("cannot make {}", home.display()))?;
                (home, None)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("petrel-load-").tempdir();
                let temporary = temporary
                    .context("no temporary directory; set TMPDIR to one that can be written")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        Ok(Self {
            binary,
            config,
            directory,
            temporary,
        })
    }

    /// Where registrations are kept, if the directory is.
    pub(super) fn registrations(&self) -> Option<PathBuf> {
        self.temporary
            .is_none()
            .then(|| self.directory.join("devices.registrations"))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("broker.log")
    }

    /// The last lines of the broker's log.
    pub(super) fn log_tail(&self) -> String {
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

/// A running broker. Dropping it kills it and waits until it is gone.
pub(super) struct Child {
    process: process::Child,
    pid: u32,
    ready: Ready,
    /// Kept open: who writes to a closed pipe fails.
    _stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts it on free ports, or on those of an earlier run, and waits until it is ready.
    pub(super) async fn start(place: &Place, earlier: Option<&Ready>) -> Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(place.log_path());
        let log = log.with_context(|| format!("cannot write {}", place.log_path().display()))?;
        let mut command = Command::new(&place.binary);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(place.directory.join("data"));
        command.args(["--log-format", "text"]);
        if let Some(config) = &place.config {
            command.arg("--config").arg(config);
        }
        for (flag, address) in addresses(earlier) {
            command.args([flag, address]);
        }
        for (name, _) in std::env::vars_os() {
            if name
                .as_encoded_bytes()
                .starts_with(ENVIRONMENT_PREFIX.as_bytes())
            {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", place.binary.display()))?;
        Self::await_ready(Guard(Some(child)))
            .await
            .map_err(|error| {
                anyhow!(
                    "the broker did not start: {error:#}; its last words:\n{}",
                    place.log_tail()
                )
            })
    }

    async fn await_ready(mut guard: Guard) -> Result<Self> {
        let process = guard.0.as_mut().context("it is gone")?;
        let pid = process.id().context("it ended at once")?;
        let mut stdout = BufReader::new(process.stdout.take().context("it has no stdout")?);
        let mut line = String::new();
        let read = timeout(READY_TIMEOUT, stdout.read_line(&mut line)).await;
        if read.with_context(|| format!("not ready within {READY_TIMEOUT:?}"))?? == 0 {
            bail!("it ended at once");
        }
        let ready = Ready::parse(&line)?;
        let process = guard.0.take().context("it is gone")?;
        Ok(Self {
            process,
            pid,
            ready,
            _stdout: stdout,
        })
    }

    pub(super) fn ready(&self) -> &Ready {
        &self.ready
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGTERM; returns when the process is gone, so that the next one finds its data in order.
    pub(super) async fn stop(mut self) -> Result<Ready> {
        let asked = Command::new("/bin/sh")
            .args(["-c", &format!("kill -TERM {}", self.pid)])
            .status()
            .await;
        if !asked.is_ok_and(|status| status.success()) {
            bail!("the broker (process {}) cannot be asked to end", self.pid);
        }
        let ended = timeout(STOP_TIMEOUT, self.process.wait()).await;
        let status =
            ended.with_context(|| format!("the broker did not end within {STOP_TIMEOUT:?}"))??;
        if !status.success() {
            bail!("the broker ended with {status}");
        }
        Ok(self.ready.clone())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        reap(&mut self.process);
    }
}

/// A process that is not a [`Child`] yet.
struct Guard(Option<process::Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            reap(process);
        }
    }
}

/// Kills and waits, without a runtime: this also runs while a future is dropped or a panic unwinds.
fn reap(process: &mut process::Child) {
    let _ = process.start_kill();
    for _ in 0..REAP_STEPS {
        if !matches!(process.try_wait(), Ok(None)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_gets_the_same_addresses() {
        let ready = Ready::parse(
            r#"{"quic":"127.0.0.1:1","http":"http://127.0.0.1:2","https":"https://127.0.0.1:3",
            "admin":"http://127.0.0.1:4","project":null,"api_key":null,"app_key":null,"ca":""}"#,
        );
        let ready = ready.unwrap();
        let again = addresses(Some(&ready)).map(|(_, address)| address);
        assert_eq!(
            again,
            ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]
        );
        assert!(
            addresses(None)
                .iter()
                .all(|(_, address)| *address == "127.0.0.1:0")
        );
    }

    #[test]
    fn a_broker_that_is_not_built_is_asked_for() {
        let error = Place::new(Some("/no/such/petrel".into()), None, None)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("cargo build --release"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_broker_that_fails_is_quoted() {
        // Any program that takes offence at the flags will do.
        let place = Place::new(Some("/bin/ls".into()), None, None).unwrap();
        let error = Child::start(&place, None).await.err().unwrap().to_string();
        assert!(
            error.contains("ended at once") && error.contains("--data-dir"),
            "{error}"
        );
    }

    #[test]
    fn a_temporary_place_goes_with_all_that_is_in_it_and_another_stays() {
        let place = Place::new(Some("/bin/ls".into()), None, None).unwrap();
        let directory = place.directory.clone();
        std::fs::write(place.log_path(), "one\ntwo\n").unwrap();
        assert_eq!(
            (place.registrations(), place.log_tail().as_str()),
            (None, "one\ntwo")
        );
        drop(place);
        assert!(!directory.exists());

        let dir = tempfile::tempdir().unwrap();
        let place =
            Place::new(Some("/bin/ls".into()), None, Some(dir.path().join("home"))).unwrap();
        assert!(
            place
                .registrations()
                .is_some_and(|path| path.starts_with(dir.path()))
        );
        drop(place);
        assert!(dir.path().join("home").is_dir());
    }
}
