//! Makes one connection to a broker: resolves its name, tries its addresses 250 ms apart (RFC 8305), first to finish
//! wins. Knows nothing of sessions.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, IdleTimeout, TransportConfig, VarInt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::error::{Cause, CauseKind, StartError};
use crate::tls::Tls;

/// Head start of an address over the next one (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// What a broker may have under way to a device, in bytes: several messages; what an app does not read stays there.
const RECEIVE_WINDOW: u32 = 64 * 1024;
/// What the SDK may have under way to a broker, in bytes.
const SEND_WINDOW: u64 = 64 * 1024;

/// Where a broker is, and the name that its certificate must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
    server_name: String,
}

impl Target {
    /// Parses `host:port`, the host being a name, an IPv4 address or a bracketed IPv6 address.
    pub(crate) fn parse(address: &str, server_name: Option<&str>) -> Result<Self, StartError> {
        let wrong = || StartError::Address {
            address: address.to_owned(),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            server_name: server_name.unwrap_or(host).to_owned(),
        })
    }

    /// `host:port`, for humans.
    pub(crate) fn name(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// What the transport does by itself about silence. Keeping the connection alive is not its task: quinn fixes the
/// interval when it dials, the SDK learns it meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// After this much of it quinn sends a PING after all: for the case that the session cannot, its stream being
    /// full. Longer than any interval of the session, so that it never disturbs one.
    pub(crate) last_resort: Option<Duration>,
    /// After this much of it the connection is dead. The broker's own limit is shorter as a rule, and then holds for
    /// both (RFC 9000 section 10.1).
    pub(crate) idle_timeout: Duration,
}

/// Connects within `limit`, name resolution included.
///
/// Cancel safe: dropping the future abandons every attempt.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    tls: &Tls,
    target: &Target,
    silence: Silence,
    limit: Duration,
) -> Result<quinn::Connection, Cause> {
    let mut tried = Vec::new();
    let mut failure = None;
    let config = client_config(tls, silence);
    let attempt = async {
        let addresses = resolve(target).await?;
        race(
            endpoint,
            &config,
            target,
            addresses,
            &mut tried,
            &mut failure,
        )
        .await
    };
    let error = match timeout(limit, attempt).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(cause)) => Some(cause),
        // An address that answered with a refusal says more than one that is silent.
        Err(_) => failure,
    };
    Err(tls
        .take_refusal(&target.name())
        .or(error)
        .unwrap_or_else(|| Cause::no_answer(&target.name(), target.port, &tried, limit)))
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Cause> {
    let unresolved = |problem: &str| {
        Cause::new(
            CauseKind::Unresolved,
            format!(
                "the name of the broker {} has no address ({problem}): check it, and the network",
                target.name()
            ),
        )
    };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|e| unresolved(&e.to_string()))?
        .collect();
    if found.is_empty() {
        return Err(unresolved("none found"));
    }
    Ok(interleave(found))
}

/// IPv6 and IPv4 in turn, IPv6 first, otherwise in the resolver's order (RFC 8305 section 4).
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (mut six, mut four): (VecDeque<_>, VecDeque<_>) =
        found.into_iter().partition(SocketAddr::is_ipv6);
    let mut order = Vec::new();
    while (!six.is_empty() || !four.is_empty()) && order.len() < ADDRESSES_MAX {
        order.extend(six.pop_front());
        order.extend(four.pop_front());
    }
    order.truncate(ADDRESSES_MAX);
    order
}

/// Starts the next address when the last one had its head start or failed; ends with the first connection, or with
/// the last failure once all failed. Dropping it ends the attempts that still run.
async fn race(
    endpoint: &Endpoint,
    config: &quinn::ClientConfig,
    target: &Target,
    addresses: Vec<SocketAddr>,
    tried: &mut Vec<SocketAddr>,
    failure: &mut Option<Cause>,
) -> Result<quinn::Connection, Cause> {
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            tried.push(address);
            match endpoint.connect_with(config.clone(), address, &target.server_name) {
                Ok(connecting) => drop(attempts.spawn(connecting)),
                Err(error) => {
                    let text = format!("cannot connect to {address}: {error}");
                    *failure = Some(Cause::new(CauseKind::Lost, text));
                    continue;
                }
            }
        }
        let more = waiting.len() > 0;
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(STAGGER), if more => continue,
        };
        match ended {
            Some(Ok(Ok(connection))) => return Ok(connection),
            Some(Ok(Err(error))) => *failure = Some(explain(&target.name(), &error)),
            Some(Err(_)) => {}
            None if more => {}
            None => {
                return Err(failure.take().unwrap_or_else(|| {
                    Cause::new(
                        CauseKind::Lost,
                        format!("cannot connect to {}", target.name()),
                    )
                }));
            }
        }
    }
}

fn client_config(tls: &Tls, silence: Silence) -> quinn::ClientConfig {
    let mut transport = TransportConfig::default();
    transport
        // PROTO-2: one stream, opened by the device; no datagrams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        // Messages are small: probing for larger packets would wake the radio for nothing.
        .mtu_discovery_config(None)
        .keep_alive_interval(silence.last_resort)
        .max_idle_timeout(IdleTimeout::try_from(silence.idle_timeout).ok());
    let mut config = quinn::ClientConfig::new(Arc::clone(&tls.config) as Arc<_>);
    config.transport_config(Arc::new(transport));
    config
}

