//! Relations between keys: each value is right by itself, together they are not.
//!
//! A relation is judged only where the values of all its keys could be read.

use std::net::SocketAddr;
use std::time::Duration;

use super::error::{Cause, Problem};
use super::keys::FromValue;
use super::layers::Values;
use super::words::StoreEngine;

/// Finds every broken relation.
pub(crate) fn check(values: &Values, problems: &mut Vec<Problem>) {
    let mut found = Relations { values, problems };
    found.below(
        "quic.keep_alive",
        "quic.idle_timeout",
        "or devices are dropped between two keep-alives",
    );
    found.below(
        "session.hello_timeout",
        "quic.idle_timeout",
        "or it never takes effect",
    );
    found.below(
        "session.unresponsive_after",
        "quic.idle_timeout",
        "or it never takes effect",
    );
    found.below(
        "store.ack_window",
        "http.publish_timeout",
        "or every publish times out",
    );
    found.at_most(
        "quic.retry_threshold",
        "quic.handshakes_max",
        "or it never takes effect",
    );
    found.at_most(
        "quic.handshakes_max",
        "quic.connections_max",
        "because a handshake is a connection, too",
    );
    found.loopback(
        "http.listen",
        "http.allow_plain_beyond_loopback",
        "use https.listen",
    );
    found.loopback(
        "admin.listen",
        "admin.allow_beyond_loopback",
        "use a tunnel",
    );
    found.different("https.listen", "http.listen");
    found.different("admin.listen", "http.listen");
    found.different("admin.listen", "https.listen");
    found.together("tls.certificate", "tls.key");
    found.together("tls.key", "tls.certificate");
    found.built_in("store.engine", cfg!(feature = "fjall"));
}

struct Relations<'a> {
    values: &'a Values,
    problems: &'a mut Vec<Problem>,
}

impl Relations<'_> {
    fn read<T: FromValue>(&self, key: &str) -> Option<T> {
        T::from_value(self.values.get(key))
    }

    fn refuse(&mut self, key: &str, reason: String, advice: String) {
        self.problems.push(Problem {
            key: key.to_owned(),
            value: self.values.get(key).map(ToString::to_string),
            origin: self.values.origin(key).clone(),
            cause: Cause::Relation { reason, advice },
        });
    }

    /// The other key as the reader finds it: `quic.idle_timeout = "5m" (default)`.
    fn named(&self, key: &str) -> String {
        let value = self
            .values
            .get(key)
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("{key} = {value} ({})", self.values.origin(key))
    }

    fn below(&mut self, low: &str, high: &str, or_else: &str) {
        let (Some(a), Some(b)) = (self.read::<Duration>(low), self.read::<Duration>(high)) else {
            return;
        };
        if a >= b {
            let reason = format!("must be below {}, {or_else}", self.named(high));
            self.refuse(low, reason, format!("lower {low} or raise {high}"));
        }
    }

    fn at_most(&mut self, low: &str, high: &str, or_else: &str) {
        let (Some(a), Some(b)) = (self.read::<usize>(low), self.read::<usize>(high)) else {
            return;
        };
        if a > b {
            let reason = format!("must be at most {}, {or_else}", self.named(high));
            self.refuse(low, reason, format!("lower {low} or raise {high}"));
        }
    }

    fn loopback(&mut self, listen: &str, allow: &str, instead: &str) {
        let (Some(address), Some(is_allowed)) =
            (self.read::<SocketAddr>(listen), self.read::<bool>(allow))
        else {
            return;
        };
        if !address.ip().to_canonical().is_loopback() && !is_allowed {
            let reason = "other machines could reach it, and it has no TLS".to_owned();
            let advice = format!("listen on 127.0.0.1 or [::1], {instead}, or say {allow} = true");
            self.refuse(listen, reason, advice);
        }
    }

    /// Two TCP listeners cannot share a port where one address covers the other.
    fn different(&mut self, key: &str, other: &str) {
        let (Some(a), Some(b)) = (self.read::<SocketAddr>(key), self.read::<SocketAddr>(other))
        else {
            return;
        };
        let is_covered = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
        if a.port() == b.port() && a.port() != 0 && is_covered {
            let reason = format!("the same TCP port as {}", self.named(other));
            self.refuse(
                key,
                reason,
                "give each a port of its own; port 0 picks a free one".to_owned(),
            );
        }
    }

    fn built_in(&mut self, engine: &str, has_fjall: bool) {
        if self.read(engine) == Some(StoreEngine::Fjall) && !has_fjall {
            let reason = "this petrel was built without cargo feature `fjall`".to_owned();
            let advice = format!(
                "build it with `cargo build --release --features fjall`, or set {engine} = \"sled\""
            );
            self.refuse(engine, reason, advice);
        }
    }

    fn together(&mut self, given: &str, missing: &str) {
        if self.values.is_set(given) && !self.values.is_set(missing) {
            let reason = format!("{missing} is missing");
            let advice = format!(
                "set both, or neither and the broker makes its own; {missing} is a PEM file"
            );
            self.refuse(given, reason, advice);
        }
    }
}
