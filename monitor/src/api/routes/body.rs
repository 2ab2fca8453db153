//! Reads bodies whole before a route sees them, so that one place holds them to their size and their time.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use crate::api::problem::bad_request;
use crate::api::types::Problem;

/// The largest body: far more than any verb needs.
pub(in crate::api) const MAX: usize = 64 * 1024;

/// Reads the body of a request within the time, and passes the request on.
pub(super) async fn read(
    State(patience): State<Duration>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(patience, to_bytes(body, MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if error.source().is_some_and(|cause| cause.is::<LengthLimitError>()) => {
            return Err(bad_request(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MAX} bytes"),
            ));
        }
        Ok(Err(error)) => {
            return Err(bad_request(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")));
        }
        Err(_elapsed) => {
            return Err(bad_request(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"));
        }
    };
    Ok(next.run(Request::from_parts(head, Body::from(body))).await)
}

/// The JSON in a body; `None` if it is empty.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<Option<T>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(body).map(Some).map_err(|error| {
        bad_request(StatusCode::BAD_REQUEST, format!("the body is not as it should be: {error}"))
    })
}
