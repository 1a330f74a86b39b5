//! A server, a few clients with one connection each, and an application at every end that checks what it hears and
//! keeps what it was told.

mod apps;
mod script;

use std::{thread, time::Duration};

use petrel_quic::{
    ClientSetup, ConnId, Engine,
    sim::{HostId, Identity, Inside, Link, Sim},
};

use self::apps::{Apps, Line};
pub(crate) use self::{
    apps::{Rest, Told},
    script::{Action, Moves, Round, Weather, crossing, rounds},
};
use crate::common::Engines;

/// The ends of a line.
pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// How long whatever is under way may take to arrive.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// One run of a script.
pub(crate) struct World {
    pub(crate) sim: Sim,
    server: HostId,
    identity: Identity,
    engines: Engines,
    setup: ClientSetup,
    apps: Apps,
    /// Updates begun by a resident engine.
    pub(crate) key_updates: u64,
    /// Connections that were handed over at shards that are no more.
    residents_before: u64,
    /// Said when something fails.
    name: String,
}

impl World {
    pub(crate) fn new(
        name: &str,
        seed: u64,
        identity: &Identity,
        engines: Engines,
        lines: usize,
    ) -> Self {
        let mut sim = Sim::new(seed, Link::GOOD);
        let start = sim.now();
        let server = sim.add_host(&engines.server_config(identity));
        let client = |_| sim.add_host(&engines.client_config(identity));
        let apps = Apps::new(start, server, (0..lines).map(client));
        Self {
            sim,
            server,
            identity: identity.clone(),
            engines,
            setup: identity.client_setup(),
            apps,
            key_updates: 0,
            residents_before: 0,
            name: format!("{name}, {engines:?}"),
        }
    }

    /// Connects all lines, and waits until their servers' ends are open. In bad weather a handshake may take longer than
    /// it may, and the client tries again.
    pub(crate) fn connect_all(&mut self) {
        let is_open = |line: &Line| line.ends[SERVER].conn.is_some();
        while !self.apps.lines.iter().all(is_open) {
            for line in 0..self.apps.lines.len() {
                let end = &mut self.apps.lines[line].ends[CLIENT];
                if end.conn.is_none() {
                    end.told.clear();
                    self.act(&Action::Connect { line });
                }
            }
            self.run_for(Duration::from_millis(1));
        }
    }

    /// Lets time pass, in which the applications do what they have to.
    pub(crate) fn run_for(&mut self, duration: Duration) {
        let apps = &mut self.apps;
        self.sim.run_for_with(duration, |sim| apps.pump(sim));
    }

    pub(crate) fn perform(&mut self, round: &Round) {
        for (pause, action) in &round.actions {
            self.run_for(*pause);
            self.act(action);
        }
    }

    pub(crate) fn act(&mut self, action: &Action) {
        match *action {
            Action::Connect { line } => self.connect(line),
            Action::Send { line, end, bytes } => self.apps.lines[line].make(line, end, bytes),
            Action::Rebind { line } => {
                self.sim.rebind(self.apps.lines[line].host);
                self.ping(line);
            }
            Action::Restart => {
                self.residents_before += self.sim.core(self.server).stats().residents_total;
                let config = self.engines.server_config(&self.identity);
                self.sim.restart(self.server, &config);
                self.apps.forget_server();
            }
            Action::Weather(weather) => {
                let link = weather.link();
                for host in self.hosts() {
                    self.sim.set_link(host, link);
                }
            }
            Action::Ping { line, end } => self.on(line, end, |sim, host, conn| {
                sim.core(host).ping(conn);
            }),
            Action::UpdateKeys { line, end } => {
                let mut is_begun = false;
                self.on(line, end, |sim, host, conn| {
                    is_begun = sim.core(host).update_keys(conn);
                });
                self.key_updates += u64::from(is_begun);
            }
            Action::Pause { line, end } => self.pause(line, end, true),
            Action::Resume { line, end } => self.pause(line, end, false),
            Action::Close { line, end, code } => self.on(line, end, |sim, host, conn| {
                sim.core(host).close(conn, code, b"as the script says");
            }),
        }
        self.run_for(Duration::ZERO);
    }

