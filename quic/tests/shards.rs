//! Shards that share a port: clients of another make, on real sockets, that keep changing their address.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod servers;

use std::{
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use petrel_quic::{BindError, ConfigError, Driver, DriverConfig, Stats, Steering, sim::Identity};
use quinn::{Connection, Endpoint, RecvStream, SendStream};

use self::servers::{LOCALHOST, Servers, client, connect};

const CLIENTS: usize = 200;
const BYTES_PER_STEP: usize = 3000;

/// One device: a socket, a connection, its stream.
struct Device {
    endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    number: usize,
}

impl Device {
    /// Sends bytes that no other device and step has, and waits for all of them to come back.
    async fn exchange(&mut self, step: usize) {
        let sent: Vec<u8> = (0..BYTES_PER_STEP)
            .map(|n| (n * 7 + self.number * 31 + step * 13) as u8)
            .collect();
        let mut heard = vec![0; sent.len()];
        let (written, read) =
            tokio::join!(self.send.write_all(&sent), self.recv.read_exact(&mut heard));
        written.unwrap();
        read.unwrap();
        assert!(heard == sent, "device {} at step {step}", self.number);
    }

    /// Changes to another port, as a device does that comes by another network.
    fn change_address(&self) {
        let before = self.endpoint.local_addr().unwrap();
        self.endpoint
            .rebind(UdpSocket::bind(LOCALHOST).unwrap())
            .unwrap();
        assert_ne!(self.endpoint.local_addr().unwrap(), before);
    }

    async fn life(mut self, moves: usize) -> Self {
        self.exchange(0).await;
        for step in 1..=moves {
            self.change_address();
            self.exchange(step).await;
        }
        self
    }
}

fn resets(stats: &[Stats]) -> u64 {
    sum(stats, |s| s.resets_total + s.resets_suppressed_total)
}

/// The sum over all shards of what `of` picks.
fn sum(stats: &[Stats], of: impl Fn(&Stats) -> u64) -> u64 {
    stats.iter().map(of).sum()
}

/// Two hundred devices live on so many shards, and move so many times; what the shards counted. Every byte came back, and
/// no connection ended.
fn live(shards: u16, steering: Steering, moves: usize) -> Vec<Stats> {
    let servers = Servers::start(shards, |config| config.steering = steering);
    client(async {
        let mut lives = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            let (endpoint, connection, send, recv) = connect(&servers.identity, servers.addr).await;
            let device = Device {
                endpoint,
                connection,
                send,
                recv,
                number,
            };
            lives.spawn(device.life(moves));
        }
        for device in lives.join_all().await {
            assert_eq!(device.connection.close_reason(), None);
        }
    });
    let (stats, reports) = servers.stop();
    // Ended by the stop and by nothing before.
    assert_eq!(reports.len(), CLIENTS, "{reports:?}");
    for report in &reports {
        assert_eq!(report, "closed on this side with code 0");
    }
    let bytes = (CLIENTS * ((1 + moves) * BYTES_PER_STEP + 5)) as u64;
    assert_eq!(sum(&stats, |s| s.stream_bytes_received_total), bytes);
    assert_eq!(sum(&stats, |s| s.stream_bytes_sent_total), bytes);
    assert_eq!(sum(&stats, |s| s.handshakes_started_total), CLIENTS as u64);
    assert_eq!(
        sum(&stats, |s| s.handshakes_completed_total),
        CLIENTS as u64
    );
    assert_eq!(sum(&stats, |s| s.sends_failed_total), 0);
    stats
}

/// Connections fall on shards at random: each has its fair share, give or take six standard deviations.
fn assert_even(stats: &[Stats]) {
    let share = 1.0 / stats.len() as f64;
    let mean = CLIENTS as f64 * share;
    let slack = 6.0 * (mean * (1.0 - share)).sqrt();
    for one in stats {
        let count = one.handshakes_completed_total as f64;
        assert!((count - mean).abs() < slack, "{count} of {CLIENTS}");
    }
}

#[test]
fn devices_that_change_address_keep_their_connections() {
    for shards in [2, 3] {
        let stats = live(shards, Steering::ByKernel, 4);
        assert_even(&stats);
        assert_eq!(resets(&stats), 0);
        // The kernel chose right every time.
        assert_eq!(sum(&stats, |s| s.forwarded_total), 0);
        assert_eq!(sum(&stats, |s| s.handed_over_total), 0);
    }
}

/// What datagrams without the filter did: about all but one of as many as there are shards went astray.
fn assert_forwarded(stats: &[Stats]) {
    let received = sum(stats, |s| s.datagrams_received_total);
    let forwarded = sum(stats, |s| s.forwarded_total);
    let astray = 1.0 - 1.0 / stats.len() as f64;
    assert!(
        forwarded as f64 > 0.5 * astray * received as f64,
        "{forwarded} of {received}"
    );
    let handed_over = sum(stats, |s| s.handed_over_total);
    // What came after a shard's last turn is handed over to nobody.
    assert!(handed_over <= forwarded && handed_over > forwarded / 2);
}

/// Without the filter most datagrams reach the wrong shard's socket, and each would earn its connection a reset that the
/// client believes, if that shard's endpoint saw it.
#[test]
fn no_misrouted_datagram_resets_a_connection() {
    for shards in [2, 3] {
        let stats = live(shards, Steering::ByForwarding, 0);
        assert_even(&stats);
        assert_forwarded(&stats);
        assert_eq!(resets(&stats), 0);
    }
}

