//! How to be a client.

use std::{fmt, sync::Arc};

use crate::{ConfigError, Limits, handover::ClientCrypto, shard::setup};

/// What the client role needs for [`connect`](crate::ShardCore::connect); cheap to clone, shared by any number of
/// connections.
#[derive(Clone)]
pub struct ClientSetup {
    pub(crate) inner: quinn_proto::ClientConfig,
}

impl ClientSetup {
    /// From a TLS configuration with its roots and ALPN names, and the limits of the shard that will connect.
    ///
    /// # Errors
    ///
    /// If TLS 1.3 with AES-128-GCM is not among the cipher suites (RFC 9001 §5.2), if 0-RTT is enabled (it can be
    /// replayed, and Petrel servers refuse it), or if a limit is out of bounds.
    pub fn new(tls: Arc<rustls::ClientConfig>, limits: &Limits) -> Result<Self, ConfigError> {
        limits.check()?;
        if tls.enable_early_data {
            return Err(ConfigError::Tls(
                "enable_early_data has to be false: 0-RTT is refused".into(),
            ));
        }
        let crypto =
            ClientCrypto::new(&tls).map_err(|error| ConfigError::Tls(error.to_string()))?;
        let mut inner = quinn_proto::ClientConfig::new(Arc::new(crypto));
        // The server opens no streams.
        inner.transport_config(Arc::new(setup::transport(limits, 0)));
        inner.token_store(Arc::new(quinn_proto::NoneTokenStore));
        Ok(Self { inner })
    }
}

impl fmt::Debug for ClientSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSetup").finish_non_exhaustive()
    }
}
