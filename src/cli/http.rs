//! A small HTTP client for the commands that publish: one broker, one connection, POST of JSON with a bearer key.
//!
//! The connection is made at the first request, reused, and made anew after it broke. A request is never repeated by
//! itself: whether a publish that got no answer was accepted, only its publisher can decide to find out.

mod url;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::url::Url;

/// How long connecting may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take: well above the time after which the broker itself gives up on a publish.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A publisher's connection to one broker.
pub(super) struct Http {
    url: Url,
    tls: Option<TlsConnector>,
    bearer: HeaderValue,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Http {
    /// Prepares a client; nothing is sent yet. `ca` is needed for `https://` alone.
    pub(super) fn new(url: &str, ca: Option<&Path>, api_key: &str) -> Result<Self, HttpError> {
        let url = Url::parse(url)?;
        let tls = if url.is_tls {
            let ca = ca.ok_or_else(|| HttpError::NoCa {
                url: url.text.clone(),
            })?;
            Some(connector(ca)?)
        } else {
            None
        };
        let mut bearer =
            HeaderValue::try_from(format!("Bearer {api_key}")).map_err(|_| HttpError::Key)?;
        bearer.set_sensitive(true);
        Ok(Self {
            url,
            tls,
            bearer,
            sender: None,
        })
    }

    /// Publishes one FCM message body in a project.
    ///
    /// # Cancel safety
    /// Cancelled, the message may or may not have been accepted; the connection is made anew next time.
    pub(super) async fn publish(
        &mut self,
        project: &str,
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let path = format!("/v1/projects/{project}/messages:send");
        self.call(Method::POST, &path, body)
            .await
            .map_err(|error| match error {
                HttpError::Path => HttpError::Project {
                    project: project.to_owned(),
                },
                other => other,
            })
    }

    /// Sends one request.
    ///
    /// # Cancel safety
    /// As [`Http::publish`].
    pub(super) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url.prefix))
            .header(HOST, &self.url.authority)
            .header(AUTHORIZATION, &self.bearer)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| HttpError::Path)?;
        let mut sender = self.connected().await?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(io::Error::other)?
                .to_bytes();
            Ok((Answer { status, body }, sender))
        };
        let lost = |source| HttpError::Lost {
            url: self.url.text.clone(),
            source,
        };
        let (answer, sender) = timeout(ANSWER_TIMEOUT, exchange)
            .await
            .map_err(|_| lost(io::Error::from(io::ErrorKind::TimedOut)))?
            .map_err(lost)?;
        self.sender = Some(sender);
        Ok(answer)
    }

    /// The open connection, taken out: it is put back once it has served a whole exchange.
    async fn connected(&mut self) -> Result<http1::SendRequest<Full<Bytes>>, HttpError> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .unwrap_or_else(|_| {
                Err(self.unreachable(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no answer within 5 s",
                )))
            })
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, HttpError> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port))
            .await
            .map_err(|source| self.unreachable(source))?;
        // Small requests must not wait for each other's acknowledgements.
        stream
            .set_nodelay(true)
            .map_err(|source| self.unreachable(source))?;
        let Some(tls) = &self.tls else {
            return self.handshake(stream).await;
        };
        let name = ServerName::try_from(self.url.host.clone()).map_err(|_| HttpError::Url {
            url: self.url.text.clone(),
            problem: "its host is no name that a certificate can hold",
        })?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|source| HttpError::Tls {
                url: self.url.text.clone(),
                source,
            })?;
        self.handshake(stream).await
    }

    async fn handshake<S>(&self, stream: S) -> Result<http1::SendRequest<Full<Bytes>>, HttpError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(io::Error::other(error)))?;
        // Ends with its sender, or with the connection; what went wrong is told to the request under way.
        drop(tokio::spawn(connection));
        Ok(sender)
    }

    fn unreachable(&self, source: io::Error) -> HttpError {
        let url = self.url.text.clone();
        if source.kind() == io::ErrorKind::ConnectionRefused {
            HttpError::Refused { url }
        } else {
            HttpError::Unreachable { url, source }
        }
    }
}

