//! Devices on real networks: NATs that forget, devices that move, and what the SDK learns of it.

mod broker;
mod nat;

use std::time::{Duration, Instant};

use broker::{Session, TestBroker, disconnected, eventually, next_message, registered, within};
use nat::{Nat, Unknown};
use petrel_client::{
    Client, ClientBuilder, FileStorage, MemoryStorage, NetworkId, Socket, StartError,
};
use petrel_protocol::session::{BrokerEvent, Opening, StateChange, WelcomeTerms};

const AT_ONCE: Duration = Duration::ZERO;
const NEVER: Duration = Duration::from_secs(3600);

/// A client that reaches its broker through a network.
fn through(nat: &Nat, broker: &TestBroker) -> ClientBuilder {
    Client::builder(&nat.address.to_string())
        .ca_file(broker.ca())
        .project("demo")
        .app_key("app key")
}

/// Lets a device in whose keep-alives may be 3 s apart at most.
async fn admit(broker: &TestBroker) -> Session {
    let mut session = broker.accept().await;
    let terms = WelcomeTerms {
        keep_alive_seconds: 4,
        ..Session::terms()
    };
    let token = broker::token("token");
    let registers = matches!(session.opening, Opening::Register(_));
    session.admit(registers.then_some(&token), terms).await;
    session
}

#[tokio::test]
async fn a_device_that_moves_keeps_its_connection_and_is_back_after_one_round_trip() {
    const ONE_WAY: Duration = Duration::from_millis(200);
    const ROUND_TRIP: Duration = Duration::from_millis(400);
    let broker = TestBroker::start();
    let nat = Nat::start(broker.address, NEVER, ONE_WAY, Unknown::Bind).await;
    let device = through(&nat, &broker)
        .network("wifi")
        .storage(MemoryStorage::default());
    let (client, mut events) = device.start().unwrap();
    let mut session = broker.admit().await;
    registered(&mut events).await;
    session.deliver([1]).await;
    assert_eq!(next_message(&mut events).await.id.sequence, 1);
    assert_eq!(session.acks().await, [1]);

    let before = session.connection.remote_address();
    nat.leave_all();
    let moved_at = Instant::now();
    client.network_changed("cellular");
    let connection = session.connection.clone();
    eventually("the broker knows the new path", || {
        connection.remote_address() != before
    })
    .await;
    session.deliver([2]).await;
    // The very next event: nothing was disconnected in between.
    assert_eq!(next_message(&mut events).await.id.sequence, 2);
    let took = moved_at.elapsed();
    assert!(took >= ROUND_TRIP && took < ROUND_TRIP * 2, "{took:?}");
    // What announced the new path says nothing.
    match session.next().await {
        BrokerEvent::State(change) => assert_eq!(change, StateChange::default()),
        other => panic!("{other:?} instead of an empty state"),
    }
    assert_eq!(session.acks().await, [2]);
    eventually("the move is noted", || {
        client.network_stats().migrations == 1
    })
    .await;
    let stats = client.network_stats();
    assert_eq!((stats.network.as_str(), stats.paths_lost), ("cellular", 0));
    assert!(session.connection.close_reason().is_none());
}

#[tokio::test]
async fn a_path_that_does_not_come_back_is_left_within_seconds() {
    let broker = TestBroker::start();
    let nat = Nat::start(broker.address, NEVER, AT_ONCE, Unknown::Refuse).await;
    let device = through(&nat, &broker).storage(MemoryStorage::default());
    let (client, mut events) = device.start().unwrap();
    let _session = broker.admit().await;
    registered(&mut events).await;
    nat.leave_all();
    let moved_at = Instant::now();
    client.network_changed("cellular");
    let (cause, retry_in) = disconnected(&mut events).await;
    let took = moved_at.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert_eq!((cause.code(), retry_in), ("connection_lost", AT_ONCE));
    let session = broker.admit().await;
    assert_eq!(session.hello().token.as_str(), "token");
    assert!(registered(&mut events).await.1, "resumed");
    // Moving is no silence: nothing was learnt of it.
    let stats = client.network_stats();
    assert_eq!(
        (stats.interval, stats.paths_lost),
        (Duration::from_secs(30), 0)
    );
}

