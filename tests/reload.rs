//! SIGHUP: the certificate is read again while the broker runs, and nobody is disconnected.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

mod common;

use std::sync::Arc;

use common::{Api, Broker, RawDevice, SERVER_NAME, Wire, endpoint, eventually, within};
use petrel_protocol::ALPN;
use quinn::{Connection, Endpoint};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tempfile::TempDir;

/// An operator with a CA, who writes certificate files for the broker.
struct Operator {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
}

impl Operator {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().der().clone();
        Self {
            directory: tempfile::tempdir().unwrap(),
            issuer: Issuer::new(params, key),
            ca,
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Writes a new certificate with its key.
    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(self.path("certificate.pem"), signed.pem()).unwrap();
        signed.der().clone()
    }

    fn broker(&self) -> Broker {
        Broker::with_config(&format!(
            "[tls]\ncertificate = {:?}\nkey = {:?}\n",
            self.path("certificate.pem"),
            self.path("key.pem"),
        ))
    }

    /// A device's connection, full handshake, and the certificate that it was shown.
    async fn connect(&self, broker: &Broker) -> (Endpoint, Connection, CertificateDer<'static>) {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let endpoint = endpoint(tls, |_| {});
        let connecting = endpoint.connect(broker.ready.quic, SERVER_NAME).unwrap();
        let connection = within("a connection", connecting).await.unwrap();
        let shown = connection.peer_identity().unwrap();
        let shown = shown.downcast::<Vec<CertificateDer<'static>>>().unwrap();
        (endpoint, connection, shown[0].clone())
    }

    async fn shown(&self, broker: &Broker) -> CertificateDer<'static> {
        self.connect(broker).await.2
    }
}

/// The device gets a message on the connection that it has.
async fn still_receives(device: &mut RawDevice, api: &Api, n: &str) {
    let token = device.token.clone();
    let answer = api.publish_token(&token, json!({ "data": { "n": n } }));
    let (answer, labels) = tokio::join!(answer, device.take(1));
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(labels, [n]);
}

#[tokio::test]
async fn new_connections_see_the_new_certificate_and_old_ones_live_on() {
    let operator = Operator::new();
    let first = operator.issue();
    let broker = operator.broker();
    let api = Api::new(&broker);
    let (endpoint, connection, shown) = operator.connect(&broker).await;
    assert_eq!(shown, first);
    let wire = Wire::over(endpoint, connection).await;
    let mut device = RawDevice::register_over(wire, RawDevice::registration(&broker)).await;
    still_receives(&mut device, &api, "1").await;

    // New files alone change nothing.
    let second = operator.issue();
    assert_eq!(operator.shown(&broker).await, first);
    broker.hang_up();
    eventually("the new certificate", async || {
        operator.shown(&broker).await == second
    })
    .await;
    still_receives(&mut device, &api, "2").await;

    // Files that cannot be used: the certificate stays, and the log names file and key.
    std::fs::write(operator.path("certificate.pem"), "half a file").unwrap();
    broker.hang_up();
    eventually("a complaint", async || {
        broker.logged().contains("the one in force stays")
    })
    .await;
    let logged = broker.logged();
    assert!(logged.contains("certificate.pem") && logged.contains("tls.certificate"));
    assert_eq!(operator.shown(&broker).await, second);
    still_receives(&mut device, &api, "3").await;

    // And the way out works.
    let third = operator.issue();
    broker.hang_up();
    eventually("the third certificate", async || {
        operator.shown(&broker).await == third
    })
    .await;
    still_receives(&mut device, &api, "4").await;
    device.goodbye().await;
}

#[tokio::test]
async fn a_broker_with_a_certificate_of_its_own_reads_it_again_as_well() {
    let broker = Broker::start();
    let api = Api::new(&broker);
    let mut device = RawDevice::register(&broker).await;
    let certificate = broker.ready.data_dir.join("tls/server.pem");
    let first = std::fs::read(&certificate).unwrap();
    std::fs::remove_file(&certificate).unwrap();
    broker.hang_up();
    eventually("another certificate", async || {
        std::fs::read(&certificate).is_ok_and(|file| !file.is_empty() && file != first)
            && broker.logged().contains("is another one")
    })
    .await;
    still_receives(&mut device, &api, "1").await;
    // Under the same CA, which the device has had all along.
    let mut again = device.again(&broker).await;
    still_receives(&mut again, &api, "2").await;
}
