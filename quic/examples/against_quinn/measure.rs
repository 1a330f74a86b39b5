//! One form of server from its start to its end.
//!
//! A broadcast goes out in waves, each to the next few connections; two kinds of it are measured.
//!
//! *Held*: while a wave is being sent the clients are held, so that what the server uses is for sending alone; then they
//! are released, and the next wave goes when all is quiet again. *Free*: a wave goes as soon as the clients have heard
//! most of the last one, so that sending and receiving mix as they do in earnest, and everything counts until the last
//! acknowledgement. Waves are small, so that nobody takes them for lost and sends again, and no socket is ever full.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::{
    Form,
    child::Server,
    clients::Clients,
    proc,
    wire::{DELIVERY_BYTES, Kind},
};

/// Connections in a wave.
const WAVE: usize = 250;

/// Deliveries that may be on the way when the next wave goes.
const UNHEARD_MAX: usize = 500;

/// From the word of the server that all is sent until it sleeps for certain.
const ASLEEP: Duration = Duration::from_millis(2);

/// The clients' transport holds acknowledgements back for 25 ms at the most.
const HEARD: Duration = Duration::from_millis(70);

/// The servers' for up to 250 ms (RFC 9000 §18.2).
const QUIET: Duration = Duration::from_millis(400);

/// jemalloc gives memory back within 10 s of its last use, as the broker has it.
const MEMORY_RESTS: Duration = Duration::from_secs(11);

/// How long a step may take on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_PER_CONNECTION: Duration = Duration::from_millis(20);

/// What was measured of one form.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) form: Form,
    pub(crate) memory: Memory,
    /// Server CPU of a handshake, up to the answer to the first message: over all connections.
    pub(crate) handshake_us: f64,
    /// Sending a broadcast while nothing comes back.
    pub(crate) send: Broadcast,
    /// A broadcast that only the transport acknowledges, with those acknowledgements.
    pub(crate) transport_acked: Broadcast,
    /// A broadcast that each client acknowledges in the application at once, with all that follows.
    pub(crate) application_acked: Broadcast,
    /// Cores that other programs kept busy meanwhile, on average.
    pub(crate) others_cores: f64,
}

/// Memory over connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    /// Slope of the line through the points (least squares).
    pub(crate) bytes_per_connection: f64,
    /// Largest distance of a point from the line, in bytes.
    pub(crate) residual_bytes: f64,
    /// Connections, bytes of the process.
    pub(crate) points: Vec<(u32, u64)>,
}

/// Medians over rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Broadcast {
    pub(crate) median: Round,
    pub(crate) rounds: Vec<Round>,
}

/// One broadcast to everyone: for each delivery, server CPU and datagrams. Of a held one the datagrams include the
/// answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) cpu_us: f64,
    pub(crate) packets_sent: f64,
    pub(crate) packets_received: f64,
}

/// Measures one form of server.
pub(crate) fn run(form: Form, connections: u32, rounds: u32) -> Result<Figures> {
    let began = Instant::now();
    let (busy, own) = (proc::busy(), proc::cpu(std::process::id())?);
    let server = Server::start(form)?;
    let clients = Clients::start(server.addr, server.certificate.clone())?;
    let mut handshakes = Duration::ZERO;
    let mut points = Vec::new();
    for count in [connections / 4, connections / 2, connections] {
        let before = proc::cpu(server.pid())?;
        clients.connect(count, PATIENCE + PATIENCE_PER_CONNECTION * count)?;
        sleep(QUIET);
        handshakes += proc::cpu(server.pid())?.saturating_sub(before);
        sleep(MEMORY_RESTS);
        points.push((count, proc::memory(server.pid())?));
    }
    let mut run = Run {
        server,
        clients,
        connections,
    };
    // Once without counting, so that round trips are known and memory is warm.
    run.round(|run| run.free(Kind::Answered))?;
    let send = run.rounds(rounds, Run::held)?;
    let transport_acked = run.rounds(rounds, |run| run.free(Kind::Quiet))?;
    let application_acked = run.rounds(rounds, |run| run.free(Kind::Answered))?;
    let own = proc::cpu(std::process::id())?.saturating_sub(own);
    let ours = own + proc::cpu(run.server.pid())?;
    let others = proc::busy().saturating_sub(busy).saturating_sub(ours);
    Ok(Figures {
        form,
        memory: memory(points),
        handshake_us: us_each(handshakes, connections),
        send,
        transport_acked,
        application_acked,
        others_cores: others.as_secs_f64() / began.elapsed().as_secs_f64(),
    })
}

