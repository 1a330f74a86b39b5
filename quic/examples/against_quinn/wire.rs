//! What clients and server say on their streams, and parent and child on standard input and output.

use std::{
    fmt,
    io::{self, BufRead as _, Write as _},
    net::SocketAddr,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use petrel_quic::Limits;
use rcgen::generate_simple_self_signed;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "localhost";

/// A P-256 certificate of [`SERVER_NAME`], as the broker makes for itself.
pub(crate) fn certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let made = generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Ok((made.cert.der().clone(), key))
}

/// The application protocol.
pub(crate) const ALPN: &[u8] = b"against-quinn";

/// Payload of a delivery.
pub(crate) const DELIVERY_BYTES: usize = 256;

/// What a client opens its stream with, and what it is answered.
const GREETING_BYTES: usize = 16;

/// A client's own acknowledgement of a delivery.
const ACK_BYTES: usize = 20;

/// Deliveries after which a server lets its connections send: as [`FanOut`](petrel_quic::FanOut) does it.
pub(crate) const SENDS_PER_STEP: usize = 128;

/// What a message is, in its first byte. Each fits a packet, so it comes whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// First word of a client, and its answer.
    Greeting,
    /// A delivery that nobody answers but the transport.
    Quiet,
    /// A delivery that the client acknowledges at once.
    Answered,
    /// That acknowledgement.
    Ack,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Greeting => b'g',
            Self::Quiet => b'q',
            Self::Answered => b'a',
            Self::Ack => b'k',
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Greeting, Self::Quiet, Self::Answered, Self::Ack]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }

    /// The kind of a message that came.
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        Self::of_byte(*message.first()?)
    }

    /// A message of this kind; made once, shared by all who send it.
    pub(crate) fn message(self) -> Bytes {
        let len = match self {
            Self::Greeting => GREETING_BYTES,
            Self::Quiet | Self::Answered => DELIVERY_BYTES,
            Self::Ack => ACK_BYTES,
        };
        Bytes::from(vec![self.byte(); len])
    }
}

/// The bounds of both ends: the crate's, but for those that protect a server from such clients as these.
pub(crate) fn limits() -> Limits {
    Limits {
        idle_timeout: Duration::from_secs(3600),
        // On a machine that is busy with something else.
        handshake_timeout: Duration::from_secs(30),
        source_handshakes_per_second: u32::MAX,
        ..Limits::default()
    }
}

/// What the parent asks of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send a message of this kind to `count` connections from the `first` on, and say [`SENT`] when all have left.
    Send {
        kind: Kind,
        first: usize,
        count: usize,
    },
    /// Tell the datagrams sent and received so far.
    Datagrams,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { kind, first, count } => {
                write!(f, "send {} {first} {count}", char::from(kind.byte()))
            }
            Self::Datagrams => f.write_str("datagrams"),
        }
    }
}

impl FromStr for Order {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["send", kind, first, count] => Ok(Self::Send {
                kind: kind
                    .bytes()
                    .next()
                    .and_then(Kind::of_byte)
                    .context("no such kind")?,
                first: first.parse()?,
                count: count.parse()?,
            }),
            ["datagrams"] => Ok(Self::Datagrams),
            _ => bail!("not an order: {line:?}"),
        }
    }
}

/// Everything of an [`Order::Send`] has left.
pub(crate) const SENT: &str = "sent";

/// The answer to [`Order::Datagrams`]: sent, received.
pub(crate) fn write_datagrams(sent: u64, received: u64) -> String {
    format!("{sent} {received}")
}

pub(crate) fn parse_datagrams(line: &str) -> Result<(u64, u64)> {
    let (sent, received) = line
        .split_once(' ')
        .ok_or_else(|| anyhow!("no counts of datagrams: {line:?}"))?;
    Ok((sent.parse()?, received.parse()?))
}

/// The first line of a server: where it is and what it is to be trusted by.
pub(crate) fn write_ready(addr: SocketAddr, certificate: &CertificateDer<'_>) -> String {
    let hex: String = certificate.iter().map(|b| format!("{b:02x}")).collect();
    format!("{addr} {hex}")
}

pub(crate) fn parse_ready(line: &str) -> Result<(SocketAddr, CertificateDer<'static>)> {
    let (addr, hex) = line
        .split_once(' ')
        .ok_or_else(|| anyhow!("the server did not start: {line:?}"))?;
    let bytes: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect::<Result<_>>()?;
    Ok((addr.parse()?, bytes.into()))
}

/// Says a line to the parent.
pub(crate) fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Gives the parent's orders to `obey`, from a thread of its own, until the parent ends or `obey` wants no more.
pub(crate) fn listen(mut obey: impl FnMut(Order) -> bool + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            for line in io::stdin().lock().lines() {
                let Some(order) = line.ok().and_then(|line| line.parse().ok()) else {
                    return;
                };
                if !obey(order) {
                    return;
                }
            }
        })?;
    Ok(())
}