#[tokio::test]
async fn a_change_during_an_attempt_begins_it_again() {
    let broker = TestBroker::start();
    let nat = Nat::start(broker.address, NEVER, AT_ONCE, Unknown::Lose).await;
    let (client, mut events) = through(&nat, &broker)
        .connect_timeout(NEVER)
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    eventually("the first attempt", || nat.devices_lost() == 1).await;
    nat.treat_unknown(Unknown::Bind);
    client.network_changed("cellular");
    let _session = broker.admit().await;
    assert_eq!(registered(&mut events).await.0, "token");
}

#[tokio::test]
async fn many_on_one_socket_move_together() {
    let broker = TestBroker::start();
    let socket = Socket::bind_to("127.0.0.1:0".parse().unwrap()).unwrap();
    let before = socket.local_addr().unwrap();
    let mut devices = Vec::new();
    let mut sessions = Vec::new();
    for _ in 0..5 {
        let device = broker
            .device()
            .socket(&socket)
            .storage(MemoryStorage::default());
        devices.push(device.start().unwrap());
        sessions.push(broker.admit().await);
    }
    for (client, events) in &mut devices {
        registered(events).await;
        client.network_changed("cellular");
    }
    for (client, _) in &devices {
        eventually("the move is noted", || {
            client.network_stats().migrations == 1
        })
        .await;
    }
    let after = socket.local_addr().unwrap();
    assert_ne!(after, before);
    for (n, session) in (0..).zip(&mut sessions) {
        eventually("the move", || session.connection.remote_address() == after).await;
        session.deliver([n]).await;
    }
    for (_, events) in &mut devices {
        next_message(events).await;
    }
}

/// The NAT makes a new binding for a keep-alive that comes too late, and the broker follows: the connection lives, and
/// only the challenge to the new address tells that the device was out of reach.
#[tokio::test]
async fn the_interval_settles_below_what_a_nat_forgets_after_and_survives_a_restart() {
    const FORGETS: Duration = Duration::from_secs(1);
    let broker = TestBroker::start();
    let nat = Nat::start(broker.address, FORGETS, AT_ONCE, Unknown::Bind).await;
    let device = |network: &str| {
        through(&nat, &broker)
            .keep_alive_start(FORGETS / 2)
            .network(network)
            .storage(FileStorage::open(broker.state()).unwrap())
    };
    let (client, mut events) = device("home").start().unwrap();
    let mut session = admit(&broker).await;
    registered(&mut events).await;
    eventually("the interval was too long once", || {
        client.network_stats().paths_lost > 0
    })
    .await;
    assert!(nat.bindings_made() > 1);
    within("three keep-alives in a row on one binding", async {
        loop {
            let (bindings, answered) = (
                nat.bindings_made(),
                client.network_stats().keep_alives_answered,
            );
            eventually("keep-alives", || {
                client.network_stats().keep_alives_answered >= answered + 3
            })
            .await;
            if nat.bindings_made() == bindings {
                break;
            }
        }
    })
    .await;
    let learnt = client.network_stats();
    assert!(learnt.interval < FORGETS, "{learnt:?}");
    assert!(learnt.interval > FORGETS / 6, "above the floor: {learnt:?}");
    assert_eq!(learnt.interval_max, Duration::from_secs(3));
    assert!(
        session.connection.close_reason().is_none(),
        "one connection all along"
    );
    tokio::join!(client.close(), session.goodbye());
    drop((client, events));

    let (client, _events) = device("train").start().unwrap();
    eventually("the task is up", || {
        client.network_stats().network.as_str() == "train"
    })
    .await;
    assert_eq!(
        client.network_stats().interval,
        FORGETS / 2,
        "another network, not known yet"
    );
    let _session = admit(&broker).await;
    client.network_changed(NetworkId::new("home"));
    eventually("back at home", || {
        client.network_stats().network.as_str() == "home"
    })
    .await;
    assert_eq!(client.network_stats().interval, learnt.interval);
}

