//! Our sessions behave as quinn-proto's own.

use std::{sync::Arc, time::Duration};

use quinn_proto::{
    ConnectionError, Side, TransportErrorCode,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::AlertDescription;

use super::{pair::Pair, tls::Tls};
use crate::handover::{ClientCrypto, ServerCrypto};

/// How both ends fail, with our crypto and with quinn's.
fn failures(tls: &Tls) -> [Option<ConnectionError>; 2] {
    let mut ours = Pair::with(tls);
    let mut quinns = Pair::with_crypto(
        Arc::new(QuicServerConfig::try_from(tls.server.clone()).unwrap()),
        Arc::new(QuicClientConfig::try_from(tls.client.clone()).unwrap()),
    );
    for pair in [&mut ours, &mut quinns] {
        pair.run(Duration::from_secs(2));
        assert!(!pair.client.is_connected);
    }
    assert_eq!(ours.client.lost, quinns.client.lost);
    assert_eq!(ours.server.lost, quinns.server.lost);
    [ours.client.lost, ours.server.lost]
}

fn is_alert(error: &ConnectionError, alert: AlertDescription) -> bool {
    let expected = TransportErrorCode::crypto(alert.into());
    match error {
        ConnectionError::TransportError(error) => error.code == expected,
        ConnectionError::ConnectionClosed(close) => close.error_code == expected,
        _ => false,
    }
}

#[test]
fn alerts_are_told_as_quinn_tells_them() {
    let mut tls = Tls::new();
    tls.client.alpn_protocols = vec![b"other".to_vec()];
    let [client, _] = failures(&tls);
    let expected = AlertDescription::NoApplicationProtocol;
    assert!(is_alert(&client.unwrap(), expected));

    let tls = Tls {
        client: Tls::new().client,
        ..Tls::new()
    };
    let [client, server] = failures(&tls);
    for error in [client, server] {
        let error = error.unwrap();
        assert!(
            is_alert(&error, AlertDescription::DecryptError),
            "{error:?}"
        );
    }
}

#[test]
fn handshake_data_identity_and_exporters() {
    let mut pair = Pair::new();
    // The server's TLS is gone when the handshake is over, so look while it lasts.
    pair.run(Duration::from_millis(15));
    let data = pair.server.conn().crypto_session().handshake_data();
    let data = data.unwrap().downcast::<HandshakeData>().unwrap();
    assert_eq!(data.protocol.as_deref(), Some(&b"petrel-test"[..]));
    assert_eq!(data.server_name.as_deref(), Some("localhost"));
    pair.run(Duration::from_secs(1));

    let session = pair.client.conn().crypto_session();
    assert!(session.peer_identity().is_some());
    assert!(session.handshake_data().is_some());
    let mut material = [0; 32];
    session
        .export_keying_material(&mut material, b"label", b"context")
        .unwrap();
    assert_ne!(material, [0; 32]);
    assert!(session.early_crypto().is_none());

    let session = pair.server.conn().crypto_session();
    assert!(!session.is_handshaking());
    assert!(session.handshake_data().is_none());
    let exported = session.export_keying_material(&mut material, b"label", b"context");
    assert!(exported.is_err());
}

#[test]
fn tls_after_the_handshake_is_an_error_for_a_server() {
    let mut tls = Tls::new();
    tls.server.send_tls13_tickets = 0;
    let server = Arc::new(ServerCrypto::new(tls.server.clone()).unwrap());
    let mut pair = Pair::with_crypto(server, tls.client_crypto());
    pair.open();
    let client = pair.client.take().ok().unwrap();
    // A KeyUpdate (RFC 8446 §4.6.3), forbidden by RFC 9001 §6.
    let mut packet = Vec::new();
    let start = crate::resident::protect::PacketStart::write(
        &mut packet,
        &client.remote_id.id,
        client.next_number,
        client.largest_acked,
        client.key_phase,
    );
    packet.extend_from_slice(&[0x06, 0, 5, 24, 0, 0, 1, 0]);
    let key = client.tx_secret.packet_key();
    start.finish(&mut packet, &key, &client.tx_header_key, 0);
    pair.put(Side::Client, packet);
    pair.run(Duration::from_secs(1));
    let lost = pair.server.lost.unwrap();
    assert!(
        is_alert(&lost, AlertDescription::UnexpectedMessage),
        "{lost}"
    );
}

#[test]
fn configurations_that_cannot_work() {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let tls = Tls::new();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&tls.server.cert_resolver));
    assert!(ServerCrypto::new(server).is_err(), "no AES-128");
    let mut server = tls.server.clone();
    server.max_early_data_size = 1_000;
    assert!(ServerCrypto::new(server).is_err(), "0-RTT by size");

    let provider = rustls::crypto::ring::default_provider();
    let versions = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let client = versions
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert!(ClientCrypto::new(&client).is_ok());
}
