//! Session tickets outlive the process that made them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use petrel_quic::{
    ClientSetup, ConfigError, Limits, ServerSetup, ShardConfig, TransportKeys,
    sim::{Identity, Link, Sim},
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, Signer, SigningKey},
};

use crate::common::{Engines, closed, hello, with_all_engines};

with_all_engines![a_ticket_is_accepted_by_another_process_with_the_same_keys_only];

/// A signing key that counts its signatures: a resumed handshake needs none (RFC 8446 §2.2).
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn SigningKey>,
    signatures: Arc<AtomicU32>,
}

impl SigningKey for Counting {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.signatures.fetch_add(1, Ordering::Relaxed);
        self.inner.choose_scheme(offered)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }
}

#[derive(Debug)]
struct Resolver(Arc<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn counting_server(
    engines: Engines,
    identity: &Identity,
    signatures: &Arc<AtomicU32>,
) -> ShardConfig {
    let certified = identity.certified_key();
    let key = Counting {
        inner: Arc::clone(&certified.key),
        signatures: Arc::clone(signatures),
    };
    let certified = CertifiedKey::new(certified.cert.clone(), Arc::new(key));
    let server = ServerSetup {
        cert_resolver: Arc::new(Resolver(Arc::new(certified))),
        alpn: identity.alpn.clone(),
    };
    ShardConfig {
        server: Some(server),
        ..engines.server_config(identity)
    }
}

fn a_ticket_is_accepted_by_another_process_with_the_same_keys_only(engines: Engines) {
    let mut identity = Identity::new();
    let signatures = Arc::new(AtomicU32::new(0));
    let setup = identity.client_setup();
    let mut sim = Sim::new(1, Link::GOOD);
    let server = sim.add_host(&counting_server(engines, &identity, &signatures));
    let client = sim.add_host(&engines.client_config(&identity));
    let visit = |sim: &mut Sim| {
        let conn = sim.connect(client, server, &setup);
        hello(sim, client, conn, server);
        engines.rest(sim, server, client);
        sim.core(client).close(conn, 0, b"");
        closed(sim, server);
        closed(sim, client);
        let resumed = sim.core(server).stats().tickets_accepted_total;
        (signatures.load(Ordering::Relaxed), resumed)
    };
    assert_eq!(visit(&mut sim), (1, 0), "a full handshake");
    assert_eq!(visit(&mut sim), (1, 1), "resumed");
    sim.restart(server, &counting_server(engines, &identity, &signatures));
    assert_eq!(
        visit(&mut sim),
        (1, 1),
        "resumed with a ticket of the process before"
    );
    identity.keys = Arc::new(TransportKeys::generate());
    sim.restart(server, &counting_server(engines, &identity, &signatures));
    assert_eq!(
        visit(&mut sim),
        (2, 0),
        "other keys: a full handshake again"
    );
}

#[test]
fn a_client_that_wants_0_rtt_is_turned_down() {
    let mut tls = Identity::new().client_tls();
    tls.enable_early_data = true;
    let error = ClientSetup::new(Arc::new(tls), &Limits::default()).unwrap_err();
    assert!(matches!(error, ConfigError::Tls(_)), "{error}");
}
