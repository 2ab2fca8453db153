//! What services consist of, and what they use.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use defib_core::model::ServiceView;
use serde::Deserialize;

use super::Shared;
use super::services::known;
use crate::api::problem;
use crate::api::types::{AllUsage, Inspection, Problem, Usage};
use crate::daemon::handle::{TreeUsage, inspect};

/// How long the looks at all services may take together.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// How many items of a kind are told where nobody says how many.
const USUAL: usize = 50;

/// The query of `inspect`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// How many items of a kind at most.
    #[serde(default = "usual")]
    most: usize,
}

fn usual() -> usize {
    USUAL
}

/// `GET /v1/inspect/NAME`
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<Json<Inspection>, Problem> {
    let (Path(name), Query(How { most })) = (name?, how?);
    if most > inspect::MOST {
        let wanted = format!("most={most} is too many: at most {} of a kind are told", inspect::MOST);
        return Err(problem::bad_request(StatusCode::BAD_REQUEST, wanted));
    }
    let view = known(&shared.handle.views(), &name)?;
    let found = shared.handle.inspect(&view, most).await;
    found.map(Json).ok_or_else(|| problem::failed("the look at its processes has failed".to_owned()))
}

/// `GET /v1/usage`
pub(super) async fn usage(State(shared): State<Arc<Shared>>) -> Json<AllUsage> {
    let views = shared.handle.views();
    let views: Vec<&ServiceView> = views.values().map(AsRef::as_ref).collect();
    let told = |found: TreeUsage| Usage {
        name: found.service,
        clock_seconds: found.at.0 as f64 / 1e9,
        cpu_seconds: found.cpu.total().as_secs_f64(),
        memory_bytes: found.memory,
        processes: found.processes,
    };
    let found = shared.handle.usage(&views, LONGEST_LOOK).await;
    Json(AllUsage { services: found.into_iter().map(told).collect() })
}
