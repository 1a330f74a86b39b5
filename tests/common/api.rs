//! A publisher and an operator: plain HTTP/1.1 with keep-alive.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use petrel_protocol::MessageId;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::{Broker, within};

/// What a server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON; `Null` where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The id in the name of an accepted message.
    ///
    /// # Panics
    /// If the publish was refused.
    pub(crate) fn id(&self) -> MessageId {
        assert_eq!(self.status, 200, "{}", self.text);
        let json = self.json();
        let name = json["name"].as_str().unwrap();
        name.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// The stable code of a refusal, as `UNREGISTERED`.
    pub(crate) fn reason(&self) -> String {
        let json = self.json();
        let details = json["error"]["details"].as_array().cloned();
        let last = details.unwrap_or_default().pop().unwrap_or_default();
        last["reason"].as_str().unwrap_or_default().to_owned()
    }
}

type Connection = Mutex<Option<SendRequest<Full<Bytes>>>>;

/// Publishes to a broker's demo project and reads its admin pages. One request at a time; for more, make more.
pub(crate) struct Api {
    http: SocketAddr,
    admin: SocketAddr,
    project: String,
    api_key: String,
    to_http: Connection,
    to_admin: Connection,
}

impl Api {
    pub(crate) fn new(broker: &Broker) -> Self {
        Self::with_keys(broker, &broker.ready.project, &broker.ready.api_key)
    }

    /// For a project of the configuration.
    pub(crate) fn with_keys(broker: &Broker, project: &str, api_key: &str) -> Self {
        Self {
            http: broker.ready.http,
            admin: broker.ready.admin,
            project: project.to_owned(),
            api_key: api_key.to_owned(),
            to_http: Mutex::default(),
            to_admin: Mutex::default(),
        }
    }

    /// Publishes `message`, whatever it says.
    pub(crate) async fn publish(&self, message: Value) -> Answer {
        let path = format!("/v1/projects/{}/messages:send", self.project);
        let body = json!({ "message": message }).to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, self.http.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.api_key))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .unwrap();
        exchange(&self.to_http, self.http, request).await
    }

    /// Publishes to one device: `fields` are those of the message beside its target.
    pub(crate) async fn publish_token(&self, token: &str, mut fields: Value) -> Answer {
        fields["token"] = token.into();
        self.publish(fields).await
    }

    /// Publishes to a topic.
    pub(crate) async fn publish_topic(&self, topic: &str, mut fields: Value) -> Answer {
        fields["topic"] = topic.into();
        self.publish(fields).await
    }

    /// Erases a device.
    pub(crate) async fn erase(&self, token: &str) -> Answer {
        let path = format!("/v1/projects/{}/devices/{token}", self.project);
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(path)
            .header(HOST, self.http.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.api_key))
            .body(Full::default())
            .unwrap();
        exchange(&self.to_http, self.http, request).await
    }

    /// Asks what became of a device's messages.
    pub(crate) async fn history(&self, token: &str, query: &str) -> Answer {
        let project = &self.project;
        let path = format!("/v1/projects/{project}/devices/{token}/history?{query}");
        let request = Request::builder()
            .uri(path)
            .header(HOST, self.http.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.api_key))
            .body(Full::default())
            .unwrap();
        exchange(&self.to_http, self.http, request).await
    }

    /// Reads a page of the admin port.
    pub(crate) async fn page(&self, path: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .header(HOST, self.admin.to_string())
            .body(Full::default())
            .unwrap();
        exchange(&self.to_admin, self.admin, request).await
    }

    /// A metric as it stands now, summed over its series that contain `label` (such as `outcome="acked"`; all where it
    /// is empty).
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.page("/metrics").await;
        assert_eq!(page.status, 200, "{}", page.text);
        page.text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| series.split('{').next() == Some(name) && series.contains(label))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }
}

/// Sends over the connection that is there, or a new one.
async fn exchange(slot: &Connection, to: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let what = format!("{} {}", request.method(), request.uri());
    within(&what, async {
        let mut slot = slot.lock().await;
        if slot.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(to).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
            // Ends with the connection.
            tokio::spawn(connection);
            *slot = Some(sender);
        }
        let sender = slot.as_mut().unwrap();
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer {
            status,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    })
    .await
}
