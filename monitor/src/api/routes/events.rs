//! What happened, and what happens.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;

use super::Shared;
use crate::api::crowd::Crowd;
use crate::api::follow::Follower;
use crate::api::problem;
use crate::api::types::{Event, Problem};

/// The query of `events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Only the events after this number; without it, all that are kept.
    after: Option<u64>,
    /// Only those of this service, and what concerns every service.
    service: Option<String>,
    /// Go on with those to come.
    #[serde(default)]
    follow: bool,
    /// Also what happens to every other process of the host, from now on.
    #[serde(default)]
    all: bool,
}

/// `GET /v1/events`
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(wanted) = wanted?;
    let views = shared.handle.views();
    let only = wanted.service.map(|name| {
        let known = name.parse().ok().filter(|name| views.contains_key(name));
        known.ok_or_else(|| problem::no_service(&name, &views))
    });
    // A browser that comes back repeats the query of its first request, so the header decides.
    let after = last_seen(&headers)?.or(wanted.after);
    let mut follower = Follower::new(Arc::clone(&shared.handle.journal), after, only.transpose()?);
    let follow = wanted.follow || wants_stream(&headers);
    if !follow && !wanted.all {
        let events: Vec<Event> = std::iter::from_fn(|| follower.past()).collect();
        return Ok(Json(events).into_response());
    }
    let crowd = wanted.all.then(|| crowd(&shared, follow)).transpose()?;
    let events =
        stream::unfold((follower, crowd, shared.stop.clone()), async |(mut own, mut crowd, mut stop)| {
            let event = match &mut crowd {
                None => own.next(&mut stop).await?,
                Some(crowd) => tokio::select! {
                    biased;
                    event = own.next(&mut stop) => event?,
                    event = crowd.next() => event,
                },
            };
            Some((message(&event), (own, crowd, stop)))
        });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Every other process, where the source hears of them.
fn crowd(shared: &Shared, follow: bool) -> Result<Crowd, Problem> {
    if !follow {
        let why = "`all` wants `follow`: what happens to other processes is told and not kept";
        return Err(problem::bad_request(StatusCode::BAD_REQUEST, why));
    }
    Crowd::listen(&shared.handle).ok_or_else(|| {
        let source = shared.handle.source.as_str();
        problem::failed(format!(
            "the source {source} hears of no other processes; `defib doctor` says why ebpf and proc-connector are not used"
        ))
    })
}

/// An event as the stream carries it. One that is not kept has no number by which a reader could come back to it.
fn message(event: &Event) -> Result<sse::Event, axum::Error> {
    let message = sse::Event::default();
    let message = if let Some(seq) = event.seq { message.id(seq.to_string()) } else { message };
    message.json_data(event)
}

fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let number = id.to_str().ok().and_then(|id| id.parse().ok());
    number.map(Some).ok_or_else(|| {
        problem::bad_request(
            StatusCode::BAD_REQUEST,
            "Last-Event-ID is to be the `id` of an event of this stream",
        )
    })
}

pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"))
}
