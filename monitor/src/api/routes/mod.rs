//! The routes: each parses a request, asks the [`Handle`], and shows what comes back.
//!
//! Those of [`observe`] are served over TCP as well, where nobody knows who asks.

mod body;
mod boot;
mod daemon;
mod events;
mod inspect;
mod logs;
mod observe;
mod peers;
mod ports;
mod services;
mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};

use super::peer::operators_only;
use super::problem;
use super::tcp::{self, Guard};
use crate::daemon::handle::Handle;
use crate::metrics::Metrics;

/// What the routes share.
#[derive(Debug)]
struct Shared {
    handle: Handle,
    stop: watch::Receiver<bool>,
    /// How many logs may be read at a time: each takes a thread.
    readers: Arc<Semaphore>,
    /// How long an answer of another thread may take.
    patience: Duration,
}

/// How many logs are read at a time. One more is answered 503.
const LOG_READERS: usize = 32;

/// All routes; the body of a request may take `patience`.
pub(super) fn router(handle: Handle, stop: watch::Receiver<bool>, patience: Duration) -> Router {
    let metrics = Arc::clone(&handle.metrics);
    let shared = shared(handle, stop, patience);
    let acts = Router::new()
        .route("/v1/services/{name}/boot", post(boot::set))
        .route("/v1/services/{name}/{verb}", post(services::act))
        .route("/v1/reload", post(daemon::reload))
        .route("/v1/inspect/{name}", get(inspect::one))
        .route("/v1/logs/vacuum", post(logs::vacuum))
        .route("/v1/shutdown", post(daemon::shutdown))
        .route("/v1/restart", post(daemon::restart))
        .route_layer(from_fn(operators_only));
    Router::new()
        .route("/v1/status", get(status::all))
        .route("/v1/status/{name}", get(status::one))
        .route("/v1/daemon", get(daemon::identity))
        .route("/v1/usage", get(inspect::usage))
        .route("/v1/ports", get(ports::table))
        .route("/v1/ports/{port}/peers", get(peers::of_port))
        .route("/v1/events", get(events::events))
        .route("/v1/services/{name}/logs", get(logs::logs))
        .route("/processes/{name}/output", get(logs::output))
        .route("/v1/logs/usage", get(logs::usage))
        .merge(acts)
        .merge(observe::routes())
        .fallback(async || problem::no_route("there is no such route"))
        .method_not_allowed_fallback(async || {
            problem::bad_request(StatusCode::METHOD_NOT_ALLOWED, "this route wants another method")
        })
        .layer(from_fn_with_state(patience, body::read))
        .layer(from_fn_with_state(metrics, observe::count))
        .with_state(shared)
}

/// The routes that look and ask for nothing else: what is served over TCP to whom `guard` lets pass. An answer may take
/// `patience`.
pub(super) fn observing(
    handle: Handle,
    stop: watch::Receiver<bool>,
    patience: Duration,
    guard: Guard,
) -> Router {
    let metrics = Arc::clone(&handle.metrics);
    let shared = shared(handle, stop, patience);
    observe::routes()
        .fallback(async || problem::no_route("there is no such route; / lists those that there are"))
        .method_not_allowed_fallback(async || {
            problem::bad_request(StatusCode::METHOD_NOT_ALLOWED, "this route wants GET or HEAD")
        })
        .layer(from_fn_with_state(guard, tcp::check))
        .layer(from_fn_with_state(patience, observe::bounded))
        .layer(from_fn_with_state(metrics, observe::count))
        .with_state(shared)
}

fn shared(handle: Handle, stop: watch::Receiver<bool>, patience: Duration) -> Arc<Shared> {
    let readers = Arc::new(Semaphore::new(LOG_READERS));
    Arc::new(Shared { handle, stop, readers, patience })
}

/// The one answer for a client that came when all places were taken.
pub(super) fn full(metrics: Arc<Metrics>) -> Router {
    let busy = async || {
        (
            [(header::CONNECTION, "close")],
            problem::busy("too many connections are open; try again in a moment"),
        )
    };
    Router::new().fallback(busy).layer(from_fn_with_state(metrics, observe::count))
}