    /// Waits until everything accepted has arrived at every connection, whose readers go on if they paused. As devices
    /// do, clients speak up now and then.
    pub(crate) fn settle(&mut self) {
        for line in 0..self.apps.lines.len() {
            self.pause(line, CLIENT, false);
            self.pause(line, SERVER, false);
        }
        let start = self.sim.now();
        while !self.apps.lines.iter().all(Line::is_settled) {
            assert!(
                self.sim.now() - start < PATIENCE,
                "something never arrives: {:#?}",
                self.apps.lines
            );
            self.run_for(Duration::from_secs(5));
            for line in 0..self.apps.lines.len() {
                self.ping(line);
            }
        }
        // Time for acknowledgements.
        self.run_for(Duration::from_secs(5));
    }

    /// What the applications were told since this was last asked, client and server of each line.
    pub(crate) fn take_told(&mut self) -> Vec<[Vec<Told>; 2]> {
        let lines = self.apps.lines.iter_mut();
        lines
            .map(|line| {
                line.ends
                    .each_mut()
                    .map(|end| std::mem::take(&mut end.told))
            })
            .collect()
    }

    /// The hand-overs of one client and its server, as far as an application was there.
    pub(crate) fn rests(&self) -> impl Iterator<Item = Rest> {
        self.apps.lines[0].ends.iter().filter_map(|end| end.rest)
    }

    /// Connections that were handed over so far, at the server and at all clients.
    pub(crate) fn handed_over(&mut self) -> [u64; 2] {
        let server = self.sim.core(self.server).stats().residents_total + self.residents_before;
        let clients = self.apps.lines.iter();
        let clients = clients.map(|l| self.sim.core(l.host).stats().residents_total);
        let total = [clients.sum(), server];
        for (total, engine) in total.iter().zip([self.engines.client, self.engines.server]) {
            assert!(*total == 0 || engine == Engine::Resident);
        }
        total
    }

    /// Connections that are resident now, at the server and at all clients.
    pub(crate) fn residents(&self) -> [usize; 2] {
        let clients = self.apps.lines.iter();
        [
            clients.map(|l| self.sim.inside(l.host).residents).sum(),
            self.sim.inside(self.server).residents,
        ]
    }

    /// Key updates that resident engines took part in, whoever began them.
    pub(crate) fn key_updates_seen(&mut self) -> u64 {
        let hosts = self.hosts();
        hosts.map(|h| self.sim.core(h).key_updates()).sum()
    }

    /// Closes what is open, waits for the end, and looks whether anything is left.
    pub(crate) fn finish(mut self) {
        self.act(&Action::Weather(Weather::Good));
        for line in 0..self.apps.lines.len() {
            let (end, code) = (line % 2, 1);
            self.act(&Action::Close { line, end, code });
        }
        while self.sim.step() {
            self.apps.pump(&mut self.sim);
        }
        for line in &self.apps.lines {
            for end in &line.ends {
                assert_eq!(end.conn, None, "told of the end");
            }
        }
        for host in self.hosts() {
            assert_eq!(self.sim.inside(host), Inside::default());
            let stats = self.sim.core(host).stats();
            let gauges = [stats.connections, stats.residents, stats.lingering];
            assert_eq!(gauges, [0; 3]);
            assert_eq!((stats.handshakes, stats.connecting), (0, 0));
            assert_eq!((stats.remainder_bytes, stats.event_bytes), (0, 0));
        }
    }

    fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        let lines: Vec<_> = self.apps.lines.iter().map(|l| l.host).collect();
        std::iter::once(self.server).chain(lines)
    }

    fn connect(&mut self, line: usize) {
        let host = self.apps.lines[line].host;
        let end = &mut self.apps.lines[line].ends[CLIENT];
        if end.conn.is_some() {
            return;
        }
        let conn = self.sim.connect(host, self.server, &self.setup);
        end.begin(conn);
        // The client speaks first.
        self.apps.lines[line].make(line, CLIENT, 1);
    }

    fn ping(&mut self, line: usize) {
        self.on(line, CLIENT, |sim, host, conn| sim.core(host).ping(conn));
    }

    fn pause(&mut self, line: usize, end: usize, is_paused: bool) {
        self.on(line, end, |sim, host, conn| {
            sim.core(host).pause_reading(conn, is_paused);
        });
    }

    fn on(&mut self, line: usize, end: usize, act: impl FnOnce(&mut Sim, HostId, ConnId)) {
        let Line { host, ends } = &self.apps.lines[line];
        let host = [*host, self.server][end];
        if let Some(conn) = ends[end].conn {
            act(&mut self.sim, host, conn);
        }
    }
}

impl Drop for World {
    #[allow(clippy::print_stderr, reason = "a failure says how to repeat it")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("this was {}", self.name);
        }
    }
}
