//! Which broker `listen` is a device of, where its state lies, and what its user may publish with.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use petrel_client::{Client, ClientBuilder, Durability, FileStorage, Platform, StorageError};

use super::super::{Failure, target};

/// The state file of this command inside a data directory.
const STATE: &str = "devices/listen.json";

#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    /// Data directory of the running broker [default: ./petrel-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The broker's address for devices, host:port; with --ca, --project and --app-key.
    #[arg(long, value_name = "ADDR", requires_all = ["ca", "project", "app_key"])]
    broker: Option<String>,
    /// The CA that signed the broker's certificate: tls/ca.pem of its data directory.
    #[arg(long, value_name = "FILE", requires = "broker")]
    ca: Option<PathBuf>,
    /// The project to register with.
    #[arg(long, value_name = "NAME", requires = "app_key")]
    project: Option<String>,
    /// The project's key for devices.
    #[arg(long, value_name = "KEY", requires = "project")]
    app_key: Option<String>,
    /// Where this device keeps its registration and messages [default: devices/listen.json in the data directory].
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// android, ios, web or other.
    #[arg(long, value_name = "PLATFORM", default_value = "other")]
    platform: Platform,
}

/// What a line to be pasted needs.
#[derive(Clone, Debug)]
pub(super) struct Publishing {
    /// Absent where it is the default.
    pub(super) data_dir: Option<String>,
    pub(super) http: String,
    pub(super) project: String,
    pub(super) api_key: String,
}

/// A device that is ready to be started.
pub(super) struct Device {
    pub(super) builder: ClientBuilder,
    pub(super) publishing: Option<Publishing>,
    /// Broker and project, for people.
    pub(super) place: String,
}

impl TargetArgs {
    /// Finds the broker and opens the state file.
    pub(super) fn resolve(self) -> Result<Device, Failure> {
        let (broker, ca, project, app_key, publishing);
        match (self.broker, self.ca) {
            (Some(address), Some(file)) => {
                (broker, ca, publishing) = (address, file, None);
                project = self.project.unwrap_or_default();
                app_key = self.app_key.unwrap_or_default();
            }
            _ => {
                let ready = target::ready(self.data_dir.as_deref())?;
                let own = ready.project.clone().zip(ready.api_key.clone());
                publishing = own
                    .filter(|_| self.project.is_none())
                    .map(|(project, api_key)| Publishing {
                        data_dir: self.data_dir.as_ref().map(|_| ready.data_dir.clone()),
                        http: ready.http,
                        project,
                        api_key,
                    });
                (broker, ca) = (ready.quic, PathBuf::from(ready.ca));
                project = target::demo_value(self.project.or(ready.project), "--project")?;
                app_key = target::demo_value(self.app_key.or(ready.app_key), "--app-key")?;
            }
        }
        let state = match self.state {
            Some(file) => file,
            None => default_state(self.data_dir.as_deref())?,
        };
        let builder = Client::builder(&broker)
            .ca_file(ca)
            .project(&project)
            .app_key(&app_key)
            .platform(self.platform)
            .sdk_name(concat!("petrel-listen/", env!("CARGO_PKG_VERSION")))
            .storage(open(&state)?);
        Ok(Device {
            builder,
            publishing,
            place: format!("project {project} at {broker}"),
        })
    }
}

/// The default file; its directories are made for their owner alone, as the broker makes its own.
fn default_state(data_dir: Option<&Path>) -> Result<PathBuf, Failure> {
    let file = data_dir.unwrap_or(Path::new(target::DATA_DIR)).join(STATE);
    if let Some(directory) = file.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| {
                Failure::new(format!(
                    "cannot make {}: {error}; name a file of your own with --state FILE",
                    directory.display()
                ))
            })?;
    }
    Ok(file)
}

/// Survives the end of the process, not a power cut: what was printed is done, and nobody syncs stdout either.
fn open(state: &Path) -> Result<FileStorage, Failure> {
    FileStorage::open_with(state, Durability::ProcessEnd).map_err(|error| match error {
        StorageError::InUse { path } => Failure::new(format!(
            "{} is in use by another `petrel listen`: stop that one, or be another device with `--state OTHER-FILE`",
            path.display()
        )),
        other => other.into(),
    })
}