/// What the end of a connection means.
pub(crate) fn explain(broker: &str, error: &ConnectionError) -> Cause {
    /// TLS alert `no_application_protocol` as a QUIC error (RFC 9001 section 4.8).
    const NO_ALPN: u64 = 0x100 + 120;
    match error {
        // Goodbye that nobody said: a broker that ends without order closes so. It will be back.
        ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == 0 => {
            Cause::new(
                CauseKind::Lost,
                format!("the broker {broker} closed the connection"),
            )
        }
        ConnectionError::ApplicationClosed(close) => {
            let number = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
            Cause::broker(number, &String::from_utf8_lossy(&close.reason), 0)
        }
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_ALPN => {
            not_petrel(broker)
        }
        ConnectionError::VersionMismatch => not_petrel(broker),
        ConnectionError::Reset => Cause::new(
            CauseKind::Restarted,
            format!("the broker {broker} was started again"),
        ),
        error => Cause::new(
            CauseKind::Lost,
            format!("the connection to {broker} broke: {error}"),
        ),
    }
}

fn not_petrel(broker: &str) -> Cause {
    Cause::new(
        CauseKind::NotPetrel,
        format!(
            "what answers at {broker} is no Petrel broker of this version: check address and port, and update the older of SDK and broker"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for (good, host, name) in [
            (
                "push.example.org:7443",
                "push.example.org",
                "push.example.org:7443",
            ),
            ("127.0.0.1:1", "127.0.0.1", "127.0.0.1:1"),
            ("[::1]:65535", "::1", "[::1]:65535"),
        ] {
            let target = Target::parse(good, None).unwrap();
            assert_eq!(
                (target.server_name.as_str(), target.name().as_str()),
                (host, name)
            );
        }
        for bad in [
            "",
            "host",
            "host:",
            ":7443",
            "host:0",
            "host:65536",
            "::1:7443",
            "[::1:7443",
            "a b:1",
        ] {
            assert!(Target::parse(bad, None).is_err(), "{bad}");
        }
        assert_eq!(
            Target::parse("127.0.0.1:1", Some("push"))
                .unwrap()
                .server_name,
            "push"
        );
    }

    #[test]
    fn families_take_turns() {
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|a| a.parse().unwrap()).collect()
        };
        let found = addresses(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "3.3.3.3:1"]);
        let order = addresses(&["[::1]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"]);
        assert_eq!(interleave(found), order);
        assert_eq!(interleave(vec![order[0]; 20]).len(), ADDRESSES_MAX);
    }

    const SILENCE: Silence = Silence {
        last_resort: None,
        idle_timeout: Duration::from_secs(30),
    };

    /// A QUIC server and the PEM of its CA.
    fn server(address: &str) -> (Endpoint, Tls) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![petrel_protocol::ALPN.to_vec()];
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, address.parse().unwrap()).unwrap();
        let tls = Tls::new(&crate::tls::Ca::Pem(certificate.pem().into_bytes())).unwrap();
        (endpoint, tls)
    }

    /// Happy eyeballs: a name whose first address is silent costs 250 ms, not the whole timeout.
    #[tokio::test]
    async fn a_silent_first_address_costs_its_head_start() {
        let (server, tls) = server("127.0.0.1:0");
        let silent = ["[::1]:0", "127.0.0.1:0"]
            .iter()
            .find_map(|address| std::net::UdpSocket::bind(address).ok())
            .unwrap();
        let addresses = vec![silent.local_addr().unwrap(), server.local_addr().unwrap()];
        let client = crate::Socket::bind().unwrap().endpoint;
        let target = Target::parse("localhost:1", None).unwrap();
        let config = client_config(&tls, SILENCE);
        let (mut tried, mut failure) = (Vec::new(), None);
        let began = std::time::Instant::now();
        let answering = async { server.accept().await.unwrap().await.unwrap() };
        let racing = race(
            &client,
            &config,
            &target,
            addresses.clone(),
            &mut tried,
            &mut failure,
        );
        let (connection, _answered) = timeout(Duration::from_secs(20), async {
            tokio::join!(racing, answering)
        })
        .await
        .unwrap();
        let port = connection.unwrap().remote_address().port();
        assert_eq!(port, addresses[1].port());
        assert_eq!(tried, addresses);
        assert!(began.elapsed() >= STAGGER);
    }

    /// An address that cannot be tried at all does not make the next one wait.
    #[tokio::test]
    async fn an_address_of_a_family_that_is_not_there_is_skipped() {
        let (server, tls) = server("127.0.0.1:0");
        let four = crate::Socket::bind_to("127.0.0.1:0".parse().unwrap()).unwrap();
        let addresses = vec!["[::1]:9".parse().unwrap(), server.local_addr().unwrap()];
        let target = Target::parse("localhost:1", None).unwrap();
        let config = client_config(&tls, SILENCE);
        let (mut tried, mut failure) = (Vec::new(), None);
        let answering = async { server.accept().await.unwrap().await.unwrap() };
        let racing = race(
            &four.endpoint,
            &config,
            &target,
            addresses,
            &mut tried,
            &mut failure,
        );
        let (connection, _answered) = timeout(Duration::from_secs(20), async {
            tokio::join!(racing, answering)
        })
        .await
        .unwrap();
        assert!(connection.is_ok());
    }
}
