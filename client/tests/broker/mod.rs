//! A broker for tests: a real QUIC endpoint that runs the broker's own session machine, and does what the test says.
//!
//! It decides nothing by itself: tests accept a device, look at how it opened, and answer.
// Each test file is a crate that uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petrel_client::{Client, ClientBuilder, DeviceToken, ErrorCode, Event, Events};
use petrel_protocol::session::{
    BrokerEvent, BrokerSession, Hello, Opening, Register, Request, RequestBody, WelcomeTerms,
};
use petrel_protocol::{MessageId, codec, wire};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

pub(crate) const EPOCH: u32 = 0x6a4e;

/// Nothing here takes this long; a test that hangs says where instead.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not happen within 20 s"),
    }
}

/// Waits until something holds that no event tells of.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) struct TestBroker {
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
    endpoint: Endpoint,
}

impl TestBroker {
    /// A broker of a CA of its own, on a free port.
    pub(crate) fn start() -> Self {
        Self::speaking(petrel_protocol::ALPN)
    }

    /// The same, under another ALPN name.
    pub(crate) fn speaking(alpn: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let endpoint =
            Endpoint::server(server_config(&folder.path().join("ca.pem"), alpn), address).unwrap();
        Self {
            address: endpoint.local_addr().unwrap(),
            folder,
            endpoint,
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Path of a state file that no other test uses.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("device.json")
    }

    /// A client of this broker, without storage.
    pub(crate) fn device(&self) -> ClientBuilder {
        Client::builder(&self.address.to_string())
            .ca_file(self.ca())
            .project("demo")
            .app_key("app key")
    }

    /// The next device that connects, at its first frame.
    pub(crate) async fn accept(&self) -> Session {
        within("a device's opening", async {
            loop {
                let connection = self.endpoint.accept().await.unwrap().await.unwrap();
                // A loser of a race of addresses opens no stream.
                if let Ok((send, recv)) = connection.accept_bi().await {
                    return Session::open(connection, send, recv).await;
                }
            }
        })
        .await
    }

    /// Lets the next device in, whether it registers or resumes.
    pub(crate) async fn admit(&self) -> Session {
        let mut session = self.accept().await;
        session.let_in().await;
        session
    }

    /// Whether nobody connects for so long.
    pub(crate) async fn stays_alone(&self, time: Duration) -> bool {
        match tokio::time::timeout(time, self.endpoint.accept()).await {
            Err(_) => true,
            // Let the handshake run, so that the device sees what there is to see.
            Ok(incoming) => {
                let _ = incoming.unwrap().await;
                false
            }
        }
    }
}

pub(crate) struct Session {
    pub(crate) connection: Connection,
    send: SendStream,
    recv: RecvStream,
    machine: BrokerSession,
    pub(crate) opening: Opening,
    events: VecDeque<BrokerEvent>,
}

pub(crate) fn token(name: &str) -> DeviceToken {
    DeviceToken::from_text(name)
}

pub(crate) fn id(sequence: u64) -> MessageId {
    MessageId {
        epoch: EPOCH,
        sequence,
    }
}

impl Session {
    async fn open(connection: Connection, send: SendStream, recv: RecvStream) -> Self {
        let mut session = Self {
            connection,
            send,
            recv,
            machine: BrokerSession::default(),
            opening: Opening::Hello(Hello {
                token: token(""),
                secret: petrel_protocol::DeviceSecret::new([0; 32]),
                cursor: None,
                minimum_urgency: petrel_client::Urgency::Normal,
                sdk: String::new(),
            }),
            events: VecDeque::new(),
        };
        match session.next().await {
            BrokerEvent::Opening(opening) => session.opening = opening,
            other => panic!("{other:?} instead of an opening"),
        }
        session
    }

    pub(crate) fn hello(&self) -> &Hello {
        match &self.opening {
            Opening::Hello(hello) => hello,
            Opening::Register(_) => panic!("the device registered instead of resuming"),
        }
    }

    pub(crate) fn register(&self) -> &Register {
        match &self.opening {
            Opening::Register(register) => register,
            Opening::Hello(_) => panic!("the device resumed instead of registering"),
        }
    }

    pub(crate) fn terms() -> WelcomeTerms {
        WelcomeTerms {
            server_time_ms: 1,
            keep_alive_seconds: 60,
            window_messages: 64,
            topics_max: 10,
            settled_up_to: id(1),
        }
    }

    /// Admits; who registers gets the token `token`.
    pub(crate) async fn let_in(&mut self) {
        let registered = matches!(self.opening, Opening::Register(_)).then(|| token("token"));
        self.admit(registered.as_ref(), Self::terms()).await;
    }

