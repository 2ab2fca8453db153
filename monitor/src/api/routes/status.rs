//! How the services are.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use defib_core::model::{ServiceView, Tick};

use super::Shared;
use crate::api::types::{Problem, Service, Status};
use crate::api::{problem, show};
use crate::effect::clock;

/// `GET /v1/status`
pub(super) async fn all(State(shared): State<Arc<Shared>>) -> Json<Status> {
    let now = clock::now();
    let services = shared.handle.views().values().map(|view| service(&shared, view, now)).collect();
    Json(Status { services, source: shared.handle.source })
}

/// `GET /v1/status/NAME`
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Service>, Problem> {
    let Path(name) = name?;
    let views = shared.handle.views();
    let view = name.parse().ok().and_then(|name| views.get(&name));
    let view = view.ok_or_else(|| problem::no_service(&name, &views))?;
    Ok(Json(service(&shared, view, clock::now())))
}

fn service(shared: &Shared, view: &ServiceView, now: Tick) -> Service {
    let usage = view.pid.zip(view.started).and_then(|(pid, started)| shared.proc.usage(pid, started));
    show::service(view, usage, Vec::new(), now)
}