/// A firewall that forgets answers nothing: the connection is dead, and another one shows that silence was to blame.
#[tokio::test]
async fn a_path_that_silence_killed_is_found_out_and_halves_the_interval() {
    const FORGETS: Duration = Duration::from_secs(1);
    let broker = TestBroker::start();
    let nat = Nat::start(broker.address, FORGETS, AT_ONCE, Unknown::Refuse).await;
    let (client, mut events) = through(&nat, &broker)
        .keep_alive_start(FORGETS * 2)
        .answer_timeout(Duration::from_secs(1))
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let _session = admit(&broker).await;
    registered(&mut events).await;
    let welcomed_at = Instant::now();
    let (cause, retry_in) = disconnected(&mut events).await;
    let took = welcomed_at.elapsed();
    assert!(took >= FORGETS * 2 && took < FORGETS * 6, "{took:?}");
    assert_eq!((cause.code(), retry_in), ("connection_lost", AT_ONCE));
    assert!(
        cause.to_string().contains("after a silence of 2 s"),
        "{cause}"
    );
    let _session = admit(&broker).await;
    assert!(registered(&mut events).await.1, "resumed");
    let stats = client.network_stats();
    assert_eq!((stats.interval, stats.paths_lost), (FORGETS, 1));
}

/// The network was away, not the path forgotten: nothing to learn from that.
#[tokio::test]
async fn a_network_that_is_gone_teaches_nothing() {
    let broker = TestBroker::start();
    let nat = Nat::start(broker.address, NEVER, AT_ONCE, Unknown::Bind).await;
    let (client, mut events) = through(&nat, &broker)
        .keep_alive_start(Duration::from_secs(2))
        .answer_timeout(Duration::from_secs(1))
        .connect_timeout(Duration::from_secs(1))
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let _session = admit(&broker).await;
    registered(&mut events).await;
    nat.leave_all();
    let (cause, _) = disconnected(&mut events).await;
    assert_eq!(cause.code(), "connection_lost");
    let (cause, _) = disconnected(&mut events).await;
    assert_eq!(cause.code(), "no_answer");
    client.network_changed(NetworkId::default());
    let _session = admit(&broker).await;
    loop {
        if let petrel_client::Event::Registered { resumed, .. } = broker::next(&mut events).await {
            break assert!(resumed);
        }
    }
    let stats = client.network_stats();
    assert_eq!(
        (stats.interval, stats.paths_lost),
        (Duration::from_secs(2), 0)
    );
}

#[tokio::test]
async fn the_cost_of_an_idle_hour_is_reported() {
    let broker = TestBroker::start();
    let (client, mut events) = broker
        .device()
        .keep_alive(Duration::from_secs(1))
        .storage(MemoryStorage::default())
        .start()
        .unwrap();
    let _session = broker.admit().await;
    registered(&mut events).await;
    eventually("four keep-alives", || {
        client.network_stats().keep_alives_answered >= 4
    })
    .await;
    let stats = client.network_stats();
    assert_eq!(stats.interval, Duration::from_secs(1));
    assert!(stats.keep_alives_sent >= stats.keep_alives_answered);
    let hour = stats.idle_hour.expect("measured");
    assert!(hour.measured >= Duration::from_secs(3), "{hour:?}");
    // One burst each second at most; a busy machine makes it fewer.
    assert!(hour.wake_ups > 1800.0 && hour.wake_ups < 4200.0, "{hour:?}");
    // A packet each way, and now and then one that a busy machine made QUIC repeat. 20 bytes would be less than its
    // header and its tag, 100 more than it has to say.
    for (bytes, datagrams) in [
        (hour.bytes_sent, hour.datagrams_sent),
        (hour.bytes_received, hour.datagrams_received),
    ] {
        assert!(
            (1.0..4.0).contains(&(datagrams / hour.wake_ups)),
            "{hour:?}"
        );
        assert!((20.0..100.0).contains(&(bytes / datagrams)), "{hour:?}");
    }
}

#[tokio::test]
async fn settings_are_checked_at_their_limits_and_one_past_them() {
    let broker = TestBroker::start();
    let check = |device: ClientBuilder, expect: Option<&str>| {
        let refused = match device.storage(MemoryStorage::default()).start() {
            Ok(_) => None,
            Err(StartError::Invalid { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(refused, expect);
    };
    let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
    for (limit, past) in [(second, second - ms), (NEVER, NEVER + ms)] {
        check(broker.device().keep_alive(limit), None);
        check(broker.device().keep_alive(past), Some("keep_alive"));
    }
    for (limit, past) in [(100 * ms, 99 * ms), (NEVER, NEVER + ms)] {
        check(broker.device().keep_alive_start(limit), None);
        check(
            broker.device().keep_alive_start(past),
            Some("keep_alive_start"),
        );
    }
    for (limit, past) in [(second, second - ms), (60 * second, 60 * second + ms)] {
        check(broker.device().answer_timeout(limit), None);
        check(broker.device().answer_timeout(past), Some("answer_timeout"));
    }
}
