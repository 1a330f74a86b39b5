//! The table: every metric, declared once with name, kind, unit, labels and help.
//!
//! Names are `petrel_<room>_<thing>_<unit>`; counters end in `_total`; units are the base units seconds and bytes.
//! A test reads the table against these rules.

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// What one of a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A thing that the name says.
    Count,
    /// A second.
    Seconds,
    /// A byte.
    Bytes,
}

/// The one label of a metric, with all values it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// Its name.
    pub key: &'static str,
    /// The closed set.
    pub values: &'static [&'static str],
}

/// What the table says of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Definition {
    /// As Prometheus sees it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What one of it is.
    pub unit: Unit,
    /// Its label, if it has one.
    pub label: Option<Label>,
    /// What it tells, in a sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($( $variant:ident = $name:literal, $kind:ident, $unit:ident $(, $key:literal in [$($value:literal),* $(,)?])?; $help:literal )*) => {
        /// Every metric of the broker.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(usize)]
        pub enum Metric {
            $( #[doc = $help] #[doc = concat!("\n\n`", $name, "`")] $variant, )*
        }

        impl Metric {
            /// All of them; each stands at the index of its number.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )*];

            /// What the table says of it.
            #[must_use]
            pub const fn definition(self) -> Definition {
                match self {
                    $( Self::$variant => Definition {
                        name: $name,
                        kind: Kind::$kind,
                        unit: Unit::$unit,
                        label: metrics!(@label $($key in [$($value),*])?),
                        help: $help,
                    }, )*
                }
            }
        }
    };
    (@label) => { None };
    (@label $key:literal in [$($value:literal),*]) => {
        Some(Label { key: $key, values: &[$($value),*] })
    };
}

