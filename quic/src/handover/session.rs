//! TLS for quinn-proto, as its own [`rustls`](quinn_proto::crypto::rustls) module does it, with three differences: a
//! [tap](SharedTap) follows the connection, 0-RTT is refused, and a server forgets TLS when the handshake is over.

use std::{any::Any, cell::RefCell, io, sync::Arc};

use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
        rustls::HandshakeData,
    },
    transport_parameters::TransportParameters,
};
use rustls::{
    AlertDescription, CipherSuite,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName},
    quic::{ClientConnection, Connection, KeyChange, Secrets, ServerConnection, Suite, Version},
};

use super::{
    NotYet, OWN_MAX_ACK_DELAY,
    keys::{ObservedKey, ShortHeaderKey},
    parameters::{self, Declared},
    retry,
    secrets::{self, Catcher, TrafficSecrets},
    tap::SharedTap,
    unpad::UnpaddingKey,
};

/// The only QUIC version (RFC 9000 §15).
const QUIC_V1: u32 = 1;

/// The suite that the resident engine speaks, and that Initial packets use in any case (RFC 9001 §5.2).
const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

thread_local! {
    static NEWEST: RefCell<Option<SharedTap>> = const { RefCell::new(None) };
}

/// The tap of the session that this thread started last.
///
/// quinn-proto starts a session within `Endpoint::accept` and `Endpoint::connect`, so this is to be called right after
/// either succeeded. Each tap is given once.
pub(crate) fn take_tap() -> Option<SharedTap> {
    NEWEST.take()
}

/// ring, with the suite that the resident engine speaks in the first place. The others are there for peers that cannot
/// do without; their connections stay with quinn-proto.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != SUITE);
    provider
}

/// How servers do TLS.
pub(crate) struct ServerCrypto {
    tls: Arc<rustls::ServerConfig>,
    suite: Suite,
}

/// How clients do TLS.
pub(crate) struct ClientCrypto {
    tls: Arc<rustls::ClientConfig>,
    suite: Suite,
}

impl ServerCrypto {
    /// The configuration's own order of suites decides, whatever the client prefers: see [`provider`].
    ///
    /// # Errors
    ///
    /// If TLS 1.3 is not enabled, AES-128-GCM is missing, or 0-RTT is limited to a number of bytes.
    pub(crate) fn new(mut tls: rustls::ServerConfig) -> Result<Self, rustls::Error> {
        tls.ignore_client_order = true;
        tls.key_log = Arc::new(Catcher {
            configured: tls.key_log,
        });
        let suite = suite(tls.crypto_provider())?;
        let tls = Arc::new(tls);
        // Finds now what would otherwise be found at each handshake.
        ServerConnection::new(Arc::clone(&tls), Version::V1, Vec::new())?;
        Ok(Self { tls, suite })
    }
}

impl ClientCrypto {
    /// # Errors
    ///
    /// If TLS 1.3 is not enabled, or AES-128-GCM is missing.
    pub(crate) fn new(tls: &rustls::ClientConfig) -> Result<Self, rustls::Error> {
        let mut tls = tls.clone();
        tls.key_log = Arc::new(Catcher {
            configured: tls.key_log,
        });
        let suite = suite(tls.crypto_provider())?;
        let tls = Arc::new(tls);
        // Finds now what would otherwise be found at each connection. Nobody has a ticket of that name.
        let name = ServerName::try_from("petrel.invalid")
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        ClientConnection::new(Arc::clone(&tls), Version::V1, name, Vec::new())?;
        Ok(Self { tls, suite })
    }
}

fn suite(provider: &CryptoProvider) -> Result<Suite, rustls::Error> {
    let mut suites = provider.cipher_suites.iter();
    suites
        .find(|suite| suite.suite() == SUITE)
        .and_then(|suite| suite.tls13()?.quic_suite())
        .ok_or_else(|| rustls::Error::General("AES-128-GCM is not among the suites".into()))
}

impl crypto::ServerConfig for ServerCrypto {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version != QUIC_V1 {
            return Err(UnsupportedVersion);
        }
        Ok(initial_keys(&self.suite, id, Side::Server))
    }

    fn retry_tag(&self, _version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry::tag(original, packet)
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let (params, tap) = declare(Side::Server, params);
        let tls = ServerConnection::new(Arc::clone(&self.tls), Version::V1, params)
            .expect("a session was made of this configuration before");
        Session::boxed(tls.into(), self.suite, tap)
    }
}

impl crypto::ClientConfig for ClientCrypto {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != QUIC_V1 {
            return Err(ConnectError::UnsupportedVersion);
        }
        let name = ServerName::try_from(server_name)
            .map_err(|_| ConnectError::InvalidServerName(server_name.into()))?
            .to_owned();
        let (params, tap) = declare(Side::Client, params);
        let tls = ClientConnection::new(Arc::clone(&self.tls), Version::V1, name, params)
            .expect("a session was made of this configuration before");
        Ok(Session::boxed(tls.into(), self.suite, tap))
    }
}

/// What the peer is told, and a tap that knows it.
fn declare(side: Side, params: &TransportParameters) -> (Vec<u8>, SharedTap) {
    let mut bytes = Vec::new();
    params.write(&mut bytes);
    let max_ack_delay = (side == Side::Server).then_some(OWN_MAX_ACK_DELAY);
    let bytes = parameters::outgoing(&bytes, max_ack_delay).into_owned();
    let tap = SharedTap::new(side, Declared::read(&bytes).as_ref());
    NEWEST.set(Some(tap.clone()));
    (bytes, tap)
}

