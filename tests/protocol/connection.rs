//! Connection: PROTO-1 to PROTO-4.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use petrel_protocol::wire::to_broker;
use petrel_quic::close_code;
use quinn::{SendDatagramError, VarInt};
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;

use crate::DEFAULTS;
use crate::common::{
    Api, Broker, Closed, RawDevice, SERVER_NAME, Wire, connect, endpoint, eventually, tls, within,
};

/// TLS alert `no_application_protocol` (RFC 7301) as a QUIC error (RFC 9001 section 4.8).
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

/// PROTO-1: a handshake that does not offer `petrel/1` is refused.
#[tokio::test]
async fn a_handshake_without_our_alpn_is_refused() {
    let broker = DEFAULTS.broker();
    for alpn in ["petrel/2", "petrel", "h3", "Petrel/1"] {
        let refused = connect(&broker, alpn.as_bytes(), |_| {}).await.unwrap_err();
        assert_eq!(
            Closed::from(refused),
            Closed::Transport(NO_APPLICATION_PROTOCOL),
            "{alpn}"
        );
    }
    let mut none = tls(&broker);
    none.alpn_protocols.clear();
    let endpoint = endpoint(none, |_| {});
    let connecting = endpoint.connect(broker.ready.quic, SERVER_NAME).unwrap();
    let refused = within("a refusal", connecting).await.unwrap_err();
    assert_eq!(
        Closed::from(refused),
        Closed::Transport(NO_APPLICATION_PROTOCOL)
    );
}

/// Remembers what the tickets of a broker allow.
#[derive(Debug)]
struct Tickets {
    cache: ClientSessionMemoryCache,
    early_bytes_max: Mutex<Vec<u32>>,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(name, group);
    }
    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache.kx_hint(name)
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut seen = self.early_bytes_max.lock().unwrap();
        seen.push(ticket.max_early_data_size());
        self.cache.insert_tls13_ticket(name, ticket);
    }
    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cache.take_tls13_ticket(name)
    }
}

/// PROTO-1: tickets allow no early data, and a client that wants to send some cannot.
#[tokio::test]
async fn early_data_is_refused() {
    let broker = DEFAULTS.broker();
    let tickets = Arc::new(Tickets {
        cache: ClientSessionMemoryCache::new(8),
        early_bytes_max: Mutex::default(),
    });
    let mut tls = tls(&broker);
    tls.resumption = Resumption::store(tickets.clone());
    tls.enable_early_data = true;
    let endpoint = endpoint(tls, |_| {});
    let connecting = endpoint.connect(broker.ready.quic, SERVER_NAME).unwrap();
    let first = within("a connection", connecting).await.unwrap();
    eventually("a ticket", async || {
        !tickets.early_bytes_max.lock().unwrap().is_empty()
    })
    .await;
    assert!(
        tickets
            .early_bytes_max
            .lock()
            .unwrap()
            .iter()
            .all(|&bytes| bytes == 0)
    );
    first.close(VarInt::from_u32(0), b"");
    let connecting = endpoint.connect(broker.ready.quic, SERVER_NAME).unwrap();
    assert!(
        connecting.into_0rtt().is_err(),
        "no early data with that ticket"
    );
}

/// PROTO-2: beside the one stream nothing is granted: no second one, no unidirectional one, no datagrams.
#[tokio::test]
async fn nothing_but_one_stream_is_granted() {
    let broker = DEFAULTS.broker();
    let mut device = RawDevice::register(&broker).await;
    for _ in 0..3 {
        // Whatever the broker would grant it has granted after some round trips.
        device.round_trip().await;
        let connection = &device.wire.connection;
        let second = tokio::time::timeout(Duration::ZERO, connection.open_bi()).await;
        assert!(second.is_err(), "a second stream was granted");
        let uni = tokio::time::timeout(Duration::ZERO, connection.open_uni()).await;
        assert!(uni.is_err(), "a unidirectional stream was granted");
        assert_eq!(connection.max_datagram_size(), None);
        let sent = connection.send_datagram("hello".into());
        assert_eq!(sent, Err(SendDatagramError::UnsupportedByPeer));
    }
    device.goodbye().await;
}

/// What a device may do to its stream and should not.
#[derive(Clone, Copy, Debug)]
enum Sin {
    Finish,
    Reset,
    Stop,
}

/// PROTO-3: a device that ends its stream in any way is closed, before it is admitted as well as after; its registration
/// is as it was. The codes are those of the transport.
#[tokio::test]
async fn a_device_that_ends_its_stream_is_closed() {
    let broker = DEFAULTS.broker();
    for (sin, code) in [
        (Sin::Finish, close_code::STREAM_FINISHED),
        (Sin::Reset, close_code::STREAM_RESET),
        (Sin::Stop, close_code::STREAM_STOPPED),
    ] {
        let commit = |wire: &mut Wire| match sin {
            Sin::Finish => wire.send.finish().unwrap(),
            Sin::Reset => wire.send.reset(VarInt::from_u32(7)).unwrap(),
            Sin::Stop => wire.recv.stop(VarInt::from_u32(7)).unwrap(),
        };
        let mut device = RawDevice::register(&broker).await;
        commit(&mut device.wire);
        let closed = device.wire.closed().await;
        assert!(
            matches!(closed, Closed::Application(is, _) if is == u64::from(code)),
            "{sin:?}: {closed:?}"
        );

        let mut stranger = Wire::open(&broker).await;
        stranger.send(&[100]).await;
        commit(&mut stranger);
        let closed = stranger.closed().await;
        assert!(
            matches!(closed, Closed::Application(is, _) if is == u64::from(code)),
            "{sin:?}: {closed:?}"
        );

        device.again(&broker).await.goodbye().await;
    }
}

/// PROTO-4: a device that pings stays, one that is silent ends by the idle timeout: the broker keeps nothing alive.
#[tokio::test]
async fn a_silent_connection_ends_and_one_that_pings_stays() {
    let broker = Broker::with_config(
        "[quic]\nidle_timeout = \"5s\"\nkeep_alive = \"1s\"\n\
         [session]\nhello_timeout = \"4s\"\nunresponsive_after = \"4s\"\n",
    );
    let api = Api::new(&broker);
    let register = |wire: Wire| async {
        let mut wire = wire;
        wire.send_frame(to_broker::Frame::Register(RawDevice::registration(&broker)))
            .await;
        wire.welcomed().await.unwrap();
        wire
    };
    let pings = Wire::open_with(&broker, |transport| {
        transport.keep_alive_interval(Some(Duration::from_secs(1)));
    });
    let mut pings = register(pings.await).await;
    let silent = register(Wire::open(&broker).await).await;
    assert_eq!(api.metric("petrel_presence_online", "").await, 2.0);
    assert_eq!(silent.closed().await, Closed::Otherwise("timed out".into()));
    eventually("one to be gone", async || {
        api.metric("petrel_presence_online", "").await <= 1.0
    })
    .await;
    let device = RawDevice::register(&broker).await;
    assert_eq!(device.welcome.keep_alive_seconds, 1);
    pings
        .send_frame(to_broker::Frame::Subscribe(Default::default()))
        .await;
    assert!(
        pings.frame().await.is_some(),
        "it is still there, and answered"
    );
}