metrics! {
    ApiRequests = "petrel_api_requests_total", Counter, Count, "code" in [
        "ok", "invalid_request", "invalid_token", "body_too_large", "unsupported_media_type", "body_too_slow",
        "unauthenticated", "permission_denied", "foreign_project", "unregistered", "unknown_path", "wrong_method",
        "queue_full", "quota_exceeded", "disk_full", "store_failing", "no_permit", "overloaded", "starting", "draining", "timed_out", "internal",
    ]; "Requests answered by the publish API, by what came of them."
    ApiPublishSeconds = "petrel_api_publish_seconds", Histogram, Seconds;
        "From a publish that was checked to its outcome: what the store and the device add to an answer."
    ApiPermitsInUse = "petrel_api_permits_in_use", Gauge, Count;
        "Publish requests in progress; their number is bounded by http.permits."
    ApiConnections = "petrel_api_connections", Gauge, Count;
        "Open HTTP and HTTPS connections, admin port included."
    ApiConnectionsEnded = "petrel_api_connections_ended_total", Counter, Count, "reason" in [
        "closed", "idle", "drained", "cut", "failed", "handshake_failed", "handshake_slow", "panicked",
    ]; "HTTP and HTTPS connections that ended, by why; cut means that a bounded wait for its end ran out."
    ApiAcceptErrors = "petrel_api_accept_errors_total", Counter, Count;
        "Connections that the kernel would not hand over: usually the process has too few file descriptors."

    DeliveryAccepted = "petrel_delivery_accepted_total", Counter, Count;
        "Deliveries that were accepted: one for each device that a message is for."
    DeliverySettled = "petrel_delivery_settled_total", Counter, Count, "outcome" in [
        "acked", "expired", "collapsed", "evicted", "trimmed", "recalled", "unregistered", "opted-out", "unreadable",
    ]; "Deliveries that are over, by how. Owed at start plus accepted is the sum of these plus owed."
    DeliveryOwedAtStart = "petrel_delivery_owed_at_start", Gauge, Count;
        "Deliveries that were owed when the broker started."
    DeliveryOwed = "petrel_delivery_owed", Gauge, Count;
        "Deliveries that are owed now."
    DeliveryRegistrationsExpired = "petrel_delivery_registrations_expired_total", Counter, Count;
        "Registrations that ended because their device was not seen for registration.expire_after."
    DeliveryElided = "petrel_delivery_elided_total", Counter, Count;
        "Messages for one device that it acked before they were written, so that they never were."

    StoreCommits = "petrel_store_commits_total", Counter, Count;
        "Batches that were made durable."
    StoreCommitSeconds = "petrel_store_commit_seconds", Histogram, Seconds;
        "How long a batch took to become durable."
    StoreOperations = "petrel_store_operations_total", Counter, Count, "kind" in [
        "append", "broadcast", "settle", "expire", "seen", "trim", "register", "unregister", "subscribe", "unsubscribe", "reserve", "meta", "history",
    ]; "Operations in committed batches, by kind."
    StoreBodiesWritten = "petrel_store_bodies_written_total", Counter, Count;
        "Messages that were written, body and all, to a queue or a log. Others were acked before that, or went now or never."
    StoreBodyBytesWritten = "petrel_store_body_bytes_written_total", Counter, Bytes;
        "Bytes of the messages that were written."
    StoreBytesWritten = "petrel_store_bytes_written_total", Counter, Bytes;
        "Keys and values in committed batches."
    StoreQueueDepth = "petrel_store_queue_depth", Gauge, Count;
        "Operations that wait for the writer."
    StoreQueuedBytes = "petrel_store_queued_bytes", Gauge, Bytes;
        "Bytes that messages take in the queues of devices: live bytes, to compare with the size on disk."
    StoreDiskFreeBytes = "petrel_store_disk_free_bytes", Gauge, Bytes;
        "Room on the disk of the store. Below store.disk_reserve publishers are refused."
    StoreDiskFull = "petrel_store_disk_full", Gauge, Count;
        "1 while publishers are refused because the disk is nearly full."
    StoreFailing = "petrel_store_failing", Gauge, Count;
        "1 while commits fail and are tried again; publishers are refused meanwhile."
    StoreDiskBytes = "petrel_store_disk_bytes", Gauge, Bytes;
        "Size of the store on disk."
    StoreUnreadable = "petrel_store_unreadable_total", Counter, Count;
        "Records that could not be read back. Any is worth a look."

    HistoryRecorded = "petrel_history_recorded_total", Counter, Count;
        "Events in the life of messages for one device that were taken to be written."
    HistoryDropped = "petrel_history_dropped_total", Counter, Count;
        "Such events that were not kept, because too many waited or the store failed. Deliveries never wait for them."
    HistoryBytesWritten = "petrel_history_bytes_written_total", Counter, Bytes;
        "Keys and values of the history that were written."
    HistoryBytes = "petrel_history_bytes", Gauge, Bytes;
        "Bytes of keys and values that the history takes, bounded by history.bytes_max."

    PresenceOnline = "petrel_presence_online", Gauge, Count;
        "Devices that are attached."

    ShardSessions = "petrel_shard_sessions", Gauge, Count;
        "Sessions in all shards, those that have not said Hello yet included."
    ShardSessionBytes = "petrel_shard_session_bytes", Gauge, Bytes;
        "Memory that sessions hold."
    ShardFramesIgnored = "petrel_shard_frames_ignored_total", Counter, Count;
        "Frames of a kind that this version does not know and may ignore."
    ShardMailboxDepth = "petrel_shard_mailbox_depth", Gauge, Count;
        "Commands that wait in the mailboxes of the shards."
    ShardNudges = "petrel_shard_nudges_total", Counter, Count;
        "Times that a shard was told to look at a device's queue again."
    ShardAcksDropped = "petrel_shard_acks_dropped_total", Counter, Count;
        "Acks that named nothing that was owed."
    ShardPanics = "petrel_shard_panics_total", Counter, Count;
        "Panics while one device was handled; each closed that device. Any is a fault of the broker."

    QuicResidents = "petrel_quic_residents", Gauge, Count;
        "Connections that the resident engine serves; the others are with the handshake engine."
    QuicConnections = "petrel_quic_connections", Gauge, Count;
        "QUIC connections, handshakes included."
    QuicHandshakes = "petrel_quic_handshakes_total", Counter, Count, "outcome" in [
        "completed", "failed", "refused", "retried",
    ]; "QUIC handshakes, by outcome; retried ones were asked to prove their address first."
    QuicDatagrams = "petrel_quic_datagrams_total", Counter, Count, "direction" in [
        "received", "sent",
    ]; "UDP datagrams, by direction."
    QuicResetsSent = "petrel_quic_resets_sent_total", Counter, Count;
        "Stateless resets: a device learned that its connection is gone."
    QuicForwarded = "petrel_quic_forwarded_total", Counter, Count, "outcome" in [
        "handed_over", "dropped",
    ]; "Datagrams that came to another shard than their own. Many mean that the kernel does not steer; the log says why."
    QuicSendsRefused = "petrel_quic_sends_refused_total", Counter, Count, "reason" in [
        "full", "failed",
    ]; "Sends that the system refused: full ones wait and are sent, failed ones are lost as on the way."

    FanoutWalks = "petrel_fanout_walks_total", Counter, Count;
        "Broadcasts that were walked over their audience."
    FanoutWaiting = "petrel_fanout_waiting", Gauge, Count;
        "Broadcasts that wait for their walk."

    MemoryBytes = "petrel_memory_bytes", Gauge, Bytes, "owner" in [
        "connections", "sessions", "queues_pending", "broadcasts", "presence", "directory", "store", "store_cache",
    ]; "Memory in use, by which part of the broker holds it."
}

