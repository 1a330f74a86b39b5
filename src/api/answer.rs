//! What publishers read: the name of a message, nothing at all, or an error in Google's shape.
//!
//! SDKs look for the detail of type `…fcm.v1.FcmError` first and for `error.status` next, so both are always right.
//! Every answer of an error is counted here.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;

use super::cause::Cause;
use super::fault::Fault;
use crate::telemetry::{self, Metric};

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=UTF-8");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"petrel\"");

const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

#[derive(Serialize)]
struct Success<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Failure<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
    details: Vec<Detail<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    #[serde(rename_all = "camelCase")]
    Fcm {
        #[serde(rename = "@type")]
        kind: &'static str,
        error_code: &'static str,
    },
    #[serde(rename_all = "camelCase")]
    Fields {
        #[serde(rename = "@type")]
        kind: &'static str,
        field_violations: Vec<FieldViolation<'a>>,
    },
    Info {
        #[serde(rename = "@type")]
        kind: &'static str,
        reason: String,
        domain: &'static str,
    },
}

#[derive(Serialize)]
struct FieldViolation<'a> {
    field: &'a str,
    description: &'a str,
}

/// The name of a message of a project.
pub(super) fn name(project: &str, message: &str) -> String {
    format!("projects/{project}/messages/{message}")
}

/// The message was accepted.
pub(super) fn success(name: &str) -> Response {
    respond(StatusCode::OK, &Success { name })
}

/// It was done, and there is nothing to say.
pub(super) fn done() -> Response {
    respond(StatusCode::OK, &Empty {})
}

/// It was read.
pub(super) fn found(body: &impl Serialize) -> Response {
    respond(StatusCode::OK, body)
}

/// It was not.
pub(super) fn failure(fault: &Fault) -> Response {
    let cause = fault.cause;
    telemetry::counter_with(Metric::ApiRequests, cause.code(), 1);
    let status =
        StatusCode::from_u16(cause.http()).expect("a test answers with every row of the table");
    let mut response = respond(
        status,
        &Failure {
            error: Error {
                code: cause.http(),
                message: &fault.message,
                status: cause.status(),
                details: details(fault),
            },
        },
    );
    let headers = response.headers_mut();
    if let Some(retry_after) = fault.retry_after {
        // Whole seconds, rounded up: "0" would mean at once.
        let seconds = retry_after.as_millis().div_ceil(1000).clamp(1, 86_400) as u64;
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if cause == Cause::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, BEARER);
    }
    response
}

fn details(fault: &Fault) -> Vec<Detail<'_>> {
    let mut details = Vec::with_capacity(3);
    if let Some(error_code) = fault.cause.fcm_error_code() {
        details.push(Detail::Fcm {
            kind: FCM_ERROR,
            error_code,
        });
    }
    if !fault.violations.is_empty() {
        let field_violations = fault
            .violations
            .iter()
            .map(|v| FieldViolation {
                field: &v.field,
                description: &v.description,
            })
            .collect();
        details.push(Detail::Fields {
            kind: BAD_REQUEST,
            field_violations,
        });
    }
    details.push(Detail::Info {
        kind: ERROR_INFO,
        reason: fault.cause.code().to_uppercase(),
        domain: "petrel",
    });
    details
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("texts and numbers always serialize");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::fault::Violation;

    async fn json(response: Response) -> Value {
        assert_eq!(response.headers()[CONTENT_TYPE], JSON);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn an_error_has_the_exact_shape() {
        let violations = vec![Violation {
            field: "message.token".to_owned(),
            description: "is \"bad\"".to_owned(),
        }];
        let response = failure(&Fault::violations(Cause::InvalidToken, violations));
        assert_eq!(response.status(), 400);
        assert_eq!(
            json(response).await,
            json!({"error": {
                "code": 400,
                "message": "message.token: is \"bad\"",
                "status": "INVALID_ARGUMENT",
                "details": [
                    {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "INVALID_ARGUMENT"},
                    {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [
                        {"field": "message.token", "description": "is \"bad\""},
                    ]},
                    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "INVALID_TOKEN", "domain": "petrel"},
                ],
            }})
        );
    }

    #[tokio::test]
    async fn every_cause_can_be_answered() {
        for cause in Cause::ALL {
            let response = failure(&Fault::new(*cause));
            assert_eq!(response.status().as_u16(), cause.http());
            let is_401 = cause.http() == 401;
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), is_401);
            let error = &json(response).await["error"];
            assert_eq!(error["code"], cause.http());
            assert_eq!(error["status"], cause.status());
            assert_eq!(error["message"], cause.advice());
            let code = &error["details"][0]["errorCode"];
            assert_eq!(code.as_str(), cause.fcm_error_code());
        }
    }

    #[tokio::test]
    async fn a_message_has_a_name() {
        let response = success(&name("demo", "6a4e-17"));
        assert_eq!(response.status(), 200);
        assert_eq!(
            json(response).await,
            json!({"name": "projects/demo/messages/6a4e-17"})
        );
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_zero() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")] {
            let fault = Fault::new(Cause::Draining).retry_after(Duration::from_millis(millis));
            assert_eq!(failure(&fault).headers()[RETRY_AFTER], seconds);
        }
        assert!(
            !failure(&Fault::new(Cause::Internal))
                .headers()
                .contains_key(RETRY_AFTER)
        );
    }
}
