//! Whether a service starts with defib.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::services::known;
use super::{Shared, body};
use crate::api::problem;
use crate::api::types::{Answer, Boot, Problem, Progress};

/// `POST /v1/services/NAME/boot`
pub(super) async fn set(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Answer>, Problem> {
    let Path(name) = name?;
    let service = known(&shared.handle.views(), &name)?.name.clone();
    let Some(Boot { start }) = body::json(&body)? else {
        let wanted = "the body is to say {\"start\":true} or {\"start\":false}";
        return Err(problem::bad_request(StatusCode::BAD_REQUEST, wanted));
    };
    let kept = shared.handle.set_boot(service.clone(), start).await;
    kept.map_err(|why| problem::failed(why.to_string()))?;
    tracing::info!(%service, start, "an operator has set whether it starts with defib");
    let detail = if start { "starts with defib" } else { "does not start with defib" };
    let (result, verb) = (Progress::Done, "boot".to_owned());
    Ok(Json(Answer { service, verb, result, detail: detail.to_owned() }))
}
