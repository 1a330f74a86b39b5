//! Letting a request in: before its body is read, and by what its headers say. What is not let in is answered here.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use petrel_protocol::ProjectId;
use tokio::sync::SemaphorePermit;

use super::cause::Cause;
use super::fault::Fault;
use super::readiness::Phase;
use super::{ApiState, answer, auth, body};

/// Takes one of the permits, once the broker takes requests at all.
pub(super) fn permit(state: &ApiState) -> Result<SemaphorePermit<'_>, Fault> {
    let again = |cause| Fault::new(cause).retry_after(state.settings.retry_after);
    match state.readiness.phase() {
        Phase::Ready => {}
        Phase::Starting => return Err(again(Cause::Starting)),
        Phase::Draining => return Err(again(Cause::Draining)),
    }
    state
        .permits
        .try_acquire()
        .map_err(|_| again(Cause::NoPermit))
}

/// Opens the project of a path with the key of a request. One that does not exist and one that the key does not open
/// get the same answer.
pub(super) fn open_project(
    state: &ApiState,
    project: &str,
    headers: &HeaderMap,
) -> Result<ProjectId, Fault> {
    let opened = auth::bearer(headers)
        .and_then(|key| state.directory.project_by_api_key(key))
        .ok_or_else(|| Fault::new(Cause::Unauthenticated))?;
    if state.directory.project_by_name(project) != Some(opened) {
        return Err(Fault::new(Cause::PermissionDenied));
    }
    Ok(opened)
}

/// Answers a request whose body nobody read.
pub(super) async fn refuse(fault: Fault, body: Body) -> Response {
    body::discard(body).await;
    answer::failure(&fault)
}

pub(super) async fn unknown_path(request: Request) -> Response {
    refuse(Fault::new(Cause::UnknownPath), request.into_body()).await
}

pub(super) async fn wrong_method(request: Request) -> Response {
    refuse(Fault::new(Cause::WrongMethod), request.into_body()).await
}