fn connector(ca: &Path) -> Result<TlsConnector, HttpError> {
    let bad = |problem: String| HttpError::Ca {
        path: ca.to_owned(),
        problem,
    };
    let pem = std::fs::read(ca).map_err(|error| bad(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(format!("it is not PEM ({error:?})")))?;
        roots
            .add(certificate)
            .map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What the broker answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// The name of the message, if the publish was accepted.
    pub(super) fn name(&self) -> Option<String> {
        if self.status != StatusCode::OK {
            return None;
        }
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        body.get("name")?.as_str().map(str::to_owned)
    }

    /// The status, and the body as JSON; `Null` where it is none.
    pub(super) fn json(&self) -> (u16, Value) {
        let body = serde_json::from_slice(&self.body).unwrap_or_default();
        (self.status.as_u16(), body)
    }

    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    /// Whether the broker left open if it accepted: it may deliver the message even so.
    pub(super) fn is_open(&self) -> bool {
        self.status.is_server_error()
    }

    /// The broker's error in one line: its message, its code, the status.
    pub(super) fn error(&self) -> String {
        let status = self.status.as_u16();
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = &body["error"];
        let Some(message) = error["message"].as_str() else {
            return format!(
                "what answers is no Petrel broker (HTTP {status} without an error of one): check the URL"
            );
        };
        let code = error["details"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|detail| detail["errorCode"].as_str())
            .or_else(|| error["status"].as_str())
            .unwrap_or("no code");
        format!("the broker refused: {message} ({code}, HTTP {status})")
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("{url:?} is no address of a broker: {problem}; write it as http://127.0.0.1:7480")]
    Url { url: String, problem: &'static str },
    #[error(
        "{url} speaks TLS: name the CA that signed its certificate with --ca FILE (the broker's tls/ca.pem)"
    )]
    NoCa { url: String },
    #[error(
        "the CA file {} cannot be used: {problem}; copy the broker's tls/ca.pem there, or name the right file",
        path.display()
    )]
    Ca { path: PathBuf, problem: String },
    #[error("the API key holds characters that no key has: check what was pasted")]
    Key,
    #[error("{project:?} is no name of a project: check --project")]
    Project { project: String },
    #[error("the request has no valid path; please report it")]
    Path,
    #[error("no broker answers at {url}; is `petrel serve` running?")]
    Refused { url: String },
    #[error("cannot reach {url}: {source}")]
    Unreachable { url: String, source: io::Error },
    #[error(
        "no TLS with {url}: {source}; check that --ca is the CA of this broker and that the certificate holds this name"
    )]
    Tls { url: String, source: io::Error },
    #[error(
        "{url} gave no answer: {source}; the message may have been accepted, sending again may deliver it twice"
    )]
    Lost { url: String, source: io::Error },
}

impl HttpError {
    /// Whether the request may have reached the broker.
    pub(super) fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn an_fcm_error_becomes_one_line() {
        let full = r#"{"error":{"code":404,"message":"Forget it.","status":"NOT_FOUND","details":[
            {"@type":"other"},{"@type":"FcmError","errorCode":"UNREGISTERED"}]}}"#;
        assert_eq!(
            answer(404, full).error(),
            "the broker refused: Forget it. (UNREGISTERED, HTTP 404)"
        );
        let bare = r#"{"error":{"message":"No.","status":"PERMISSION_DENIED"}}"#;
        assert_eq!(
            answer(403, bare).error(),
            "the broker refused: No. (PERMISSION_DENIED, HTTP 403)"
        );
        assert!(answer(502, "<html>").error().contains("no Petrel broker"));
    }

    #[test]
    fn only_a_named_message_was_accepted() {
        assert_eq!(
            answer(200, r#"{"name":"projects/p/messages/1-2"}"#)
                .name()
                .as_deref(),
            Some("projects/p/messages/1-2")
        );
        assert_eq!(answer(200, "{}").name(), None);
        assert_eq!(answer(503, r#"{"name":"x"}"#).name(), None);
    }

    #[tokio::test]
    async fn a_closed_port_asks_whether_a_broker_runs() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Http::new(&url, None, "k")
            .unwrap()
            .publish("p", Bytes::new())
            .await;
        let error = error.unwrap_err();
        assert!(!error.may_have_arrived());
        let text = error.to_string();
        assert!(
            text.contains(&url) && text.contains("petrel serve"),
            "{text}"
        );
    }

    #[test]
    fn tls_without_a_ca_and_odd_keys_are_refused_before_anything_is_sent() {
        let error = |url, key| Http::new(url, None, key).err().unwrap().to_string();
        assert!(error("https://h", "k").contains("--ca FILE"));
        assert!(!error("http://h", "se\ncret").contains("se\ncret"));
    }
}
