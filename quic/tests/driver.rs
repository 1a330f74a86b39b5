//! Real sockets on the loopback address, and a client of another make.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use petrel_quic::{
    App, BindError, CloseReason, ConnId, Driver, DriverConfig, Event, SendError, ShardCore, Stats,
    Turn, Waker, close_code,
    sim::{Identity, SERVER_NAME},
};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};

const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What a test tells the application on the shard.
enum Order {
    /// Send to every connection.
    Tell(Bytes),
    CloseAll(u32),
    /// Close all and stop in the same turn.
    Stop(u32),
}

/// Sends back what it hears, obeys orders, reports ends and timeouts.
struct Echo {
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
    outbox: HashMap<ConnId, VecDeque<Bytes>>,
    alarm: Option<Instant>,
}

#[derive(Debug, PartialEq)]
enum Report {
    Closed(CloseReason),
    Alarm,
}

impl Echo {
    fn send(&mut self, core: &mut ShardCore, conn: ConnId) {
        let Some(queue) = self.outbox.get_mut(&conn) else {
            return;
        };
        while let Some(bytes) = queue.pop_front() {
            if let Err(SendError::Full(bytes)) = core.send(conn, bytes) {
                queue.push_front(bytes);
                return;
            }
        }
    }
}

impl App for Echo {
    fn handle_event(&mut self, core: &mut ShardCore, _: Instant, event: Event) {
        match event {
            Event::Opened { conn, .. } => {
                self.outbox.insert(conn, VecDeque::new());
            }
            Event::Bytes { conn, bytes } => {
                self.outbox.entry(conn).or_default().push_back(bytes);
                self.send(core, conn);
            }
            Event::Writable { conn } => self.send(core, conn),
            Event::Closed { conn, reason } => {
                self.outbox.remove(&conn);
                let _ = self.reports.send(Report::Closed(reason));
            }
        }
    }

    fn handle_turn(&mut self, core: &mut ShardCore, _: Instant) -> Turn {
        let conns: Vec<ConnId> = self.outbox.keys().copied().collect();
        match self.orders.try_recv() {
            Ok(Order::Tell(bytes)) => {
                for conn in conns {
                    self.outbox
                        .entry(conn)
                        .or_default()
                        .push_back(bytes.clone());
                    self.send(core, conn);
                }
                Turn::Busy
            }
            Ok(Order::CloseAll(code)) => {
                conns
                    .into_iter()
                    .for_each(|conn| core.close(conn, code, b"as ordered"));
                Turn::Busy
            }
            Ok(Order::Stop(code)) => {
                conns
                    .into_iter()
                    .for_each(|conn| core.close(conn, code, b"stopping"));
                Turn::Stop
            }
            Err(mpsc::TryRecvError::Empty) => Turn::Idle,
            // The test is over, perhaps by a panic.
            Err(mpsc::TryRecvError::Disconnected) => Turn::Stop,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.alarm
    }

    fn handle_timeout(&mut self, _: &mut ShardCore, now: Instant) {
        assert!(self.alarm.take().is_some_and(|at| at <= now));
        let _ = self.reports.send(Report::Alarm);
    }
}

/// A shard on a thread of its own.
struct Server {
    identity: Identity,
    addr: SocketAddr,
    waker: Waker,
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    thread: JoinHandle<io::Result<Stats>>,
}

impl Server {
    fn start(alarm: Option<Duration>) -> Self {
        let identity = Identity::new();
        let driver = Driver::bind(LOCALHOST, &DriverConfig::new(identity.server_config())).unwrap();
        let (addr, waker) = (driver.local_addr(), driver.waker());
        assert!(driver.buffers().receive_bytes > 0 && driver.buffers().send_bytes > 0);
        let (orders, order_receiver) = mpsc::channel();
        let (report_sender, reports) = mpsc::channel();
        let echo = Echo {
            orders: order_receiver,
            reports: report_sender,
            outbox: HashMap::new(),
            alarm: alarm.map(|after| Instant::now() + after),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(driver.run(echo)).map(|(_, stats)| stats)
        });
        Self {
            identity,
            addr,
            waker,
            orders,
            reports,
            thread,
        }
    }

    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
        self.waker.wake();
    }

    fn report(&self) -> Report {
        self.reports.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn stop(self) -> Stats {
        self.order(Order::Stop(0));
        self.thread.join().unwrap().unwrap()
    }

    /// A connection of quinn's, with its stream.
    async fn connect(&self) -> (Endpoint, Connection, SendStream, RecvStream) {
        let tls =
            quinn::crypto::rustls::QuicClientConfig::try_from(self.identity.client_tls()).unwrap();
        let endpoint = Endpoint::client(LOCALHOST).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls));
        let conn = endpoint
            .connect_with(config, self.addr, SERVER_NAME)
            .unwrap()
            .await
            .unwrap();
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        recv.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        (endpoint, conn, send, recv)
    }
}

