//! The dialect of Firebase Cloud Messaging, HTTP v1: `POST /v1/projects/{project}/messages:send`.
//!
//! [`request`] turns a body into a target and a draft or into everything that is wrong with it, [`answer`] turns an
//! outcome into FCM's JSON. Here is what happens in between: admission, key, body, publish.
//!
//! Differences to FCM, all of them: a body that is too long is answered 413 instead of 400; fields that Petrel does
//! not know or not support are refused by path instead of being ignored; `message.petrel` says delivery options for
//! every platform; a message that is only validated is named `projects/{project}/messages/validate-only`; answers of
//! errors carry a third detail, `google.rpc.ErrorInfo`, with Petrel's stable code as reason.

mod fields;
mod header;
mod options;
mod request;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use petrel_protocol::ProjectId;
use tokio::sync::SemaphorePermit;

use super::body::{self, BodyError};
use super::cause::Cause;
use super::fault::Fault;
use super::{ApiState, admission, answer};
use crate::telemetry::{self, Metric};
use request::Publish;

/// The path of the dialect, with the project as parameter.
pub(super) const SEND: &str = "/v1/projects/{project}/messages:send";

/// Publishes a message.
pub(super) async fn send(
    State(state): State<Arc<ApiState>>,
    project: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // A path that does not decode names no project.
    let project = project.map_or_else(|_| String::new(), |Path(name)| name);
    let (head, body) = request.into_parts();
    let (permit, id) = match admit(&state, &project, &head.headers, &body) {
        Ok(admitted) => admitted,
        Err(fault) => return admission::refuse(fault, body).await,
    };
    let outcome = publish(&state, &project, id, body).await;
    drop(permit);
    match outcome {
        Ok(name) => {
            telemetry::counter_with(Metric::ApiRequests, "ok", 1);
            answer::success(&name)
        }
        Err(fault) => answer::failure(&fault),
    }
}

/// Everything that the headers decide, cheapest first.
fn admit<'a>(
    state: &'a ApiState,
    project: &str,
    headers: &HeaderMap,
    body: &Body,
) -> Result<(SemaphorePermit<'a>, ProjectId), Fault> {
    let permit = admission::permit(state)?;
    if body::is_declared_too_large(body, state.settings.body_bytes_max) {
        return Err(Fault::new(Cause::BodyTooLarge));
    }
    let opened = admission::open_project(state, project, headers)?;
    if !is_json_or_unsaid(headers) {
        return Err(Fault::new(Cause::UnsupportedMediaType));
    }
    Ok((permit, opened))
}

fn is_json_or_unsaid(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|value| {
        value.to_str().is_ok_and(|text| {
            let essence = text.split(';').next().unwrap_or(text).trim();
            essence.eq_ignore_ascii_case("application/json")
        })
    })
}

/// Reads, checks and publishes; the name of the message.
async fn publish(
    state: &ApiState,
    project: &str,
    id: ProjectId,
    body: Body,
) -> Result<String, Fault> {
    let settings = &state.settings;
    let body = body::read(body, settings.body_bytes_max, settings.body_timeout)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge => Fault::new(Cause::BodyTooLarge),
            BodyError::TooSlow => Fault::new(Cause::BodyTooSlow).retry_after(settings.retry_after),
            BodyError::Broken => {
                Fault::with_message(Cause::InvalidRequest, "the body ended too early; repeat")
            }
        })?;
    let Publish {
        target,
        target_field,
        draft,
        is_validate_only,
    } = request::parse(&body, (state.now)())?;
    drop(body);
    if is_validate_only {
        return Ok(answer::name(project, "validate-only"));
    }
    let began = Instant::now();
    let outcome = state.publisher.publish(id, target, draft).await;
    telemetry::seconds(Metric::ApiPublishSeconds, began.elapsed());
    match outcome {
        Ok(message) => Ok(answer::name(project, &message.to_string())),
        Err(error) => Err(Fault::from_publish(
            &error,
            target_field,
            settings.retry_after,
        )),
    }
}
