//! A publisher's and an operator's connection: HTTP/1.1 to one loopback address, one request at a time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer that is read. Metrics are the longest.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// One connection, made at the first request and anew after it broke.
pub(crate) struct Http {
    address: SocketAddr,
    bearer: Option<HeaderValue>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The broker's message, or what there is instead.
    pub(crate) fn error(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = body["error"]["message"].as_str().unwrap_or("no message");
        format!("{text} (HTTP {})", self.status.as_u16())
    }
}

impl Http {
    pub(crate) fn new(address: SocketAddr, api_key: Option<&str>) -> Result<Self> {
        let bearer = api_key
            .map(|key| HeaderValue::try_from(format!("Bearer {key}")))
            .transpose();
        let mut bearer = bearer.context("the API key holds characters that no key has")?;
        if let Some(bearer) = &mut bearer {
            bearer.set_sensitive(true);
        }
        Ok(Self {
            address,
            bearer,
            sender: None,
        })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Cancel safety
    /// Cancelled, the request may have been carried out; the connection is made anew next time.
    pub(crate) async fn request(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string());
        if let Some(bearer) = &self.bearer {
            request = request
                .header(AUTHORIZATION, bearer)
                .header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body))
            .with_context(|| format!("{path} is no path"))?;
        let exchange = async {
            let mut sender = self.connected().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            match Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
            {
                Ok(body) => Ok((
                    Answer {
                        status,
                        body: body.to_bytes(),
                    },
                    sender,
                )),
                Err(error) => bail!("its answer cannot be read: {error}"),
            }
        };
        let answered = timeout(ANSWER_TIMEOUT, exchange).await;
        let answered = answered.with_context(|| format!("no answer within {ANSWER_TIMEOUT:?}"));
        let (answer, sender) = answered
            .and_then(|result| result)
            .with_context(|| format!("the broker's HTTP address {} is of no use", self.address))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    async fn connected(&mut self) -> Result<SendRequest<Full<Bytes>>> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let stream = TcpStream::connect(self.address).await?;
        // Small requests must not wait for each other's acknowledgements.
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with its sender, or with the connection; what went wrong is told to the request under way.
        drop(tokio::spawn(connection));
        Ok(sender)
    }
}

/// The address in `http://ip:port`.
pub(crate) fn address(url: &str) -> Result<SocketAddr> {
    let Some(authority) = url.strip_prefix("http://") else {
        bail!("{url:?} does not begin with http://: load is published without TLS");
    };
    let address = authority.trim_end_matches('/').parse();
    address.with_context(|| format!("{url:?} has to be http://ip:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_taken() {
        assert_eq!(
            address("http://127.0.0.1:7480/").unwrap().to_string(),
            "127.0.0.1:7480"
        );
        for bad in [
            "https://127.0.0.1:7480",
            "127.0.0.1:7480",
            "http://localhost:7480",
            "http://127.0.0.1",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut http = Http::new(address, None).unwrap();
        let error = http
            .request(Method::GET, "/metrics", Bytes::new())
            .await
            .unwrap_err();
        assert!(
            format!("{error:#}").contains(&address.to_string()),
            "{error:#}"
        );
    }

    #[test]
    fn an_error_becomes_one_line() {
        let answer = |body: &str| Answer {
            status: StatusCode::FORBIDDEN,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        assert_eq!(
            answer(r#"{"error":{"message":"No."}}"#).error(),
            "No. (HTTP 403)"
        );
        assert_eq!(answer("<html>").error(), "no message (HTTP 403)");
    }
}
