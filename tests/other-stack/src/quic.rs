//! s2n-quic: a connection, its one stream, and levers for a test.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use s2n_quic::client::{Client, Connect};
use s2n_quic::connection::Handle;
use s2n_quic::provider::event::events::{AckRangeReceived, KeyType, KeyUpdate};
use s2n_quic::provider::event::{ConnectionInfo, ConnectionMeta, Subscriber};
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls;
use s2n_quic::stream::{ReceiveStream, SendStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::keys;
use crate::options::Options;

pub(crate) type Reader = ReceiveStream;
pub(crate) type Writer = SendStream;

/// The name in a broker's self-made certificate.
const SERVER_NAME: &str = "localhost";

/// As long as a broker's own idle timeout may be: the shorter of both counts (RFC 9000 section 10.1).
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a command waits for a packet's effect before it sends another.
const PATIENCE: Duration = Duration::from_millis(3);

/// What the stack tells of a connection.
#[derive(Clone, Default)]
struct Told {
    acks: u64,
    key_updates: u64,
}

struct Watch(watch::Sender<Told>);

impl Subscriber for Watch {
    type ConnectionContext = ();

    fn create_connection_context(&mut self, _: &ConnectionMeta, _: &ConnectionInfo<'_>) {}

    fn on_ack_range_received(&mut self, (): &mut (), _: &ConnectionMeta, _: &AckRangeReceived<'_>) {
        self.0.send_modify(|told| told.acks += 1);
    }

    fn on_key_update(&mut self, (): &mut (), _: &ConnectionMeta, update: &KeyUpdate) {
        if let KeyType::OneRtt {
            generation: 1.., ..
        } = update.key_type
        {
            self.0.send_modify(|told| told.key_updates += 1);
        }
    }
}

/// A connection.
pub(crate) struct Quic {
    handle: Handle,
    told: watch::Receiver<Told>,
    /// The socket is served as long as this lives.
    _client: Client,
}

/// Connects and opens the stream (PROTO-1, PROTO-2).
pub(crate) async fn connect(options: &Options) -> Result<(Quic, Reader, Writer)> {
    let (sender, told) = watch::channel(Told::default());
    let limits = Limits::new().with_max_idle_timeout(IDLE_TIMEOUT)?;
    let client = Client::builder()
        .with_tls(tls::rustls::Client::from(keys::config(&options.ca)?))?
        .with_limits(limits)?
        .with_event(Watch(sender))?
        .with_io("0.0.0.0:0")?
        .start()?;
    let connect = Connect::new(options.broker).with_server_name(SERVER_NAME);
    let mut connection = client.connect(connect).await.context("no connection")?;
    let (reader, writer) = connection.open_bidirectional_stream().await?.split();
    let quic = Quic {
        handle: connection.handle(),
        told,
        _client: client,
    };
    Ok((quic, reader, writer))
}

impl Quic {
    /// Sends a PING and waits for an ack.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        let before = self.told.borrow().acks;
        self.handle.ping()?;
        self.told.wait_for(|told| told.acks > before).await?;
        Ok(())
    }

    /// Wears the keys out with PINGs until s2n-quic has updated them.
    pub(crate) async fn update_keys(&mut self) -> Result<()> {
        let before = self.told.borrow().key_updates;
        for _ in 0..10_000 {
            self.handle.ping()?;
            let updated = self.told.wait_for(|told| told.key_updates > before);
            if let Ok(updated) = timeout(PATIENCE, updated).await {
                updated?;
                return Ok(());
            }
        }
        bail!("the keys were not updated")
    }
}

/// The code and the reason that a connection was closed with, where the peer's application closed it.
pub(crate) fn close_of(error: &s2n_quic::stream::Error) -> (Option<u64>, String) {
    use s2n_quic::connection::Error as Lost;
    let text = error.to_string();
    match error {
        s2n_quic::stream::Error::ConnectionError { error, .. } => match error {
            Lost::Closed { .. } => (Some(0), text),
            Lost::Application { error, .. } => (Some(**error), text),
            _ => (None, text),
        },
        _ => (None, text),
    }
}
