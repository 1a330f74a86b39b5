//! A publisher: one publish at a time, each a new message, none repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::book::{Address, FLOOD, TOPICS, content};
use crate::chance::Chance;
use crate::common::Answer;
use crate::world::{Life, Mood, World};

type Sender = SendRequest<Full<Bytes>>;

/// What to send, and to whom.
struct Draft {
    label: usize,
    body: String,
}

/// Publishes until the end of the world.
pub(crate) async fn publish(world: Arc<World>, number: u64) {
    let mut chance = world.chance(1_000 + number);
    loop {
        let life = world.living(0).await;
        let lived = world.while_alive(&life, session(&world, &life, &mut chance));
        lived.await;
        // What was under way is without an answer; the next life has another number.
        world.living(life.number).await;
    }
}

/// An answer that is never waited for: its message may have been accepted.
struct Under<'a> {
    world: &'a World,
    label: usize,
    is_answered: bool,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.world.book().unsure(self.label);
        }
    }
}

/// Over one connection, until it breaks.
async fn session(world: &World, life: &Life, chance: &mut Chance) {
    let mut moods = world.mood.subscribe();
    let Ok(stream) = TcpStream::connect(life.http).await else {
        return;
    };
    stream.set_nodelay(true).unwrap();
    let Ok((mut sender, connection)) = handshake(TokioIo::new(stream)).await else {
        return;
    };
    // Ends with the connection.
    tokio::spawn(connection);
    loop {
        let is_busy = |mood: &Mood| matches!(mood, Mood::Steady | Mood::Burst);
        let mood = *moods.wait_for(is_busy).await.unwrap();
        if mood == Mood::Steady {
            // The pace, so that the run is long in kills and not in messages.
            tokio::time::sleep(chance.millis(0..6)).await;
        }
        let Some(draft) = draft(world, mood, chance) else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut under = Under {
            world,
            label: draft.label,
            is_answered: false,
        };
        let Some(answer) = exchange(&mut sender, world, life, draft.body).await else {
            return;
        };
        under.is_answered = true;
        let mut book = world.book();
        match answer.status {
            200 => {
                book.accepted(draft.label, answer.id());
                drop(book);
                world.accepted.notify_waiters();
            }
            404 if answer.reason() == "UNREGISTERED" => book.refused(draft.label),
            503 => book.unsure(draft.label),
            _ => {
                let what = format!("was answered {} {}", answer.status, answer.text);
                book.violation(None, Some(draft.label), &what);
            }
        }
    }
}

/// Chooses a message; `None` if nobody can be sent to now.
fn draft(world: &World, mood: Mood, chance: &mut Chance) -> Option<Draft> {
    let mut book = world.book();
    let is_for_topic = mood == Mood::Burst || chance.percent(30);
    let address = if is_for_topic {
        let topic = chance.below(TOPICS.len());
        let is_reserved = book.accounts.iter().any(|account| account.is_reserved);
        if topic == FLOOD && is_reserved {
            return None;
        }
        Address::Topic(topic)
    } else {
        let device = chance.below(book.accounts.len().max(1));
        let account = book.accounts.get(device)?;
        // The dead are written to now and then.
        let is_wanted = account.ended_at.is_none() || chance.percent(5);
        if account.token.is_none() || account.is_reserved || !is_wanted {
            return None;
        }
        Address::Device(device)
    };
    let is_plain = match address {
        Address::Topic(topic) => topic == FLOOD,
        Address::Device(device) => book.accounts[device].is_plain,
    };
    let ttl = match chance.below(100) {
        _ if is_plain => None,
        0..4 => Some(Duration::ZERO),
        4..14 => Some(Duration::from_secs(1 + chance.next() % 3)),
        14..30 => Some(Duration::from_secs(3_600)),
        _ => None,
    };
    let may_collapse = !is_plain && ttl.is_none_or(|ttl| !ttl.is_zero());
    let key = (may_collapse && chance.percent(20)).then(|| ["score", "place"][chance.below(2)]);
    let urgency = ["very-low", "low", "normal", "high"][chance.below(4)];
    let label = book.publish(address, key, urgency, ttl);
    let mut message = json!({
        "data": { "n": label.to_string(), "content": content(label) },
        "petrel": { "urgency": urgency },
    });
    let options = &mut message["petrel"];
    if let Some(ttl) = ttl {
        options["ttl"] = format!("{}s", ttl.as_secs()).into();
    }
    if let Some(key) = key {
        options["collapse_key"] = key.into();
    }
    match address {
        Address::Topic(topic) => message["topic"] = TOPICS[topic].into(),
        Address::Device(device) => {
            message["token"] = Value::from(book.accounts[device].token.clone());
        }
    }
    Some(Draft {
        label,
        body: json!({ "message": message }).to_string(),
    })
}

async fn exchange(sender: &mut Sender, world: &World, life: &Life, body: String) -> Option<Answer> {
    let request = Request::post(format!("/v1/projects/{}/messages:send", world.project))
        .header(HOST, life.http.to_string())
        .header(AUTHORIZATION, format!("Bearer {}", world.api_key))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body))
        .unwrap();
    sender.ready().await.ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some(Answer {
        status,
        text: String::from_utf8_lossy(&body).into_owned(),
    })
}
