//! From our configuration to the engine's.

use std::{sync::Arc, time::Duration};

use quinn_proto::{EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, congestion};
use ring::{hkdf, hmac};

use crate::{
    ConfigError, Limits, ServerSetup, ShardConfig, TransportKeys,
    cid::SharedCids,
    handover::{self, ServerCrypto},
    tickets::DayTickets,
};

/// The only QUIC version (RFC 9000). The engine would offer six drafts as well.
const QUIC_V1: u32 = 1;

/// Transport parameters and behaviour of one connection; the peer may open `peer_streams` bidirectional streams.
pub(crate) fn transport(limits: &Limits, peer_streams: u8) -> TransportConfig {
    // `Limits::check` bounds it far below 2^62 ms.
    let idle_timeout = IdleTimeout::try_from(limits.idle_timeout).ok();
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(idle_timeout)
        .max_concurrent_bidi_streams(peer_streams.into())
        .max_concurrent_uni_streams(0u8.into())
        .stream_receive_window(limits.receive_window_bytes.into())
        .receive_window(limits.receive_window_bytes.into())
        .send_window(limits.send_window_bytes.into())
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .keep_alive_interval(None)
        .allow_spin(false)
        // RFC 9002 §7 as it stands: a push connection never sends enough for anything else to matter.
        .congestion_controller_factory(Arc::new(congestion::NewRenoConfig::default()));
    transport
}

/// What both roles of a shard share.
pub(crate) fn endpoint(
    config: &ShardConfig,
    cids: SharedCids,
) -> Result<EndpointConfig, ConfigError> {
    let mut endpoint = EndpointConfig::new(Arc::new(hmac::Key::new(
        hmac::HMAC_SHA256,
        config.keys.reset(),
    )));
    endpoint
        .cid_generator(move || Box::new(cids.clone()))
        .supported_versions(vec![QUIC_V1])
        .grease_quic_bit(false)
        // Resets are bounded by a budget of ours: one per interval would leave a returning fleet waiting.
        .min_reset_interval(Duration::ZERO)
        .max_udp_payload_size(config.limits.udp_payload_bytes_max)
        .map_err(|error| ConfigError::Tls(error.to_string()))?;
    Ok(endpoint)
}

/// The server role: TLS 1.3 only, no 0-RTT, one stateless ticket.
pub(crate) fn server(
    setup: &ServerSetup,
    keys: &TransportKeys,
    limits: &Limits,
    tickets: Arc<DayTickets>,
) -> Result<ServerConfig, ConfigError> {
    let provider = Arc::new(handover::provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ConfigError::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&setup.cert_resolver));
    tls.alpn_protocols.clone_from(&setup.alpn);
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.ticketer = tickets;
    tls.send_tls13_tickets = 1;
    tls.max_early_data_size = 0;
    let crypto = ServerCrypto::new(tls).map_err(|error| ConfigError::Tls(error.to_string()))?;

    let token_key =
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"petrel-quic address tokens v1").extract(keys.token());
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    server.transport_config(Arc::new(transport(limits, 1)));
    // The device moves between networks as it likes (RFC 9000 §9).
    server.migration(true);
    Ok(server)
}
