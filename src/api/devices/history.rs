//! `GET /v1/projects/{project}/devices/{token}/history?limit=N&before=MESSAGE`: what became of the messages that were sent
//! to this device, newest first. `limit` is 1 to 1000, 100 where it is not given; `before` is the last part of a
//! message's name and gives the next page.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use petrel_core::Timeline;
use petrel_protocol::MessageId;
use serde::Serialize;

use super::super::cause::Cause;
use super::super::fault::{Fault, Violations};
use super::super::{ApiState, admission, answer, body};
use crate::delivery::DeviceHistory;
use crate::telemetry::{self, Metric};

/// The path of a device's history, with project and token as parameters.
pub(in crate::api) const HISTORY: &str = "/v1/projects/{project}/devices/{token}/history";

/// Most messages of one answer.
const LIMIT_MAX: usize = 1000;

/// Messages of an answer where the request does not say.
const LIMIT: usize = 100;

/// Behind every message that there is or will be.
const NEWEST: MessageId = MessageId {
    epoch: u32::MAX,
    sequence: u64::MAX,
};

#[derive(Serialize)]
struct History {
    /// Whether the device is connected.
    online: bool,
    /// Whether anything waits in its stored queue.
    queued: bool,
    messages: Vec<Message>,
}

#[derive(Serialize)]
struct Message {
    name: String,
    /// How it ended; `waiting` if it did not, as far as is known.
    state: &'static str,
    history: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    happening: &'static str,
    time: String,
}

impl Message {
    fn new(project: &str, timeline: &Timeline) -> Self {
        let step = |(happening, at): &(petrel_core::Happening, petrel_core::UnixMillis)| Step {
            happening: happening.as_str(),
            time: at.to_rfc3339(),
        };
        Self {
            name: answer::name(project, &timeline.id.to_string()),
            state: timeline.end().map_or("waiting", |end| end.as_str()),
            history: timeline.steps().iter().map(step).collect(),
        }
    }
}

/// Answers with the history of a device.
pub(in crate::api) async fn history(
    State(state): State<Arc<ApiState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    // A path that does not decode names no project and no device.
    let (name, token) = path.map_or_else(|_| Default::default(), |Path(names)| names);
    let (head, body) = request.into_parts();
    body::discard(body).await;
    let read = async {
        let _permit = admission::permit(&state)?;
        let project = admission::open_project(&state, &name, &head.headers)?;
        let (limit, before) = page(head.uri.query().unwrap_or_default())?;
        let read = state.publisher.history(project, &token, before, limit);
        let retry_after = state.settings.retry_after;
        read.await
            .map_err(|error| Fault::from_publish(&error, "token", retry_after))
    };
    match read.await {
        Ok(DeviceHistory {
            is_online,
            has_queue,
            timelines,
        }) => {
            telemetry::counter_with(Metric::ApiRequests, "ok", 1);
            answer::found(&History {
                online: is_online,
                queued: has_queue,
                messages: timelines.iter().map(|t| Message::new(&name, t)).collect(),
            })
        }
        Err(fault) => answer::failure(&fault),
    }
}

/// What the query asks for: how many, and below which id.
fn page(query: &str) -> Result<(usize, MessageId), Fault> {
    let (mut limit, mut before) = (None, None);
    let mut violations = Violations::default();
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "limit" if limit.is_none() => {
                let number = value.parse::<usize>().ok();
                limit = number.filter(|n| (1..=LIMIT_MAX).contains(n));
                if limit.is_none() {
                    violations.add("limit", format!("is a number from 1 to {LIMIT_MAX}"));
                }
            }
            "before" if before.is_none() => {
                before = value.parse::<MessageId>().ok();
                if before.is_none() {
                    violations.add("before", "is the last part of a message's name");
                }
            }
            "limit" | "before" => violations.add(key, "is given twice; give it once"),
            _ => violations.add("query", "has a parameter other than limit and before"),
        }
    }
    if violations.is_empty() {
        Ok((limit.unwrap_or(LIMIT), before.unwrap_or(NEWEST)))
    } else {
        let list = violations.into_list();
        Err(Fault::violations(Cause::InvalidRequest, list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded() {
        let id = MessageId {
            epoch: 0x6a4e,
            sequence: 17,
        };
        assert_eq!(page(""), Ok((LIMIT, NEWEST)));
        assert_eq!(page("limit=1"), Ok((1, NEWEST)));
        assert_eq!(page("before=6a4e-17&limit=1000"), Ok((1000, id)));
    }

    #[test]
    fn what_is_wrong_with_a_query_is_named() {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=", "limit"),
            ("limit=-1", "limit"),
            ("limit=1&limit=2", "limit"),
            ("before=x", "before"),
            ("before", "before"),
            ("order=oldest", "query"),
        ] {
            let fault = page(query).unwrap_err();
            assert_eq!(fault.cause, Cause::InvalidRequest, "{query}");
            assert_eq!(fault.violations[0].field, field, "{query}");
        }
        let all = page("limit=0&before=&x=1").unwrap_err();
        assert_eq!(all.violations.len(), 3);
    }
}
