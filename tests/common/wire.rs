//! A device's connection, down to the bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use petrel_protocol::codec::{self, Decoded, Decoder};
use petrel_protocol::limits::TO_DEVICE_FRAME_BYTES_MAX;
use petrel_protocol::wire::{self, to_broker, to_device};
use petrel_protocol::{ALPN, ErrorCode};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, ReadError, RecvStream,
    SendStream, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Broker, within};

/// The name in every broker's own certificate.
pub(crate) const SERVER_NAME: &str = "localhost";

/// How a connection ended, as the device saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Closed {
    /// By the broker's application, with this code and reason.
    Application(u64, String),
    /// By QUIC, with this transport error code.
    Transport(u64),
    /// In any other way.
    Otherwise(String),
}

impl From<ConnectionError> for Closed {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Application(
                close.error_code.into_inner(),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            ConnectionError::ConnectionClosed(close) => Self::Transport(close.error_code.into()),
            other => Self::Otherwise(other.to_string()),
        }
    }
}

/// The last words of a broker.
#[derive(Debug)]
pub(crate) struct End {
    /// The `Error` frame, where there was one.
    pub(crate) error: Option<wire::Error>,
    /// Every other frame that came before.
    pub(crate) frames: Vec<to_device::Frame>,
    /// The close.
    pub(crate) closed: Closed,
}

impl End {
    /// Checks the rule of PROTO-10: an `Error` frame with the code, then a close with the same number. Returns the text.
    #[track_caller]
    pub(crate) fn expect(&self, code: ErrorCode) -> &str {
        let error = self.error.as_ref();
        assert_eq!(error.map(|e| e.code), Some(code as u32), "{code}: {self:?}");
        let closed = Closed::Application(code as u64, code.name().to_owned());
        assert_eq!(self.closed, closed, "{self:?}");
        error.map_or("", |e| &e.message)
    }
}

/// One connection with its stream. It says only what it is told to.
pub(crate) struct Wire {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    endpoint: Endpoint,
    decoder: Decoder,
}

impl Wire {
    /// Connects and opens the stream, which the broker learns of with the first bytes.
    pub(crate) async fn open(broker: &Broker) -> Self {
        Self::open_with(broker, |_| {}).await
    }

    /// The same with another transport.
    pub(crate) async fn open_with(
        broker: &Broker,
        edit: impl FnOnce(&mut TransportConfig),
    ) -> Self {
        let (endpoint, connection) = connect(broker, ALPN, edit).await.unwrap();
        Self::over(endpoint, connection).await
    }

    /// Opens the stream of a connection of one's own.
    pub(crate) async fn over(endpoint: Endpoint, connection: Connection) -> Self {
        let (send, recv) = within("the stream", connection.open_bi()).await.unwrap();
        Self {
            connection,
            send,
            recv,
            endpoint,
            decoder: Decoder::default(),
        }
    }

    /// Sends bytes. That the broker has closed shows at the next read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = within("room to send", self.send.write_all(bytes)).await;
    }

    /// Sends a frame.
    pub(crate) async fn send_frame(&mut self, frame: to_broker::Frame) {
        self.send(&codec::encode_to_broker(frame)).await;
    }

    /// The next bytes; `None` when the connection is closed.
    pub(crate) async fn bytes(&mut self) -> Option<Bytes> {
        let read = within(
            "bytes of the broker",
            self.recv.read_chunk(usize::MAX, true),
        )
        .await;
        match read {
            Ok(Some(chunk)) => Some(chunk.bytes),
            Err(ReadError::ConnectionLost(_)) => None,
            // PROTO-3 is the broker's, too.
            other => panic!("the broker ended the stream: {other:?}"),
        }
    }

    /// The next frame; `None` when the connection is closed.
    pub(crate) async fn frame(&mut self) -> Option<to_device::Frame> {
        loop {
            if let Some(body) = self.decoder.poll_frame(TO_DEVICE_FRAME_BYTES_MAX).unwrap() {
                match codec::decode_to_device(body).unwrap() {
                    Decoded::Frame(frame) => return Some(frame),
                    Decoded::Ignored => panic!("the broker sent a frame of an unknown kind"),
                }
            }
            let bytes = self.bytes().await?;
            self.decoder.handle_bytes(bytes);
        }
    }

    /// Waits for the first bytes and shows that they are `Welcome`, after `Registered` where that is due; the token.
    pub(crate) async fn welcomed(&mut self) -> Option<String> {
        let mut token = None;
        loop {
            match self.frame().await {
                Some(to_device::Frame::Registered(registered)) => token = Some(registered.token),
                Some(to_device::Frame::Welcome(_)) => return token,
                other => panic!("instead of Welcome: {other:?}"),
            }
        }
    }

    /// Reads until the broker closes.
    pub(crate) async fn end(&mut self) -> End {
        let mut frames = Vec::new();
        let mut error = None;
        while let Some(frame) = self.frame().await {
            match frame {
                to_device::Frame::Error(said) => error = Some(said),
                other => frames.push(other),
            }
        }
        End {
            error,
            frames,
            closed: self.closed().await,
        }
    }

    /// Waits for the close.
    pub(crate) async fn closed(&self) -> Closed {
        within("the close", self.connection.closed()).await.into()
    }

    /// Waits until this side has forgotten the closed connection: its answer to the close is out by then.
    pub(crate) async fn forgotten(self) {
        drop((self.send, self.recv, self.connection));
        within("an idle endpoint", self.endpoint.wait_idle()).await;
    }

    /// Closes from this side, without a word in the protocol, and waits until the broker can have heard it.
    pub(crate) async fn hang_up(self) {
        self.connection.close(VarInt::from_u32(0), b"");
        within("an idle endpoint", self.endpoint.wait_idle()).await;
    }
}

/// A connection without a stream.
pub(crate) async fn connect(
    broker: &Broker,
    alpn: &[u8],
    edit: impl FnOnce(&mut TransportConfig),
) -> Result<(Endpoint, Connection), ConnectionError> {
    let mut tls = tls(broker);
    tls.alpn_protocols = vec![alpn.to_vec()];
    let endpoint = endpoint(tls, edit);
    let connecting = endpoint.connect(broker.ready.quic, SERVER_NAME).unwrap();
    let connection = within("a connection", connecting).await?;
    Ok((endpoint, connection))
}

/// TLS that trusts the broker's CA and nobody else.
pub(crate) fn tls(broker: &Broker) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&broker.ready.ca).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls
}

/// A client's socket on a free port.
pub(crate) fn endpoint(
    tls: rustls::ClientConfig,
    edit: impl FnOnce(&mut TransportConfig),
) -> Endpoint {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(Duration::from_secs(60)).unwrap();
    transport.max_idle_timeout(Some(idle));
    edit(&mut transport);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}
