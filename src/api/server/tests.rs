//! The server over real sockets, with routers that know nothing of push.

use std::net::SocketAddr;

use axum::body::Body;
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// Nothing here should take this long; where it does, the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    ended: JoinHandle<usize>,
}

impl Server {
    async fn start(
        router: Router,
        tls: Option<Arc<ServerConfig>>,
        settings: ServerSettings,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let ended = tokio::spawn(serve(listener, tls, router, settings, stopping));
        Self {
            address,
            stop,
            ended,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Drains; the number of connections that were cut.
    async fn stop(self) -> usize {
        self.stop.send_replace(true);
        timeout(PATIENCE, self.ended).await.unwrap().unwrap()
    }
}

fn settings() -> ServerSettings {
    ServerSettings::new(16)
}

fn hello() -> Router {
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/echo", post(async |body: String| body))
}

/// Answers once told to; says when a request has come.
fn held() -> (Router, Arc<Semaphore>, Arc<Semaphore>) {
    let (come, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (come_in, go_out) = (Arc::clone(&come), Arc::clone(&go));
    let wait = async move || {
        come_in.add_permits(1);
        go_out.acquire().await.unwrap().forget();
        "held"
    };
    (hello().route("/held", get(wait)), come, go)
}

const GET_HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

/// Reads until the text contains a part, or to the end.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), part: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        let mut chunk = [0; 1024];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => text.extend_from_slice(&chunk[..n]),
            }
            if String::from_utf8_lossy(&text).contains(part) {
                break;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("an answer or an end");
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads to the end, which must come.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    read_until(stream, "\u{0}never").await
}

type H2 = hyper::client::conn::http2::SendRequest<Body>;

async fn h2<T>(stream: T) -> (H2, JoinHandle<bool>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    (sender, tokio::spawn(async { connection.await.is_ok() }))
}

async fn h2_get(sender: &mut H2, path: &str) -> Result<String, hyper::Error> {
    let request = Request::builder().uri(format!("http://x{path}"));
    let answer = sender
        .send_request(request.body(Body::empty()).unwrap())
        .await?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn http1_is_served_and_kept_alive() {
    let server = Server::start(hello(), None, settings()).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream.write_all(GET_HELLO).await.unwrap();
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(server.stop().await, 0);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn http2_is_served_with_prior_knowledge() {
    let server = Server::start(hello(), None, settings()).await;
    let (sender, connection) = h2(server.connect().await).await;
    let requests: Vec<_> = (0..300)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move { h2_get(&mut sender, "/hello").await.unwrap() })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), "hello");
    }
    assert_eq!(server.stop().await, 0);
    assert!(timeout(PATIENCE, connection).await.unwrap().unwrap());
}

fn tls_configs() -> (Arc<ServerConfig>, ClientConfig) {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(issued.cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), client)
}