fn client<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .unwrap()
    })
}

fn application_close(error: ConnectionError) -> (u64, Vec<u8>) {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), close.reason.to_vec())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_quinn_client_exchanges_a_megabyte_and_closes() {
    let server = Server::start(None);
    client(async {
        let (endpoint, conn, mut send, mut recv) = server.connect().await;
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut heard = vec![0; sent.len()];
        let (written, read) = tokio::join!(send.write_all(&sent), recv.read_exact(&mut heard));
        written.unwrap();
        read.unwrap();
        assert!(sent == heard);
        conn.close(VarInt::from_u32(77), b"thanks");
        endpoint.wait_idle().await;
    });
    let reason = CloseReason::ByPeer {
        code: 77,
        reason: Bytes::from_static(b"thanks"),
    };
    assert_eq!(server.report(), Report::Closed(reason));
    let stats = server.stop();
    assert_eq!(
        (stats.connections, stats.handshakes_completed_total),
        (0, 1)
    );
    assert_eq!(stats.stream_bytes_received_total, 1_000_005);
    assert_eq!(stats.sends_failed_total, 0);
}

#[test]
fn a_sleeping_driver_wakes_for_orders_and_timers() {
    let server = Server::start(Some(Duration::from_millis(50)));
    client(async {
        let (_endpoint, conn, _send, mut recv) = server.connect().await;
        assert_eq!(server.report(), Report::Alarm);
        server.order(Order::Tell(Bytes::from_static(b"wake up")));
        let mut heard = [0; 7];
        recv.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"wake up");
        server.order(Order::CloseAll(12));
        assert_eq!(
            application_close(conn.closed().await),
            (12, b"as ordered".to_vec())
        );
    });
    assert_eq!(
        server.report(),
        Report::Closed(CloseReason::Local { code: 12 })
    );
    server.stop();
}

#[test]
fn stopping_tells_every_client() {
    let server = Server::start(None);
    client(async {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(server.connect().await);
        }
        server.order(Order::Stop(33));
        for (_, conn, ..) in &clients {
            assert_eq!(
                application_close(conn.closed().await),
                (33, b"stopping".to_vec())
            );
        }
    });
    let stats = server.thread.join().unwrap().unwrap();
    assert_eq!((stats.connections, stats.lingering), (0, 20));
}

#[test]
fn breaking_the_rule_of_one_stream_ends_the_connection() {
    let server = Server::start(None);
    client(async {
        let (_endpoint, conn, mut send, _recv) = server.connect().await;
        send.finish().unwrap();
        let code = close_code::STREAM_FINISHED;
        assert_eq!(application_close(conn.closed().await).0, u64::from(code));
        assert_eq!(
            server.report(),
            Report::Closed(CloseReason::BrokenRule { code })
        );

        let (_endpoint, conn, mut send, _recv) = server.connect().await;
        send.reset(VarInt::from_u32(1)).unwrap();
        let code = close_code::STREAM_RESET;
        assert_eq!(application_close(conn.closed().await).0, u64::from(code));
        assert_eq!(
            server.report(),
            Report::Closed(CloseReason::BrokenRule { code })
        );

        let (_endpoint, conn, _send, mut recv) = server.connect().await;
        recv.stop(VarInt::from_u32(1)).unwrap();
        let code = close_code::STREAM_STOPPED;
        assert_eq!(application_close(conn.closed().await).0, u64::from(code));
        assert_eq!(
            server.report(),
            Report::Closed(CloseReason::BrokenRule { code })
        );

        // More streams are not to be had at all (RFC 9000 §4.6). A stream that may be opened is opened at once, so
        // asking without waiting is enough.
        let (_endpoint, conn, _send, _recv) = server.connect().await;
        assert!(
            tokio::time::timeout(Duration::ZERO, conn.open_bi())
                .await
                .is_err()
        );
        assert!(
            tokio::time::timeout(Duration::ZERO, conn.open_uni())
                .await
                .is_err()
        );
        assert_eq!(conn.close_reason(), None);
        assert!(conn.max_datagram_size().is_none());
    });
    let stats = server.stop();
    assert_eq!(stats.rules_broken_total, 3);
}

#[test]
fn a_port_that_is_taken_is_said_to_be_taken() {
    let identity = Identity::new();
    let config = DriverConfig::new(identity.server_config());
    let first = Driver::bind(LOCALHOST, &config).unwrap();
    match Driver::bind(first.local_addr(), &config).err() {
        Some(BindError::Io { addr, source }) => {
            assert_eq!(
                (addr, source.kind()),
                (first.local_addr(), io::ErrorKind::AddrInUse)
            );
        }
        other => panic!("{other:?}"),
    }
}
