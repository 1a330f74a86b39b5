//! The process of the server. It ends when its standard input does: with this handle, and with this process.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustls::pki_types::CertificateDer;

use crate::{
    Form,
    wire::{self, Kind, Order},
};

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server in a process of its own.
pub(crate) struct Server {
    child: Child,
    /// `None` from the moment that it shall end.
    orders: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
    pub(crate) addr: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Server {
    pub(crate) fn start(form: Form) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--serve", form.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the server")?;
        let orders = child.stdin.take();
        let answers = read(child.stdout.take().context("it was asked for")?)?;
        let ready = answers.recv_timeout(PATIENCE);
        let (addr, certificate) = match ready {
            Ok(line) => wire::parse_ready(&line)?,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error).context("the server did not start");
            }
        };
        Ok(Self {
            child,
            orders,
            answers,
            addr,
            certificate,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends to some connections, until the last of it has left.
    pub(crate) fn send(&mut self, kind: Kind, first: usize, count: usize) -> Result<()> {
        let answer = self.ask(Order::Send { kind, first, count })?;
        anyhow::ensure!(answer == wire::SENT, "the server said {answer:?}");
        Ok(())
    }

    /// Datagrams sent and received so far.
    pub(crate) fn datagrams(&mut self) -> Result<(u64, u64)> {
        wire::parse_datagrams(&self.ask(Order::Datagrams)?)
    }

    fn ask(&mut self, order: Order) -> Result<String> {
        let orders = self.orders.as_mut().context("the server is ending")?;
        writeln!(orders, "{order}").context("the server has ended")?;
        self.answers
            .recv_timeout(PATIENCE)
            .context("the server does not answer")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        // Connections that are told of the end take their time; nobody is left to hear it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines, from a thread, so that waiting for one can have an end.
fn read(stdout: ChildStdout) -> Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("answers".into())
        .spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
    Ok(lines)
}
