//! Makes every way in which a request can fail a [`Problem`].

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use defib_core::model::ServiceName;

use super::names;
use super::types::{Code, Problem};
use crate::daemon::handle::{Refused, Views};

fn problem(status: StatusCode, code: Code, detail: String) -> Problem {
    Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        detail,
        code,
        nearest: Vec::new(),
    }
}

/// The client has made a mistake.
pub(super) fn bad_request(status: StatusCode, detail: impl Into<String>) -> Problem {
    problem(status, Code::BadRequest, detail.into())
}

/// There is no such route or verb.
pub(super) fn no_route(detail: impl Into<String>) -> Problem {
    problem(StatusCode::NOT_FOUND, Code::NotFound, detail.into())
}

/// There is no such service.
pub(super) fn no_service(wanted: &str, views: &Views) -> Problem {
    let nearest: Vec<ServiceName> = names::nearest(wanted, views.keys());
    Problem { detail: names::unknown(wanted, &nearest), nearest, ..no_route("") }
}

/// The user may not do that.
pub(super) fn denied(detail: String) -> Problem {
    problem(StatusCode::FORBIDDEN, Code::Denied, detail)
}

/// The verb was tried and failed.
pub(super) fn failed(detail: String) -> Problem {
    problem(StatusCode::CONFLICT, Code::Failed, detail)
}

/// The service is disabled.
pub(super) fn disabled(service: &ServiceName) -> Problem {
    let detail = format!("it is disabled; `defib enable {service}` allows starts again");
    problem(StatusCode::LOCKED, Code::Disabled, detail)
}

/// defib itself is not as it should be.
pub(super) fn broken(detail: impl Into<String>) -> Problem {
    problem(StatusCode::INTERNAL_SERVER_ERROR, Code::Failed, detail.into())
}

/// Too much is asked at once.
pub(super) fn busy(detail: impl Into<String>) -> Problem {
    problem(StatusCode::SERVICE_UNAVAILABLE, Code::Busy, detail.into())
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        busy(refused.to_string())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        bad_request(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        bad_request(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}
