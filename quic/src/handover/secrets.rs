//! The traffic secrets of a TLS session.
//!
//! rustls keeps them to itself, but hands them to a [`KeyLog`] in the middle of the call that makes them. A
//! thread-local cell, armed only around that call, takes them over. Nothing is ever written anywhere.

use std::{cell::RefCell, sync::Arc};

use rustls::KeyLog;

use crate::resident::protect::Secret;

/// Names in NSS key logs (draft-ietf-tls-keylogfile §3.1).
const CLIENT_LABEL: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_LABEL: &str = "SERVER_TRAFFIC_SECRET_0";

thread_local! {
    static CELL: RefCell<Cell> = const { RefCell::new(Cell { is_armed: false, client: None, server: None }) };
}

struct Cell {
    is_armed: bool,
    client: Option<Secret>,
    server: Option<Secret>,
}

/// The first 1-RTT secrets of both directions (RFC 8446 §7.1). Wiped when dropped.
pub(super) struct TrafficSecrets {
    pub(super) client: Secret,
    pub(super) server: Secret,
}

/// Runs a step of a TLS handshake, and gives the traffic secrets too if it made them.
pub(super) fn capture<T>(step: impl FnOnce() -> T) -> (T, Option<TrafficSecrets>) {
    CELL.with_borrow_mut(|cell| {
        *cell = Cell {
            is_armed: true,
            client: None,
            server: None,
        }
    });
    let result = step();
    let secrets = CELL.with_borrow_mut(|cell| {
        cell.is_armed = false;
        cell.client.take().zip(cell.server.take())
    });
    (
        result,
        secrets.map(|(client, server)| TrafficSecrets { client, server }),
    )
}

/// What rustls tells its secrets to.
#[derive(Debug)]
pub(super) struct Catcher {
    /// The log that the configuration came with, which goes on to get everything it asks for.
    pub(super) configured: Arc<dyn KeyLog>,
}

impl KeyLog for Catcher {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        // Those of SHA-384 suites are longer, and such connections are not observed.
        if let Ok(bytes) = <[u8; 32]>::try_from(secret) {
            CELL.with_borrow_mut(|cell| match label {
                CLIENT_LABEL if cell.is_armed => cell.client = Some(Secret(bytes)),
                SERVER_LABEL if cell.is_armed => cell.server = Some(Secret(bytes)),
                _ => {}
            });
        }
        if self.configured.will_log(label) {
            self.configured.log(label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT_LABEL | SERVER_LABEL) || self.configured.will_log(label)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Configured(Mutex<Vec<(String, Vec<u8>)>>);

    impl KeyLog for Configured {
        fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
            self.0.lock().unwrap().push((label.into(), secret.into()));
        }

        fn will_log(&self, label: &str) -> bool {
            label != SERVER_LABEL
        }
    }

    #[test]
    fn only_what_is_made_within_the_step_is_taken() {
        let configured = Arc::new(Configured::default());
        let catcher = Catcher {
            configured: Arc::clone(&configured) as _,
        };
        catcher.log(CLIENT_LABEL, b"", &[1; 32]);
        catcher.log(SERVER_LABEL, b"", &[2; 32]);
        let ((), secrets) = capture(|| catcher.log(CLIENT_LABEL, b"", &[3; 32]));
        assert!(secrets.is_none(), "the other one is missing");
        let ((), secrets) = capture(|| {
            catcher.log("EXPORTER_SECRET", b"", &[9; 32]);
            catcher.log(CLIENT_LABEL, b"", &[4; 32]);
            catcher.log(SERVER_LABEL, b"", &[5; 32]);
        });
        let secrets = secrets.unwrap();
        assert_eq!((secrets.client.0, secrets.server.0), ([4; 32], [5; 32]));
        let ((), secrets) = capture(|| {});
        assert!(secrets.is_none());
        let ((), secrets) = capture(|| {
            catcher.log(CLIENT_LABEL, b"", &[6; 48]);
            catcher.log(SERVER_LABEL, b"", &[6; 48]);
        });
        assert!(secrets.is_none(), "of another suite");
        // The configured log got what it asked for, and nothing else.
        let logged = configured.0.lock().unwrap();
        let labels: Vec<_> = logged.iter().map(|(label, _)| label.as_str()).collect();
        let client = CLIENT_LABEL;
        assert_eq!(labels, [client, client, "EXPORTER_SECRET", client, client]);
        assert!(catcher.will_log(SERVER_LABEL));
    }
}