async fn tls_connect(
    server: &Server,
    mut client: ClientConfig,
    alpn: &[&[u8]],
) -> TlsStream<TcpStream> {
    client.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(client))
        .connect(name, server.connect().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn tls_offers_both_versions() {
    let (tls, client) = tls_configs();
    let server = Server::start(hello(), Some(tls), settings()).await;

    let stream = tls_connect(&server, client.clone(), &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, _connection) = h2(stream).await;
    assert_eq!(h2_get(&mut sender, "/hello").await.unwrap(), "hello");

    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let mut stream = tls_connect(&server, client.clone(), alpn).await;
        stream.write_all(GET_HELLO).await.unwrap();
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(server.stop().await, 0);
}

#[tokio::test]
async fn a_tls_handshake_must_be_quick_and_be_tls() {
    let (tls, _) = tls_configs();
    let bounds = ServerSettings {
        tls_handshake_timeout: Duration::from_millis(100),
        ..settings()
    };
    let server = Server::start(hello(), Some(tls), bounds).await;
    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    let mut plain = server.connect().await;
    plain.write_all(GET_HELLO).await.unwrap();
    assert!(!read_to_end(&mut plain).await.contains("HTTP"));
    assert_eq!(server.stop().await, 0);
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let bounds = ServerSettings {
        header_timeout: Duration::from_millis(200),
        ..settings()
    };
    let server = Server::start(hello(), None, bounds).await;
    // Nothing at all, the first bytes of either version, a head that drips.
    for first in ["", "PRI", "GET /hel", "GET /hello HTTP/1.1\r\nhost: x\r\n"] {
        let (mut reader, mut writer) = server.connect().await.into_split();
        writer.write_all(first.as_bytes()).await.unwrap();
        let drip = tokio::spawn(async move {
            while !first.is_empty() && writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Held, so that only the server ends the connection.
            std::future::pending::<()>().await;
        });
        let began = Instant::now();
        let text = read_to_end(&mut reader).await;
        assert!(!text.contains(" 200 "), "{first:?}: {text}");
        assert!(began.elapsed() < PATIENCE / 2, "{first:?}");
        drip.abort();
    }
    assert_eq!(server.stop().await, 0);
}

#[tokio::test]
async fn an_http2_connection_that_only_rests_is_told_to_go() {
    let bounds = ServerSettings {
        header_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_millis(100),
        ..settings()
    };
    let server = Server::start(hello(), None, bounds).await;
    let (mut sender, connection) = h2(server.connect().await).await;
    assert_eq!(h2_get(&mut sender, "/hello").await.unwrap(), "hello");
    assert!(timeout(PATIENCE, connection).await.unwrap().unwrap());
    assert_eq!(server.stop().await, 0);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let bounds = ServerSettings::new(2);
    let places = Arc::clone(&bounds.connections);
    let server = Server::start(hello(), None, bounds).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    for stream in [&mut first, &mut second] {
        stream.write_all(GET_HELLO).await.unwrap();
        assert!(read_until(stream, "hello").await.contains(" 200 "));
    }
    assert_eq!(places.available_permits(), 0);
    let mut third = server.connect().await;
    third.write_all(GET_HELLO).await.unwrap();
    let early = timeout(Duration::from_millis(200), third.readable()).await;
    assert!(early.is_err(), "answered beyond the bound");
    drop(first);
    assert!(read_until(&mut third, "hello").await.contains(" 200 "));
    drop((second, third));
    assert_eq!(server.stop().await, 0);
    assert_eq!(places.available_permits(), 2);
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_refused() {
    let server = Server::start(hello(), None, settings()).await;
    let with_header = |bytes: usize| {
        format!(
            "GET /hello HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
            "y".repeat(bytes)
        )
    };
    for (bytes, status) in [(8 * 1024, "200"), (32 * 1024, "431")] {
        let mut stream = server.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(with_header(bytes).as_bytes()).await;
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    assert_eq!(server.stop().await, 0);
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_takes_no_new_ones() {
    let (router, come, go) = held();
    let server = Server::start(router, None, settings()).await;
    let address = server.address;
    let mut h1 = server.connect().await;
    h1.write_all(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (mut sender, connection) = h2(server.connect().await).await;
    let mut further = sender.clone();
    let h2_held = tokio::spawn(async move { h2_get(&mut sender, "/held").await });
    come.acquire_many(2).await.unwrap().forget();

    let stopped = tokio::spawn(server.stop());
    // After GOAWAY the connection takes no further request; until it has arrived it does.
    let refused = async { while h2_get(&mut further, "/hello").await.is_ok() {} };
    timeout(PATIENCE, refused).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!stopped.is_finished());

    go.add_permits(2);
    let answer = read_to_end(&mut h1).await;
    assert!(answer.ends_with("held"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(h2_held.await.unwrap().unwrap(), "held");
    assert!(timeout(PATIENCE, connection).await.unwrap().unwrap());
    assert_eq!(stopped.await.unwrap(), 0);
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let (router, come, _go) = held();
    let bounds = ServerSettings {
        drain_timeout: Duration::from_millis(100),
        ..settings()
    };
    let server = Server::start(router, None, bounds).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    come.acquire().await.unwrap().forget();
    assert_eq!(server.stop().await, 1);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn a_server_whose_owner_is_gone_ends() {
    let Server { stop, ended, .. } = Server::start(hello(), None, settings()).await;
    drop(stop);
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_panic_ends_one_connection_only() {
    let boom = async || -> &'static str { panic!("on purpose") };
    let router = hello().route("/boom", get(boom));
    let server = Server::start(router, None, settings()).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /boom HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
    let (mut sender, _connection) = h2(server.connect().await).await;
    assert!(h2_get(&mut sender, "/boom").await.is_err());
    assert_eq!(h2_get(&mut sender, "/hello").await.unwrap(), "hello");
    assert_eq!(server.stop().await, 0);
}
