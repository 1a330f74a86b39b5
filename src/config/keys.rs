//! The table: every key of the configuration, declared once.
//!
//! A row gives a key its name, type, kind with bounds and unit, default, meaning and worst effect. The structs of
//! the sections, [`Config`] itself, the reference file `config/petrel.toml` and the suggestions for mistyped keys
//! all come from here. To add a key, add a row, and run the test that prints the new reference file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use petrel_quic::Network;

use super::kind::Kind;
use super::layers::Values;
use super::project::Projects;
use super::show::Shown;
use super::url::PublicUrl;
use super::value::{ByteSize, Value};
use super::words::{
    Durability, HistoryLevel, LogFormat, LogLevel, QueuePolicy, QuicEngine, StoreEngine,
};

/// One key of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    /// Section and name with a dot between, or the name alone at the top level.
    pub name: &'static str,
    /// As the environment would give it. `None`: not set.
    pub default: Option<&'static str>,
    /// What it may hold, with unit and bounds.
    pub kind: Kind,
    /// What it means, and why the default is what it is.
    pub meaning: &'static str,
    /// The worst effect on memory, latency or safety of a value that does not fit.
    pub worst: &'static str,
}

impl Key {
    /// Section and name; the section is empty at the top level.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }
}

/// A section of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    /// The name in brackets.
    pub name: &'static str,
    /// What its keys are about.
    pub meaning: &'static str,
}

/// A type that a key's value becomes.
pub(crate) trait FromValue: Sized {
    /// `None` where the row gives the key a kind that does not fit its type; the tests read every row.
    fn from_value(value: Option<&Value>) -> Option<Self>;
}

macro_rules! from_value {
    ($( $type:ty: $pattern:pat => $out:expr; )*) => {
        $( impl FromValue for $type {
            fn from_value(value: Option<&Value>) -> Option<Self> {
                match value? { $pattern => $out, _ => None }
            }
        } )*
    };
}

from_value! {
    SocketAddr: Value::Address(address) => Some(*address);
    bool: Value::Switch(on) => Some(*on);
    u32: Value::Count(number) => u32::try_from(*number).ok();
    usize: Value::Count(number) => usize::try_from(*number).ok();
    ByteSize: Value::Size(size) => Some(*size);
    Duration: Value::Span(duration) => Some(*duration);
    PathBuf: Value::Path(path) => Some(path.clone());
    PublicUrl: Value::Url(url) => Some(url.clone());
    Vec<String>: Value::Names(names) => Some(names.clone());
    Vec<Network>: Value::Networks(networks) => Some(networks.clone());
    StoreEngine: Value::Word(word) => Self::from_word(word);
    QueuePolicy: Value::Word(word) => Self::from_word(word);
    HistoryLevel: Value::Word(word) => Self::from_word(word);
    Durability: Value::Word(word) => Self::from_word(word);
    QuicEngine: Value::Word(word) => Self::from_word(word);
    LogFormat: Value::Word(word) => Self::from_word(word);
    LogLevel: Value::Word(word) => Self::from_word(word);
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Option<&Value>) -> Option<Self> {
        match value {
            None => Some(None),
            some => T::from_value(some).map(Some),
        }
    }
}