#[cfg(test)]
mod tests {
    use petrel_core::DropReason;

    use super::*;

    const ROOMS: [&str; 9] = [
        "api", "delivery", "store", "history", "presence", "shard", "quic", "fanout", "memory",
    ];

    fn is_snake(text: &str) -> bool {
        !text.is_empty()
            && text
                .split('_')
                .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()))
    }

    /// `petrel_<room>_<thing>_<unit>`, counters and only they with `_total`, the unit said and no other.
    fn follows_the_rule(definition: &Definition) -> Result<(), &'static str> {
        let Definition {
            name, kind, unit, ..
        } = *definition;
        let rest = name.strip_prefix("petrel_").ok_or("prefix")?;
        let (room, thing) = rest.split_once('_').ok_or("thing")?;
        if !ROOMS.contains(&room) {
            return Err("room");
        }
        if !is_snake(thing) {
            return Err("alphabet");
        }
        if name.ends_with("_total") != (kind == Kind::Counter) {
            return Err("total");
        }
        let says = |word: &str| thing.split('_').any(|w| w == word);
        if says("seconds") != (unit == Unit::Seconds) || says("bytes") != (unit == Unit::Bytes) {
            return Err("unit");
        }
        let suffix = match (kind, unit) {
            (Kind::Gauge | Kind::Histogram, Unit::Seconds) => "seconds",
            (Kind::Gauge | Kind::Histogram, Unit::Bytes) => "bytes",
            _ => "",
        };
        if !name.ends_with(suffix) {
            return Err("suffix");
        }
        if ["ms", "millis", "micros", "kb", "mb", "percent"]
            .into_iter()
            .any(says)
        {
            return Err("base unit");
        }
        Ok(())
    }

    #[test]
    fn every_name_follows_the_rule() {
        for metric in Metric::ALL {
            let definition = metric.definition();
            assert_eq!(follows_the_rule(&definition), Ok(()), "{}", definition.name);
        }
    }

    #[test]
    fn the_rule_refuses_what_breaks_it() {
        let good = Metric::ApiPublishSeconds.definition();
        for (name, reason) in [
            ("api_publish_seconds", "prefix"),
            ("petrel_kitchen_publish_seconds", "room"),
            ("petrel_api_Publish_seconds", "alphabet"),
            ("petrel_api__seconds", "alphabet"),
            ("petrel_api_publish_seconds_total", "total"),
            ("petrel_api_publish_ms", "unit"),
            ("petrel_api_seconds_of_publish", "suffix"),
            ("petrel_api_millis_seconds", "base unit"),
        ] {
            let definition = Definition { name, ..good };
            assert_eq!(follows_the_rule(&definition), Err(reason), "{name}");
        }
    }

    #[test]
    fn every_description_is_complete_and_names_are_unique() {
        let mut names = Vec::new();
        for (index, metric) in Metric::ALL.iter().enumerate() {
            assert_eq!(*metric as usize, index);
            let definition = metric.definition();
            let name = definition.name;
            names.push(name);
            assert!(definition.help.len() > 20, "{name}");
            assert!(definition.help.ends_with('.'), "{name}");
            // The buckets are made for seconds.
            assert!(definition.kind != Kind::Histogram || definition.unit == Unit::Seconds);
            if let Some(label) = definition.label {
                assert!(is_snake(label.key), "{name}");
                assert!(definition.kind != Kind::Histogram, "{name}");
                let mut values = label.values.to_vec();
                values.sort_unstable();
                values.dedup();
                assert_eq!(values.len(), label.values.len(), "{name}");
                assert!(values.len() > 1, "{name}");
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len());
    }

    #[test]
    fn deliveries_settle_by_an_ack_or_by_one_of_the_reasons() {
        let label = Metric::DeliverySettled.definition().label.unwrap();
        let outcomes: Vec<&str> = std::iter::once("acked")
            .chain(DropReason::ALL.map(DropReason::as_str))
            .collect();
        assert_eq!(label.values, outcomes);
    }
}