/// A server and its clients, all connected.
struct Run {
    server: Server,
    clients: Clients,
    connections: u32,
}

impl Run {
    fn rounds(
        &mut self,
        count: u32,
        broadcast: impl Fn(&mut Self) -> Result<Duration>,
    ) -> Result<Broadcast> {
        let rounds = (0..count)
            .map(|_| self.round(&broadcast))
            .collect::<Result<Vec<_>>>()?;
        let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
        Ok(Broadcast {
            median: Round {
                cpu_us: middle(|round| round.cpu_us),
                packets_sent: middle(|round| round.packets_sent),
                packets_received: middle(|round| round.packets_received),
            },
            rounds,
        })
    }

    /// A broadcast that tells how much CPU it took, and the datagrams around it.
    fn round(&mut self, broadcast: impl Fn(&mut Self) -> Result<Duration>) -> Result<Round> {
        let before = self.server.datagrams()?;
        let used = broadcast(self)?;
        sleep(QUIET);
        let after = self.server.datagrams()?;
        let deliveries = f64::from(self.connections);
        let sent = (after.0 - before.0) as f64 / deliveries;
        ensure!(sent >= 1.0, "fewer datagrams than deliveries");
        Ok(Round {
            cpu_us: us_each(used, self.connections),
            packets_sent: sent,
            packets_received: (after.1 - before.1) as f64 / deliveries,
        })
    }

    /// Sends while nobody answers, and counts only that.
    fn held(&mut self) -> Result<Duration> {
        let pid = self.server.pid();
        let mut used = Duration::ZERO;
        for (first, count) in self.waves() {
            let heard = self.clients.heard_bytes();
            self.clients.hold();
            let before = proc::cpu(pid)?;
            self.server.send(Kind::Quiet, first, count)?;
            sleep(ASLEEP);
            used += proc::cpu(pid)?.saturating_sub(before);
            self.clients.release();
            let wave_bytes = (count * DELIVERY_BYTES) as u64;
            self.clients.hear(heard + wave_bytes, PATIENCE)?;
            sleep(HEARD);
        }
        Ok(used)
    }

    /// Sends as the clients can take it, and counts everything until all is quiet.
    fn free(&mut self, kind: Kind) -> Result<Duration> {
        let pid = self.server.pid();
        let before = proc::cpu(pid)?;
        let heard = self.clients.heard_bytes();
        let mut sent_bytes = 0;
        for (first, count) in self.waves() {
            self.server.send(kind, first, count)?;
            sent_bytes += (count * DELIVERY_BYTES) as u64;
            let on_the_way = (UNHEARD_MAX * DELIVERY_BYTES) as u64;
            let wanted = heard + sent_bytes.saturating_sub(on_the_way);
            self.clients.hear(wanted, PATIENCE)?;
        }
        self.clients.hear(heard + sent_bytes, PATIENCE)?;
        sleep(QUIET);
        Ok(proc::cpu(pid)?.saturating_sub(before))
    }

    /// First connection and number of connections of each.
    fn waves(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let total = self.connections as usize;
        (0..total)
            .step_by(WAVE)
            .map(move |first| (first, WAVE.min(total - first)))
    }
}

fn us_each(used: Duration, count: u32) -> f64 {
    used.as_secs_f64() * 1e6 / f64::from(count)
}

/// The middle one; of an even number the mean of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

/// Least squares around the means, so that large numbers do not cancel each other.
fn memory(points: Vec<(u32, u64)>) -> Memory {
    let xy: Vec<(f64, f64)> = points
        .iter()
        .map(|&(count, bytes)| (f64::from(count), bytes as f64))
        .collect();
    let n = xy.len() as f64;
    let mean_x = xy.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = xy.iter().map(|(_, y)| y).sum::<f64>() / n;
    let sum_xx: f64 = xy.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let sum_xy: f64 = xy.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let slope = sum_xy / sum_xx;
    let distance = |(x, y): &(f64, f64)| (y - mean_y - slope * (x - mean_x)).abs();
    Memory {
        bytes_per_connection: slope,
        residual_bytes: xy.iter().map(distance).fold(0.0, f64::max),
        points,
    }
}