const fn count(unit: &'static str, min: u64, max: u64) -> Kind {
    Kind::Count { unit, min, max }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const fn span(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Span { min_ms, max_ms }
}

/// The place of a device keeps eight bits for its shard.
const SHARDS_MAX: u64 = 255;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

macro_rules! keys {
    (
        $( $top:ident: $top_type:ty = $top_kind:expr, $top_default:expr, $top_meaning:literal, $top_worst:literal; )*
        $( [$section:ident] $struct:ident, $section_meaning:literal {
            $( $key:ident: $type:ty = $kind:expr, $default:expr, $meaning:literal, $worst:literal; )*
        } )*
    ) => {
        $(
            #[doc = $section_meaning]
            #[derive(Clone, PartialEq, Debug)]
            pub struct $struct {
                $( #[doc = $meaning] #[doc = ""] #[doc = $worst] pub $key: $type, )*
            }
        )*

        /// The configuration, complete and checked: every value is in its bounds and fits the others.
        #[derive(Clone, PartialEq, Debug)]
        pub struct Config {
            $( #[doc = $top_meaning] #[doc = ""] #[doc = $top_worst] pub $top: $top_type, )*
            $( #[doc = $section_meaning] pub $section: $struct, )*
            /// The projects and their secret keys. Empty: the broker makes a project of its own for trying out.
            pub projects: Projects,
            pub(crate) shown: Vec<Shown>,
        }

        impl Config {
            /// Builds the typed form of values that have all passed their checks. `None` only where a row of the
            /// table gives a key a kind that does not fit its type.
            pub(crate) fn build(values: &Values, projects: Projects, shown: Vec<Shown>) -> Option<Self> {
                Some(Self {
                    $( $top: FromValue::from_value(values.get(stringify!($top)))?, )*
                    $( $section: $struct {
                        $( $key: FromValue::from_value(
                            values.get(concat!(stringify!($section), ".", stringify!($key)))
                        )?, )*
                    }, )*
                    projects,
                    shown,
                })
            }
        }

        /// The sections, in the order of the reference file.
        pub static SECTIONS: &[Section] = &[
            $( Section { name: stringify!($section), meaning: $section_meaning }, )*
        ];

        /// Every key, in the order of the reference file.
        pub static KEYS: &[Key] = &[
            $( Key {
                name: stringify!($top),
                default: $top_default, kind: $top_kind, meaning: $top_meaning, worst: $top_worst,
            }, )*
            $( $( Key {
                name: concat!(stringify!($section), ".", stringify!($key)),
                default: $default, kind: $kind, meaning: $meaning, worst: $worst,
            }, )* )*
        ];
    };
}

keys! {
    data_dir: PathBuf = Kind::Path, Some("./petrel-data"),
        "Where everything that must survive a restart lives: store, keys, certificates. Made with mode 0700.",
        "A disk that is slow to sync makes every publish slow; whoever reads it can read every queued message.";
    public_url: Option<PublicUrl> = Kind::Url, None,
        "The URL that devices and publishers outside reach the broker by; every URL handed out begins with it. \
         Not set: made from the address of https.listen.",
        "A wrong one sends Web Push endpoints nowhere; they stay wrong in the browsers that stored them.";

    [quic] Quic, "Where devices connect." {
        listen: SocketAddr = Kind::Address, Some("127.0.0.1:7443"),
            "UDP address for devices. Port 0 picks a free one. Loopback, so that a first start exposes nothing.",
            "Beyond loopback, every device that reaches it can connect.";
        shards: Option<usize> = count("shards", 1, SHARDS_MAX), None,
            "Threads that serve devices, each with a socket of the same port. Not set: as many as there are CPU cores. \
             Devices spread evenly over 2, 4, 8 or any small number.",
            "Memory: socket and receive buffers of each, some 10 MiB. Too low: cores idle; too high: they take turns.";
        engine: QuicEngine = Kind::Word(QuicEngine::WORDS), Some("resident"),
            "Who serves a connection once it is established and quiet: the resident engine, or proto, the one that did its \
             handshake, to the end. Devices see no difference.",
            "proto: 12 KB of memory for each connection instead of half a KB.";
        idle_timeout: Duration = span(5 * SECOND, 6 * HOUR), Some("5m"),
            "A connection without a packet for this long is gone. Minutes, because each keep-alive costs battery.",
            "Longer: devices that left silently hold their memory longer and count as online.";
        keep_alive: Duration = span(SECOND, 6 * HOUR), Some("2m"),
            "How often a quiet device should send a packet: a hint in its Welcome. Below quic.idle_timeout, far \
             enough for one lost packet.",
            "Shorter: battery, and connections divided by this is the rate of packets per second when all is quiet.";
        connections_max: usize = count("connections", 1, 16_777_216), Some("2000000"),
            "Devices connected at once, in equal parts for each shard; more are refused cheaply and told to come back \
             later.",
            "Memory: some 450 B for a connection that rests, up to 20 KiB for one that does not.";
        handshakes_max: usize = count("handshakes", 1, 1_000_000), Some("4096"),
            "Handshakes in progress at once, in equal parts for each shard; more are refused. Bounds the memory that \
             strangers can take.",
            "Memory: buffers and TLS state of each. Too low: devices wait longer when all come back at once.";
        retry_threshold: usize = count("handshakes", 1, 1_000_000), Some("1024"),
            "From so many handshakes in progress on, a device must prove its address first. At most \
             quic.handshakes_max.",
            "Latency: one more round trip to connect. Too high: forged addresses can fill the handshakes.";
        source_rate: u32 = count("handshakes a second", 1, 1_000_000), Some("1000"),
            "New handshakes a second from one IPv4 address or IPv6 /56. Beyond it a device must prove its address first, \
             and one that has is refused. Devices that are connected do not count.",
            "Latency: devices behind one carrier's address wait when all come back at once. Too high: one source can keep \
             the shards busy with handshakes.";
        source_exempt: Vec<Network> = Kind::Networks, Some(""),
            "Addresses that quic.source_rate does not hold for, such as a carrier's gateways.",
            "Handshakes from there are bounded by quic.handshakes_max alone.";
        socket_buffer: ByteSize = size(64 * KIB, GIB), Some("4MiB"),
            "What the kernel may hold for each UDP socket and direction; it may grant less.",
            "Memory: this twice a shard. Too small: bursts are lost and sent again a round trip later.";
    }
    [http] Http, "Where publishers send, without TLS; the limits hold for HTTPS too." {
        listen: SocketAddr = Kind::Address, Some("127.0.0.1:7480"),
            "TCP address for plain HTTP. Port 0 picks a free one.",
            "Beyond loopback, API keys and messages cross the network readable.";
        allow_plain_beyond_loopback: bool = Kind::Switch, Some("false"),
            "Lets http.listen be an address that other machines reach, behind a proxy that speaks TLS.",
            "API keys and messages cross the network readable.";
        connections_max: usize = count("connections", 1, 1_000_000), Some("4096"),
            "Publishers' connections at once, HTTP and HTTPS together; more wait to be accepted.",
            "Memory: read and write buffers of each. Too low: publishers wait to connect.";
        body_max: ByteSize = size(8 * KIB, 16 * MIB), Some("64KiB"),
            "The largest body of a request; a larger one is answered 413 unread.",
            "Memory: this times http.permits is the most that request bodies take.";
        permits: usize = count("publishes", 1, 1_000_000), Some("16384"),
            "Publishes in progress at once, over all projects; more are answered 503 before their body is read.",
            "Memory: http.body_max each at most. Too low: publishers that send many at once are put off.";
        publish_timeout: Duration = span(100, 300 * SECOND), Some("5s"),
            "A publish that is not durable after this is answered 503; it may still have been accepted.",
            "Latency: how long a publisher waits when the disk hangs.";
    }
    [https] Https, "Where publishers send, with TLS." {
        listen: SocketAddr = Kind::Address, Some("127.0.0.1:7443"),
            "TCP address for HTTPS, HTTP/1.1 and 2. Port 0 picks a free one.",
            "Beyond loopback, every machine that reaches it can try API keys.";
    }
    [admin] Admin, "Health, readiness, metrics, and calls that change the broker." {
        listen: SocketAddr = Kind::Address, Some("127.0.0.1:7490"),
            "TCP address for plain HTTP. Port 0 picks a free one.",
            "Beyond loopback, the admin key and all metrics cross the network readable.";
        allow_beyond_loopback: bool = Kind::Switch, Some("false"),
            "Lets admin.listen be an address that other machines reach, on a network of its own.",
            "The admin key and all metrics cross the network readable.";
    }
    [tls] Tls, "The certificate for devices and HTTPS. Without files of your own the broker makes a CA and renews." {
        certificate: Option<PathBuf> = Kind::Path, None,
            "PEM file with your own certificate and its chain; needs tls.key. Not set: the broker makes its own.",
            "Devices refuse a certificate that is expired or signed by nobody they trust.";
        key: Option<PathBuf> = Kind::Path, None,
            "PEM file with the private key of tls.certificate.",
            "Whoever reads it can pose as the broker.";
        names: Vec<String> = Kind::Names, Some(""),
            "Further names and addresses in the certificate that the broker makes; localhost and specific listen \
             addresses are always in it. A flag adds to the list.",
            "Devices that connect by a name missing here refuse the certificate.";
    }
    [store] Store, "What keeps messages, registrations and topics." {
        engine: StoreEngine = Kind::Word(StoreEngine::WORDS), Some("sled"),
            "sled and fjall keep everything on disk, fjall only in a build with cargo feature fjall; memory loses everything \
             at the end and is for tests.",
            "memory: all that waits for devices is in RAM, and a restart loses it.";
        durability: Durability = Kind::Word(Durability::WORDS), Some("durable"),
            "What a message that was answered 200 survives. durable: a loss of power; process: the end of the process, \
             kill -9 included; fast: neither, because publishers are answered from memory and the disk follows.",
            "process: a loss of power may lose the last seconds of what was answered 200. fast: so may a crash.";
        disk_reserve: ByteSize = size(MIB, 1024 * GIB), Some("64MiB"),
            "Room that is kept free on the disk. Below twice as much, projects that hold more than their share are \
             refused with 503; below it, every publish is, until there is room again. Devices go on.",
            "Too small: the disk fills up, and nothing can be written, not even acks.";
        cache: ByteSize = size(MIB, 1024 * GIB), Some("64MiB"),
            "Pages of the store that stay in memory.",
            "Memory: at least this much. Too small: replay reads the disk.";
        batch_operations_max: usize = count("operations", 1, 256), Some("256"),
            "Operations that become durable together. At most 256: larger batches were measured slower, and \
             reads wait while one is applied.",
            "Latency: a publish waits for its batch. Too low: fewer publishes per sync of the disk.";
        ack_window: Duration = span(1, SECOND), Some("5ms"),
            "How long a message for an online device waits for the device's ack before it is written: acked in \
             time, it need not be written at all.",
            "Latency: a publish to a device that does not ack takes this much longer.";
    }
    [queue] Queue, "Messages that wait for one device." {
        messages_max: usize = count("messages", 1, 1_000_000), Some("1000"),
            "Messages queued for one device.",
            "Disk: this times the size of a message for each device that is away. Replay of a long queue takes long.";
        bytes_max: ByteSize = size(16 * KIB, GIB), Some("4MiB"),
            "Bytes queued for one device.",
            "Disk: this much for each device that is away.";
        collapse_keys_max: usize = count("keys", 1, 1000), Some("4"),
            "Collapse keys that wait for one device at a time, as FCM has it: one more evicts the oldest message that \
             has a key.",
            "Too low: of several things that an app keeps up to date some are missing after a while offline.";
        project_bytes_max: ByteSize = size(MIB, 1024 * GIB), Some("64GiB"),
            "Bytes that the messages of one project take, in queues and logs. Further publishes get 429.",
            "Too high: one project fills the disk for all.";
        policy: QueuePolicy = Kind::Word(QueuePolicy::WORDS), Some("evict"),
            "When a queue is full: evict drops the least urgent message and tells the device; refuse refuses the \
             new one and tells the publisher.",
            "evict: a device misses messages. refuse: one device that stays away fails publishes to it.";
    }
    [topic] Topic, "Broadcasts: each is written once, to the log of its topic." {
        log_messages_max: usize = count("messages", 1, 10_000_000), Some("10000"),
            "Messages in the log of one topic; the oldest is trimmed, and devices that still wanted it get a Gap.",
            "Disk and memory: a set of settled devices for each message, some 128 KiB for a million devices.";
        log_bytes_max: ByteSize = size(MIB, 64 * GIB), Some("64MiB"),
            "Bytes in the log of one topic; the oldest is trimmed first.",
            "Disk: this much for each topic.";
        log_age_max: Duration = span(SECOND, 28 * 24 * HOUR), Some("28d"),
            "How long a message stays in the log of its topic, if its time to live lets it; then it is trimmed.",
            "Too short: devices that were away longer get a Gap for what they still wanted.";
        per_device_max: usize = count("topics", 1, 100_000), Some("2000"),
            "Topics that one device may subscribe to.",
            "Latency: an attach looks at the log of each of them.";
    }
    [registration] Registration, "Devices that have registered." {
        expire_after: Duration = span(24 * HOUR, 3650 * 24 * HOUR), Some("270d"),
            "A registration whose device was not seen for so long ends, with all that waits for it; FCM has 270 days, too. \
             Publishers hear UNREGISTERED then.",
            "Too short: who comes back from a long journey must register anew and has lost what waited.";
    }
    [history] History, "What became of messages: kept for people who ask, written behind." {
        level: HistoryLevel = Kind::Word(HistoryLevel::WORDS), Some("full"),
            "full: every event in the life of a message for one device, and counts of each broadcast. off: nothing new; \
             what was kept before stays within its bounds.",
            "off: nobody can tell what became of a message.";
        age_max: Duration = span(60 * SECOND, 3650 * 24 * HOUR), Some("7d"),
            "How long an event is kept.",
            "Disk: what is written in this time, some 20 B for each message to a device.";
        bytes_max: ByteSize = size(MIB, 1024 * GIB), Some("1GiB"),
            "Most bytes of all of it; what was written first goes first.",
            "Disk: this much, and as much again until the store has cleaned up. Latency: asking for a device reads up to \
             a 256th of it.";
    }
    [session] Session, "One attached device." {
        window_messages: usize = count("messages", 1, 4096), Some("64"),
            "Messages sent to a device and not acked. Small, so that an urgent one does not wait behind many.",
            "Memory: a reference each. Too low: replay takes a round trip for every so many messages.";
        window_bytes: ByteSize = size(16 * KIB, 64 * MIB), Some("256KiB"),
            "Bytes sent to a device and not acked.",
            "Memory: this much for each device that reads slowly.";
        hello_timeout: Duration = span(100, 600 * SECOND), Some("10s"),
            "A connection that has not said Hello or Register by then is closed. Below quic.idle_timeout.",
            "Memory: strangers hold a connection this long.";
        unresponsive_after: Duration = span(SECOND, HOUR), Some("30s"),
            "A device that leaves a message unacked for this long is shown as unresponsive and skipped by \
             broadcasts until its next packet. Below quic.idle_timeout.",
            "Memory: what is in flight to a device that is gone is held this long.";
    }
    [drain] Drain, "The way out: what happens between a stop signal and the end of the process." {
        ack_wait: Duration = span(100, 300 * SECOND), Some("5s"),
            "How long acks of messages in flight are awaited. What is not acked is delivered after the restart.",
            "The stop takes up to this much longer.";
        reconnect_rate: u32 = count("devices/s", 1, 10_000_000), Some("2000"),
            "How fast devices should come back: each is told a random moment within devices divided by this.",
            "Latency: higher, and the next broker meets all handshakes at once; lower, and devices are away longer.";
    }
    [log] Log, "Log lines, on stderr." {
        format: LogFormat = Kind::Word(LogFormat::WORDS), Some("text"),
            "text is for people, json for collectors: an object a line.",
            "None.";
        level: LogLevel = Kind::Word(LogLevel::WORDS), Some("info"),
            "The least important event that is logged. Messages are logged one by one at trace only.",
            "Latency and disk: trace writes several lines for each message.";
    }
}
