//! How the services are.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use defib_core::model::{ServiceView, Tick};

use super::Shared;
use crate::api::types::{Port, Problem, Service, StateDatabase, Status};
use crate::api::{problem, show};
use crate::daemon::handle::{PortStatus, of_process};
use crate::effect::clock;

/// `GET /v1/status`
pub(super) async fn all(State(shared): State<Arc<Shared>>) -> Json<Status> {
    let views = shared.handle.views();
    let views: Vec<&ServiceView> = views.values().map(AsRef::as_ref).collect();
    let mut ports = shared.handle.ports(&views).await;
    let now = clock::now();
    let services = views.iter().map(|view| {
        let ports = ports.remove(&view.name).unwrap_or_default();
        service(view, &ports, now)
    });
    let state = &shared.handle.state;
    let state_database = StateDatabase { trouble: state.trouble(), lost: state.lost() };
    Json(Status { services: services.collect(), source: shared.handle.source, state_database })
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
    let ports = shared.handle.ports(&[view]).await.remove(&view.name).unwrap_or_default();
    Ok(Json(service(view, &ports, clock::now())))
}

fn service(view: &ServiceView, ports: &[PortStatus], now: Tick) -> Service {
    let usage = view.pid.zip(view.started).and_then(|(pid, started)| of_process(pid, started));
    let port = |status: &PortStatus| {
        let PortStatus { port, listening, connections } = *status;
        Port { port, listening, connections }
    };
    show::service(view, usage, ports.iter().map(port).collect(), now)
}