/// A device that moves retires its old connection ID (RFC 9000 §5.1.2). Without the filter that news comes by another
/// socket and can overtake the last packets with the old ID, as it can in any network. They earn a reset, from their own
/// shard, whose token the device has forgotten together with the ID (RFC 9000 §10.3.1). No connection is lost by it.
#[test]
fn devices_that_change_address_keep_their_connections_without_the_filter() {
    for shards in [2, 3] {
        let stats = live(shards, Steering::ByForwarding, 4);
        assert_even(&stats);
        assert_forwarded(&stats);
    }
}

#[test]
fn a_single_shard_of_a_group_has_the_port_alone() {
    let servers = Servers::start(1, |_| {});
    let config = DriverConfig::new(servers.identity.server_config());
    for shards in [1, 2] {
        assert_in_use(Driver::bind_group(servers.addr, &config, shards).err());
    }
    client(async {
        let (_endpoint, connection, ..) = connect(&servers.identity, servers.addr).await;
        assert_eq!(connection.close_reason(), None);
    });
    servers.stop();
}

fn assert_in_use(error: Option<BindError>) {
    match error {
        Some(BindError::Io { source, .. }) => {
            assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_group_is_refused_until_the_first_is_gone() {
    let identity = Identity::new();
    let config = DriverConfig::new(identity.server_config());
    let first = Driver::bind_group(LOCALHOST, &config, 2).unwrap();
    let addr = first[0].local_addr();
    for (index, driver) in first.iter().enumerate() {
        assert_eq!(driver.local_addr(), addr);
        assert_eq!(usize::from(driver.shard().index()), index);
        assert_eq!(driver.shard().count(), 2);
    }
    for shards in [1, 2, 3] {
        assert_in_use(Driver::bind_group(addr, &config, shards).err());
    }
    assert_in_use(Driver::bind(addr, &config).err());
    drop(first);
    assert!(Driver::bind_group(addr, &config, 2).is_ok());
}

#[test]
fn a_number_of_shards_that_cannot_be_is_refused() {
    let identity = Identity::new();
    let config = DriverConfig::new(identity.server_config());
    for shards in [0, 257] {
        match Driver::bind_group(LOCALHOST, &config, shards).err() {
            Some(BindError::Config(ConfigError::Shard { count, .. })) => assert_eq!(count, shards),
            other => panic!("{other:?}"),
        }
    }
}

/// The rest of a group serves on when one shard has stopped, although the kernel then numbers the sockets anew.
#[test]
fn a_shard_that_stops_takes_no_other_along() {
    let mut servers = Servers::start(3, |_| {});
    client(async {
        let mut devices = Vec::new();
        for number in 0..60 {
            let (endpoint, connection, send, recv) = connect(&servers.identity, servers.addr).await;
            devices.push(Device {
                endpoint,
                connection,
                send,
                recv,
                number,
            });
        }
        let (stats, ended) = servers.stop_one(0);
        assert_eq!(ended.len() as u64, stats.handshakes_completed_total);
        // Told by CONNECTION_CLOSE, which may be under way.
        let deadline = Instant::now() + Duration::from_secs(20);
        let closed = || {
            devices
                .iter()
                .filter(|d| d.connection.close_reason().is_some())
                .count()
        };
        while closed() < ended.len() && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(closed(), ended.len());
        let mut survivors = 0;
        for device in &mut devices {
            if device.connection.close_reason().is_none() {
                device.exchange(0).await;
                device.change_address();
                device.exchange(1).await;
                survivors += 1;
            }
        }
        assert_eq!(survivors + ended.len(), 60);
    });
    let (stats, _) = servers.stop();
    assert!(sum(&stats, |s| s.forwarded_total) > 0);
}

/// A socket that refuses two of three calls is back-pressure: everything arrives, and every datagram once.
#[test]
fn a_full_socket_loses_nothing() {
    let servers = Servers::start_with(
        2,
        |config| config.buffers.send_bytes = 4096,
        |driver| driver.starve(3),
    );
    let mut received = 0;
    client(async {
        let mut lives = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (endpoint, connection, send, recv) = connect(&servers.identity, servers.addr).await;
            let mut device = Device {
                endpoint,
                connection,
                send,
                recv,
                number,
            };
            lives.spawn(async move {
                for step in 0..20 {
                    device.exchange(step).await;
                }
                device
            });
        }
        for device in lives.join_all().await {
            assert_eq!(device.connection.close_reason(), None);
            received += device.connection.stats().udp_rx.datagrams;
        }
    });
    let (stats, _) = servers.stop();
    let sent = sum(&stats, |s| s.datagrams_sent_total);
    // Sent beyond that: what was on its way when the counts were read, and 20 closes.
    assert!(
        sent >= received && sent - received < 100,
        "{sent} {received}"
    );
    assert!(sum(&stats, |s| s.sends_blocked_total) > 100);
    assert_eq!(sum(&stats, |s| s.sends_failed_total), 0);
    let bytes = 20 * (20 * BYTES_PER_STEP + 5) as u64;
    assert_eq!(sum(&stats, |s| s.stream_bytes_sent_total), bytes);
}
