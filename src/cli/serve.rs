//! `petrel serve`: run the broker.
//!
//! SIGTERM and SIGINT drain it, a second one ends it at once. SIGHUP has it read its certificate again.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use crate::broker::{Broker, Loss, StartError};
use crate::config::{Config, ENVIRONMENT_PREFIX, Flag, LogFormat, LogLevel};
use crate::data_dir::Ready;
use crate::telemetry;

/// Exit code after a second signal: at once, with nothing lost that was answered.
const IMPATIENT: u8 = 130;

/// Exit code when the store is damaged or has lost data and `--accept-loss` is not given: `EX_DATAERR` of sysexits.h. A
/// supervisor should not start the broker again then (systemd: `RestartPreventExitStatus=65`).
const DAMAGED: u8 = 65;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file; without one the defaults hold and everything is kept in ./petrel-data.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Start although the store is damaged or has lost data: what cannot be opened is set aside, never deleted.
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    flags: Flags,
}

/// The flags that stand above file and environment.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Where everything that must survive is kept [default: ./petrel-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// UDP address for devices; port 0 picks a free one [default: 127.0.0.1:7443].
    #[arg(long, value_name = "ADDR")]
    quic: Option<SocketAddr>,
    /// TCP address for plain HTTP [default: 127.0.0.1:7480].
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// TCP address for HTTPS [default: 127.0.0.1:7443].
    #[arg(long, value_name = "ADDR")]
    https: Option<SocketAddr>,
    /// TCP address for health and metrics [default: 127.0.0.1:7490].
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// What every URL handed out begins with [default: made from the HTTPS address].
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Add a name or address to the self-made certificate.
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Flags {
    fn list(&self) -> Vec<Flag> {
        let mut list = Vec::new();
        let mut add = |name: &'static str, key: &'static str, value: Option<String>| {
            list.extend(value.map(|value| Flag::new(name, key, value)));
        };
        let text = |address: &Option<SocketAddr>| address.as_ref().map(ToString::to_string);
        add(
            "--data-dir",
            "data_dir",
            self.data_dir.as_ref().map(|d| d.display().to_string()),
        );
        add("--quic", "quic.listen", text(&self.quic));
        add("--http", "http.listen", text(&self.http));
        add("--https", "https.listen", text(&self.https));
        add("--admin", "admin.listen", text(&self.admin));
        add("--public-url", "public_url", self.public_url.clone());
        add("--log-format", "log.format", self.log_format.clone());
        for name in &self.name {
            add("--name", "tls.names", Some(name.clone()));
        }
        list
    }
}

/// File, environment and flags, together.
pub(super) fn load(config: Option<&std::path::Path>, flags: &Flags) -> Result<Config, Failure> {
    // Only our own variables are looked at, so that a foreign one that is no text is no error.
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with(ENVIRONMENT_PREFIX)
            .then(|| (name, value.to_string_lossy().into_owned()))
    });
    Ok(Config::load(config, environment, &flags.list())?)
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let config = load(args.config.as_deref(), &args.flags)?;
    let format = match config.log.format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    telemetry::init_logging(format, level(config.log.level))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("petrel-http")
        .enable_all()
        .build()?;
    let loss = if args.accept_loss {
        Loss::Accept
    } else {
        Loss::Refuse
    };
    runtime.block_on(serve(config, loss))
}

const fn level(level: LogLevel) -> tracing::Level {
    match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    }
}

async fn serve(config: Config, loss: Loss) -> Result<(), Failure> {
    // Before the broker is up, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let broker = tokio::select! {
        broker = Broker::start(config, loss) => broker.map_err(not_started)?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    announce(broker.ready())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = broker.drain_asked() => break,
            _ = hang_up.recv() => broker.reload_certificate().await,
        }
    }
    tokio::select! {
        drained = broker.drain() => Ok(drained?),
        _ = terminate.recv() => Err(Failure::silent(IMPATIENT)),
        _ = interrupt.recv() => Err(Failure::silent(IMPATIENT)),
    }
}

/// A damaged store has an exit code of its own: starting again does not help, a person has to decide.
fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Damaged { .. } => Failure::with_code(DAMAGED, error),
        other => other.into(),
    }
}

/// Says where everything is: for a person on a terminal, as one JSON line for a program.
fn announce(ready: &Ready) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        write!(out, "{}", human(ready))?;
    } else {
        writeln!(out, "{}", ready.line())?;
    }
    out.flush()
}

fn human(ready: &Ready) -> String {
    let mut text = format!(
        "petrel is ready\n\
         \n\
         \x20 devices     {quic} (QUIC)\n\
         \x20 publishers  {http}  {https}\n\
         \x20 admin       {admin}/metrics\n\
         \x20 data        {data_dir}\n",
        quic = ready.quic,
        http = ready.http,
        https = ready.https,
        admin = ready.admin,
        data_dir = ready.data_dir,
    );
    let default = std::path::Path::new(super::target::DATA_DIR);
    let is_default = std::fs::canonicalize(default)
        .is_ok_and(|path| path == std::path::Path::new(&ready.data_dir));
    let data_dir = if is_default {
        String::new()
    } else {
        format!(" --data-dir {}", ready.data_dir)
    };
    if let (Some(project), Some(api_key)) = (&ready.project, &ready.api_key) {
        text.push_str(&format!(
            "\nbe a device, in another terminal:\n\
             \n\
             \x20 petrel listen{data_dir} --topic news\n\
             \n\
             publish to all of them:\n\
             \n\
             \x20 petrel send{data_dir} --topic news --title Hello --body World\n\
             \n\
             \x20 curl {http}/v1/projects/{project}/messages:send \\\n\
             \x20   -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\\n\
             \x20   -d '{{\"message\":{{\"topic\":\"news\",\"notification\":{{\"title\":\"Hello\",\"body\":\"World\"}}}}}}'\n\
             \n\
             Ctrl-C ends it; nothing is lost.\n",
            http = ready.http,
        ));
    }
    text
}
