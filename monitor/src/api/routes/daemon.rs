//! What can be asked of defib itself.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Shared, body};
use crate::api::problem;
use crate::api::types::{Identity, Problem, Reloaded, Shutdown};
use crate::daemon::handle::Refused;

/// `POST /v1/shutdown`
pub(super) async fn shutdown(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<StatusCode, Problem> {
    let Shutdown { hurry, leave } = body::json(&body)?.unwrap_or_default();
    if leave {
        shared.handle.leave()?;
    } else {
        shared.handle.shutdown(hurry)?;
    }
    Ok(StatusCode::ACCEPTED)
}

/// `GET /v1/daemon`
pub(super) async fn identity(State(shared): State<Arc<Shared>>) -> Json<Identity> {
    Json(of(&shared))
}

/// `POST /v1/restart`: answered when the daemon is about to leave.
pub(super) async fn restart(State(shared): State<Arc<Shared>>) -> Result<Json<Identity>, Problem> {
    shared.handle.restart().await.map_err(|why| problem::failed(why.to_string()))?;
    Ok(Json(of(&shared)))
}

fn of(shared: &Shared) -> Identity {
    let identity = &shared.handle.identity;
    Identity {
        version: identity.version.to_owned(),
        daemon: identity.daemon,
        keeper: identity.keeper,
        restart_failure: identity.restart_failure.clone(),
    }
}

/// The query of `reload`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/reload`
pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<Json<Reloaded>, Problem> {
    let Query(How { dry_run }) = how?;
    let answer = shared.handle.reload(dry_run)?;
    // The sender is dropped unused only when the daemon leaves.
    let reloaded = answer.await.map_err(|_dropped| Refused::Leaving)?;
    let reloaded = reloaded.map_err(|why| problem::failed(why.to_string()))?;
    let (applied, changes, warnings) = (reloaded.applied, reloaded.changes.changes, reloaded.warnings);
    Ok(Json(Reloaded { applied, changes, warnings }))
}
