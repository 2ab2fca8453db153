//! What can be asked of defib itself.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;

use super::{Shared, body};
use crate::api::types::{Problem, Shutdown};

/// `POST /v1/shutdown`
pub(super) async fn shutdown(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<StatusCode, Problem> {
    let Shutdown { hurry } = body::json(&body)?.unwrap_or_default();
    shared.handle.shutdown(hurry)?;
    Ok(StatusCode::ACCEPTED)
}
