//! What monitoring asks: metrics, liveness, health, readiness. Nothing here changes anything.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use defib_core::model::State as ServiceState;

use super::Shared;
use crate::api::types::{Health, NotReady, Problem, Ready, Summary};
use crate::api::{accept, problem};
use crate::effect::clock;
use crate::metrics::{Collector, Metrics, Scrape};

/// The page of links.
const LANDING: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>defib</title></head><body>\
<h1>defib</h1><p>Keeps the processes of this host alive.</p><ul>\
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>\
<li><a href=\"/alive\">/alive</a>: whether anybody answers</li>\
<li><a href=\"/health\">/health</a>: whether defib works</li>\
<li><a href=\"/ready\">/ready</a>: whether every service that is to run does</li>\
<li><a href=\"/status\">/status</a>: defib in a few numbers</li></ul></body></html>\n";

/// How long a scrape may look at processes. Whom it has not reached by then is missing, and the collector has failed.
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// The routes.
pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/alive", get(async || "OK"))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/", get(async || Html(LANDING)))
}

/// `GET /metrics`, with `collect[]=NAME` for a part of it; in the format and the encoding that the client would rather
/// have.
async fn metrics(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let Query(query) = query?;
    let collectors = selection(&query)?;
    let format = accept::format(&headers);
    let (views, handle) = (shared.handle.views(), &shared.handle);
    let wanted = |collector| collectors.contains(&collector);
    // Each looks somewhere else, so they look at the same time.
    let (usage, pipeline, (ports, ports_took)) = tokio::join!(
        timed(async {
            if !wanted(Collector::Usage) {
                return Vec::new();
            }
            handle.usage(&views.values().map(AsRef::as_ref).collect::<Vec<_>>(), LONGEST_LOOK).await
        }),
        // Nobody waits for an answer that goes nowhere.
        timed(async { if wanted(Collector::Events) { handle.pipeline_with_kills().await } else { None } }),
        timed(async { if wanted(Collector::Ports) { handle.port_sums().await } else { (Vec::new(), true) } }),
    );
    let page = shared.handle.metrics.page(&Scrape {
        collectors: &collectors,
        views: &views,
        usage,
        source: shared.handle.source,
        pipeline,
        ports: (ports.0, ports.1, ports_took),
        now: clock::now,
        format,
    });
    let page = Bytes::from(page);
    let mut told = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (header::VARY, HeaderValue::from_static("accept, accept-encoding")),
    ]);
    if accept::gzip(&headers) {
        let whole = page.clone();
        // On another thread: others are served meanwhile. Memory does not fail, nor does the thread panic; were it so,
        // the page goes as it is.
        let packed = tokio::task::spawn_blocking(move || accept::compressed(&whole)).await;
        if let Ok(Some(Ok(packed))) = packed {
            told.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return Ok((told, Bytes::from(packed)));
        }
    }
    Ok((told, page))
}

/// What is found, and how long that took.
async fn timed<T>(look: impl Future<Output = T>) -> (T, Duration) {
    let begun = clock::now();
    let found = look.await;
    (found, clock::now().since(begun))
}

/// The collectors that a query names, all of them if it names none.
fn selection(query: &[(String, String)]) -> Result<Vec<Collector>, Problem> {
    let refuse = |text: String| Err(problem::bad_request(StatusCode::BAD_REQUEST, text));
    let mut collectors = Vec::new();
    for (key, value) in query {
        if key != "collect[]" {
            return refuse(format!("{key:?} is no parameter; `collect[]` is"));
        }
        match Collector::named(value) {
            Some(collector) if collectors.contains(&collector) => {}
            Some(collector) => collectors.push(collector),
            None => {
                let known = Collector::ALL.map(Collector::as_str).join(", ");
                return refuse(format!("no collector is named {value:?}; there are {known}"));
            }
        }
    }
    Ok(if collectors.is_empty() { Collector::ALL.to_vec() } else { collectors })
}

/// `GET /health`: 200 if the supervisor thread answers within a second.
async fn health(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let pipeline = shared.handle.pipeline().await;
    let lost = pipeline.as_ref().map(|told| told.lost.iter().map(|(_, count)| count).sum());
    let health = Health {
        healthy: pipeline.is_some(),
        pid: std::process::id(),
        source: shared.handle.source,
        events_lost: lost,
    };
    (verdict(health.healthy), Json(health))
}

/// `GET /ready`: 200 if every service that is to run is up.
async fn ready(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let views = shared.handle.views();
    let wanted: Vec<_> = views.values().filter(|view| view.wanted).collect();
    let down = wanted.iter().filter(|view| view.state != ServiceState::Running || !view.ready);
    let not_ready: Vec<NotReady> =
        down.map(|view| NotReady { service: view.name.clone(), state: view.state }).collect();
    let ready = Ready { ready: not_ready.is_empty(), wanted: wanted.len(), not_ready };
    (verdict(ready.ready), Json(ready))
}

fn verdict(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `GET /status`
async fn status(State(shared): State<Arc<Shared>>) -> Json<Summary> {
    let started = shared.handle.metrics.started;
    let mut services: BTreeMap<ServiceState, usize> = ServiceState::ALL.map(|state| (state, 0)).into();
    for view in shared.handle.views().values() {
        *services.entry(view.state).or_default() += 1;
    }
    let pid = std::process::id();
    let mut instance_id = String::new();
    // Writing to a string cannot fail.
    write!(instance_id, "{:x}-{pid:x}", started.0).ok();
    Json(Summary {
        instance_id,
        pid,
        uptime: clock::now().since(started).as_secs_f64(),
        partner: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        services,
    })
}

/// Counts an answer. Routes are told apart as they are written in the code: what a client makes up is `other`.
pub(super) async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let begun = clock::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    };
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    metrics.answered(route, method, response.status().as_u16(), clock::now().since(begun));
    response
}

/// Holds requests of strangers to their limits: no body, and an answer in time.
pub(super) async fn bounded(
    State(patience): State<Duration>,
    request: Request,
    next: Next,
) -> Result<Response, (HeaderMap, Problem)> {
    let close = || HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static("close"))]);
    if !request.body().is_end_stream() {
        let refusal = problem::bad_request(StatusCode::PAYLOAD_TOO_LARGE, "nothing here takes a body");
        return Err((close(), refusal));
    }
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => Ok(response),
        Err(_elapsed) => Err((close(), problem::busy("no answer was found in time"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(words: &[(&str, &str)]) -> Vec<(String, String)> {
        words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn collectors_are_selected_by_name() {
        assert_eq!(selection(&[]).unwrap(), Collector::ALL);
        let twice = query(&[("collect[]", "process"), ("collect[]", "process"), ("collect[]", "events")]);
        assert_eq!(selection(&twice).unwrap(), [Collector::Process, Collector::Events]);
        let unknown = selection(&query(&[("collect[]", "disks")])).unwrap_err();
        assert!(
            unknown.detail.contains("\"disks\"") && unknown.detail.contains("services, usage, events"),
            "{unknown:?}"
        );
        let stray = selection(&query(&[("name[]", "process")])).unwrap_err();
        assert!(stray.detail.contains("`collect[]`"), "{stray:?}");
    }

    #[test]
    fn the_landing_page_links_to_every_route() {
        for route in ["/metrics", "/alive", "/health", "/ready", "/status"] {
            assert!(LANDING.contains(&format!("href=\"{route}\"")), "{route}");
        }
    }
}
