//! TLS for both ends.

use std::sync::Arc;

use quinn_proto::crypto;
use rustls::sign::SingleCertAndKey;

use crate::{
    handover::{ClientCrypto, ServerCrypto, provider},
    sim::Identity,
    tickets::DayTickets,
};

/// The TLS configurations of both ends.
pub(super) struct Tls {
    pub(super) server: rustls::ServerConfig,
    pub(super) client: rustls::ClientConfig,
    pub(super) tickets: Arc<DayTickets>,
}

impl Tls {
    pub(super) fn new() -> Self {
        let identity = Identity::new();
        let tickets = Arc::new(DayTickets::new(&identity.keys));
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                identity.certified_key(),
            ))));
        server.alpn_protocols.clone_from(&identity.alpn);
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.ticketer = Arc::clone(&tickets) as _;
        server.send_tls13_tickets = 1;
        Self {
            server,
            client: identity.client_tls(),
            tickets,
        }
    }

    pub(super) fn server_crypto(&self) -> Arc<dyn crypto::ServerConfig> {
        Arc::new(ServerCrypto::new(self.server.clone()).unwrap())
    }

    pub(super) fn client_crypto(&self) -> Arc<dyn crypto::ClientConfig> {
        Arc::new(ClientCrypto::new(&self.client).unwrap())
    }
}