/// TLS of one connection.
struct Session {
    /// A server drops it when the handshake is over, its tickets are written and nothing can come any more. A client
    /// keeps it for tickets.
    tls: Option<Box<Connection>>,
    suite: Suite,
    side: Side,
    has_handshake_data: bool,
    /// Between the call that made them and the one that installs them.
    secrets: Option<TrafficSecrets>,
    /// Of a suite that is not observed.
    other_secrets: Option<Box<Secrets>>,
    tap: SharedTap,
}

impl Session {
    fn boxed(tls: Connection, suite: Suite, tap: SharedTap) -> Box<dyn crypto::Session> {
        let side = match tls {
            Connection::Client(_) => Side::Client,
            Connection::Server(_) => Side::Server,
        };
        Box::new(Self {
            tls: Some(Box::new(tls)),
            suite,
            side,
            has_handshake_data: false,
            secrets: None,
            other_secrets: None,
            tap,
        })
    }

    /// 1-RTT keys: our own if they can be observed, else those of rustls.
    fn install(&mut self, keys: rustls::quic::Keys, next: Secrets, suite: CipherSuite) -> Keys {
        let mut tap = self.tap.lock();
        let secrets = self.secrets.take().filter(|_| suite == SUITE);
        let Some(secrets) = secrets else {
            tap.give_up(NotYet::OtherSuite);
            self.other_secrets = Some(Box::new(next));
            return rustls_keys(keys);
        };
        let (packet, header) = tap.install(secrets);
        Keys {
            header: KeyPair {
                local: ShortHeaderKey::boxed(header.tx),
                remote: ShortHeaderKey::boxed(header.rx),
            },
            packet: KeyPair {
                local: ObservedKey::boxed(packet.tx, 0, &self.tap),
                remote: ObservedKey::boxed(packet.rx, 0, &self.tap),
            },
        }
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        initial_keys(&self.suite, id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let tls = self.tls.as_ref().filter(|_| self.has_handshake_data)?;
        Some(Box::new(HandshakeData {
            protocol: tls.alpn_protocol().map(Into::into),
            server_name: server_name(tls).map(Into::into),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let certificates = self.tls.as_ref()?.peer_certificates()?;
        let owned: Vec<CertificateDer<'static>> = certificates
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        Some(Box::new(owned))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        (self.side == Side::Client).then_some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(tls) = &mut self.tls else {
            // A client has nothing more to say: key updates of TLS are forbidden (RFC 9001 §6), and authentication
            // after the handshake is too (RFC 9001 §4.4).
            let reason = "TLS message after the handshake";
            return Err(of_alert(AlertDescription::UnexpectedMessage, reason.into()));
        };
        let (result, secrets) = secrets::capture(|| tls.read_hs(bytes));
        self.secrets = secrets.or(self.secrets.take());
        result.map_err(|error| match tls.alert() {
            Some(alert) => of_alert(alert, error.to_string()),
            None => TransportError {
                code: TransportErrorCode::PROTOCOL_VIOLATION,
                frame: None,
                reason: format!("TLS error: {error}"),
            },
        })?;
        if !tls.is_handshaking() {
            self.tap.lock().tls_complete();
        }
        // rustls does not say when the ClientHello is read or a protocol is agreed on; this is how it shows.
        let has_data =
            tls.alpn_protocol().is_some() || server_name(tls).is_some() || !tls.is_handshaking();
        let is_news = has_data && !self.has_handshake_data;
        self.has_handshake_data |= has_data;
        Ok(is_news)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let tls = self.tls.as_ref();
        let Some(bytes) = tls.and_then(|tls| tls.quic_transport_parameters()) else {
            return Ok(None);
        };
        let shown = parameters::incoming(self.side, bytes);
        let params = TransportParameters::read(self.side, &mut io::Cursor::new(&*shown))?;
        self.tap.lock().peer_declared(Declared::read(bytes));
        Ok(Some(params))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let tls = self.tls.as_mut()?;
        match tls.write_hs(out) {
            Some(KeyChange::Handshake { keys }) => Some(rustls_keys(keys)),
            Some(KeyChange::OneRtt { keys, next }) => {
                let suite = tls.negotiated_cipher_suite()?.suite();
                Some(self.install(keys, next, suite))
            }
            None => {
                // quinn-proto asks until nothing comes.
                if self.side == Side::Server && !tls.is_handshaking() && out.is_empty() {
                    self.tls = None;
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        if let Some(secrets) = &mut self.other_secrets {
            let keys = secrets.next_packet_keys();
            return Some(KeyPair {
                local: Box::new(keys.local),
                remote: Box::new(keys.remote),
            });
        }
        let (generation, keys) = self.tap.lock().next_keys()?;
        Some(KeyPair {
            local: ObservedKey::boxed(keys.tx, generation, &self.tap),
            remote: ObservedKey::boxed(keys.rx, generation, &self.tap),
        })
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        retry::is_valid(original, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let tls = self.tls.as_ref().ok_or(ExportKeyingMaterialError)?;
        tls.export_keying_material(output, label, Some(context))
            .map_err(|_| ExportKeyingMaterialError)?;
        Ok(())
    }
}

/// A TLS alert is a QUIC error (RFC 9001 §4.8).
fn of_alert(alert: AlertDescription, reason: String) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(alert.into()),
        frame: None,
        reason,
    }
}

/// The name that a client asked for.
fn server_name(tls: &Connection) -> Option<&str> {
    match tls {
        Connection::Client(_) => None,
        Connection::Server(server) => server.server_name(),
    }
}

fn initial_keys(suite: &Suite, id: &ConnectionId, side: Side) -> Keys {
    rustls_keys(suite.keys(id, side.into(), Version::V1))
}

fn rustls_keys(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(keys.local.header),
            remote: Box::new(keys.remote.header),
        },
        packet: KeyPair {
            local: Box::new(keys.local.packet),
            remote: Box::new(UnpaddingKey(keys.remote.packet)),
        },
    }
}
