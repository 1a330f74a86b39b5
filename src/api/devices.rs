//! Devices as resources: `DELETE /v1/projects/{project}/devices/{token}` ends a registration and erases what belongs to
//! it; `GET …/history` tells what became of its messages.

mod history;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;

use super::fault::Fault;
use super::{ApiState, admission, answer, body};
use crate::telemetry::{self, Metric};

pub(super) use self::history::{HISTORY, history};

/// The path of a device, with project and token as parameters.
pub(super) const DEVICE: &str = "/v1/projects/{project}/devices/{token}";

/// Erases a device: 200 with `{}` once that is durable, `UNREGISTERED` if it is gone already.
pub(super) async fn erase(
    State(state): State<Arc<ApiState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    // A path that does not decode names no project and no device.
    let (project, token) = path.map_or_else(|_| Default::default(), |Path(names)| names);
    let (head, body) = request.into_parts();
    body::discard(body).await;
    let erased = async {
        let _permit = admission::permit(&state)?;
        let project = admission::open_project(&state, &project, &head.headers)?;
        let erased = state.publisher.erase(project, &token).await;
        let retry_after = state.settings.retry_after;
        erased.map_err(|error| Fault::from_publish(&error, "token", retry_after))
    };
    match erased.await {
        Ok(()) => {
            telemetry::counter_with(Metric::ApiRequests, "ok", 1);
            answer::done()
        }
        Err(fault) => answer::failure(&fault),
    }
}
