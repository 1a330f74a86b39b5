//! The server that is made of plain quinn, on one thread: quinn's own task for each connection, and one of ours that
//! reads. Deliveries are written by the main task alone, which is the least that can be done: no channel, no wake-up.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use petrel_quic::SocketBuffers;
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, SendStream, ServerConfig, TokioRuntime,
    TransportConfig, congestion::NewRenoConfig, crypto::rustls::QuicServerConfig,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

use crate::wire::{self, Kind, Order, SENDS_PER_STEP};

/// Connections that were opened and wait for the main task.
const OPENED_MAX: usize = 1024;

/// Serves until standard input ends; `is_tuned` gives connections the bounds of petrel-quic.
pub(crate) fn run(is_tuned: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(is_tuned))
}

/// TLS as petrel-quic has it: stateless tickets, one for each handshake.
fn tls(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.ticketer = rustls::crypto::ring::Ticketer::new()?;
    tls.send_tls13_tickets = 1;
    Ok(tls)
}

fn transport(is_tuned: bool) -> Result<TransportConfig> {
    let limits = wire::limits();
    let mut transport = TransportConfig::default();
    // Without this idle connections would not live to be measured.
    transport.max_idle_timeout(Some(limits.idle_timeout.try_into()?));
    if is_tuned {
        transport
            .max_concurrent_bidi_streams(1u8.into())
            .max_concurrent_uni_streams(0u8.into())
            .stream_receive_window(limits.receive_window_bytes.into())
            .receive_window(limits.receive_window_bytes.into())
            .send_window(limits.send_window_bytes.into())
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(None)
            .allow_spin(false)
            .congestion_controller_factory(Arc::new(NewRenoConfig::default()));
    }
    Ok(transport)
}

/// A socket with the buffers that petrel-quic asks for.
fn socket() -> Result<UdpSocket> {
    let wanted = SocketBuffers {
        receive_bytes: 4 << 20,
        send_bytes: 4 << 20,
    };
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(wanted.receive_bytes)?;
    socket.set_send_buffer_size(wanted.send_bytes)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket.into())
}

async fn serve(is_tuned: bool) -> Result<()> {
    let (certificate, key) = wire::certificate()?;
    let crypto = QuicServerConfig::try_from(tls(certificate.clone(), key)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport(is_tuned)?));
    let endpoint = Endpoint::new(
        EndpointConfig::default(),
        Some(config),
        socket()?,
        Arc::new(TokioRuntime),
    )?;
    let (order_sender, mut orders) = mpsc::channel(1);
    wire::listen(move |order| order_sender.blocking_send(order).is_ok())?;
    wire::tell(&wire::write_ready(endpoint.local_addr()?, &certificate))?;

    let (opened_sender, mut opened) = mpsc::channel(OPENED_MAX);
    let mut peers: Vec<Peer> = Vec::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let incoming = incoming.context("the endpoint is closed")?;
                tokio::spawn(welcome(incoming, opened_sender.clone()));
            }
            peer = opened.recv() => peers.push(peer.context("a sender is held here")?),
            order = orders.recv() => match order {
                Some(order) => obey(&mut peers, order).await?,
                None => break,
            },
        }
    }
    endpoint.close(0u8.into(), b"");
    let _ = tokio::time::timeout(Duration::from_secs(2), endpoint.wait_idle()).await;
    Ok(())
}

/// What is kept of a connection to send on it.
struct Peer {
    conn: Connection,
    send: SendStream,
}

/// The task of a connection: answers the greeting, then reads what comes.
async fn welcome(incoming: Incoming, opened: mpsc::Sender<Peer>) -> Result<()> {
    let conn = incoming.await?;
    let (mut send, mut recv) = conn.accept_bi().await?;
    let greeting = recv.read_chunk(usize::MAX, true).await?;
    if greeting.is_some_and(|chunk| Kind::of(&chunk.bytes) == Some(Kind::Greeting)) {
        send.write_chunk(Kind::Greeting.message()).await?;
    }
    opened.send(Peer { conn, send }).await?;
    while recv.read_chunk(usize::MAX, true).await?.is_some() {}
    Ok(())
}

async fn obey(peers: &mut [Peer], order: Order) -> Result<()> {
    match order {
        Order::Send { kind, first, count } => {
            let message = kind.message();
            let end = (first + count).min(peers.len());
            for step in peers[first.min(end)..end].chunks_mut(SENDS_PER_STEP) {
                for peer in step {
                    // There is room, so this does not wait.
                    peer.send.write_chunk(message.clone()).await?;
                }
                // Tasks run in the order in which they were woken, so quinn's of these connections come first.
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
            wire::tell(wire::SENT)?;
        }
        Order::Datagrams => {
            let (mut sent, mut received) = (0, 0);
            for peer in &*peers {
                let stats = peer.conn.stats();
                sent += stats.udp_tx.datagrams;
                received += stats.udp_rx.datagrams;
            }
            wire::tell(&wire::write_datagrams(sent, received))?;
        }
    }
    Ok(())
}