    pub(crate) async fn admit(&mut self, token: Option<&DeviceToken>, terms: WelcomeTerms) {
        for frame in self.machine.admit(token, terms) {
            self.write(&frame).await;
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        within("writing to the device", self.send.write_all(bytes))
            .await
            .unwrap();
    }

    /// Like `write`, but says whether the device took it within a short while.
    pub(crate) async fn try_write(&mut self, bytes: &[u8], limit: Duration) -> bool {
        tokio::time::timeout(limit, self.send.write_all(bytes))
            .await
            .is_ok()
    }

    pub(crate) async fn deliver(&mut self, sequences: impl IntoIterator<Item = u64>) {
        let bytes: Vec<u8> = sequences.into_iter().flat_map(message).collect();
        self.write(&bytes).await;
    }

    /// What the device does next.
    pub(crate) async fn next(&mut self) -> BrokerEvent {
        within("a frame of the device", async {
            loop {
                if let Some(event) = self.events.pop_front() {
                    return event;
                }
                let bytes: Bytes = self
                    .recv
                    .read_chunk(usize::MAX, true)
                    .await
                    .expect("the connection is open")
                    .expect("the stream is open")
                    .bytes;
                self.machine.handle_bytes(bytes);
                while let Some(event) = self.machine.poll_event() {
                    self.events.push_back(event);
                    if matches!(self.events.back(), Some(BrokerEvent::Opening(_))) {
                        break;
                    }
                }
            }
        })
        .await
    }

    /// Whether the device says nothing for so long.
    pub(crate) async fn is_silent(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.next()).await.is_err()
    }

    /// Sequences of the next ack frame.
    pub(crate) async fn acks(&mut self) -> Vec<u64> {
        match self.next().await {
            BrokerEvent::Ack {
                epoch: EPOCH,
                sequences,
            } => sequences,
            other => panic!("{other:?} instead of an ack"),
        }
    }

    pub(crate) async fn request(&mut self) -> (u32, RequestBody) {
        match self.next().await {
            BrokerEvent::Request(Request { number, body }) => (number, body.unwrap()),
            other => panic!("{other:?} instead of a request"),
        }
    }

    /// The next request, which must be a subscription.
    pub(crate) async fn subscribe(&mut self) -> (u32, String) {
        match self.request().await {
            (number, RequestBody::Subscribe(topic)) => (number, topic.to_string()),
            other => panic!("{other:?} instead of a subscription"),
        }
    }

    pub(crate) async fn answer(&mut self, number: u32, error: Option<(ErrorCode, &str)>) {
        let frame = BrokerSession::answer(number, error);
        self.write(&frame).await;
    }

    /// Ends the session as brokers do: the frame, a second for the device to close, the close.
    pub(crate) async fn end(&mut self, code: ErrorCode, text: &str, retry_after_ms: u64) {
        let frame = self.machine.end(code, text, retry_after_ms).unwrap();
        self.write(&frame).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.connection.closed()).await;
        self.connection.close(VarInt::from_u32(code as u32), b"");
    }

    pub(crate) async fn reconnect(&mut self, after_ms: u64, to: &str) {
        let frame = self.machine.reconnect(after_ms, to).unwrap();
        self.write(&frame).await;
        within("the device's close", self.connection.closed()).await;
    }

    /// Answers a goodbye.
    pub(crate) async fn goodbye(&mut self) {
        loop {
            if let BrokerEvent::Goodbye = self.next().await {
                break;
            }
        }
        self.connection.close(VarInt::from_u32(0), b"");
    }

    /// Breaks the connection without a word of the session.
    pub(crate) fn cut(&self) {
        self.connection
            .close(VarInt::from_u32(ErrorCode::Internal as u32), b"cut");
    }
}

/// A frame with a message whose data say its sequence.
pub(crate) fn message(sequence: u64) -> Bytes {
    codec::encode_to_device(wire::to_device::Frame::Deliver(wire::Deliver {
        id: Some(id(sequence).into()),
        data: [("sequence".to_owned(), sequence.to_string())].into(),
        urgency: 3,
        accepted_at_ms: sequence,
        expires_at_ms: u64::MAX,
        ..wire::Deliver::default()
    }))
}

pub(crate) fn gap(sequence: u64, count: u64) -> Bytes {
    codec::encode_to_device(wire::to_device::Frame::Gap(wire::Gap {
        id: Some(id(sequence).into()),
        topic: "news".into(),
        count,
        reasons: [("trimmed".to_owned(), count)].into(),
    }))
}

pub(crate) async fn next(events: &mut Events) -> Event {
    within("an event", events.next())
        .await
        .expect("events go on")
}

/// The next event must be a message.
pub(crate) async fn next_message(events: &mut Events) -> petrel_client::Delivery {
    match next(events).await {
        Event::Message(message) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// The next event must be `Registered`: token, resumed, previous.
pub(crate) async fn registered(events: &mut Events) -> (String, bool, Option<String>) {
    match next(events).await {
        Event::Registered {
            token,
            resumed,
            previous,
        } => (token.to_string(), resumed, previous.map(|t| t.to_string())),
        other => panic!("{other:?} instead of Registered"),
    }
}

pub(crate) async fn disconnected(events: &mut Events) -> (petrel_client::Cause, Duration) {
    match next(events).await {
        Event::Disconnected { cause, retry_in } => (cause, retry_in),
        other => panic!("{other:?} instead of Disconnected"),
    }
}

pub(crate) async fn closed(events: &mut Events) -> petrel_client::Cause {
    match next(events).await {
        Event::Closed(cause) => {
            assert!(events.next().await.is_none(), "Closed is the last event");
            cause
        }
        other => panic!("{other:?} instead of Closed"),
    }
}

fn server_config(ca_path: &std::path::Path, alpn: &[u8]) -> quinn::ServerConfig {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    std::fs::write(ca_path, ca.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let certificate = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config =
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    // As the broker: one stream and nothing else (PROTO-2).
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(transport));
    config
}
