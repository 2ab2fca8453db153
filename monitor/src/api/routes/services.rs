//! What can be asked of a service.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use defib_core::model::{ServiceName, ServiceView, Signal};
use defib_core::{Reply, Verb};
use serde::Deserialize;

use super::{Shared, body};
use crate::api::problem;
use crate::api::types::{Answer, Kill, Pause, Problem, Progress};
use crate::daemon::handle::{Refused, Views};
use crate::duration;

/// The query of a verb.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    /// Whether to answer only when it is done.
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

/// `POST /v1/services/NAME/VERB`
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    how: Result<Query<How>, QueryRejection>,
    body: Bytes,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let (Path((name, word)), Query(How { wait })) = (path?, how?);
    let verb = verb(&word, &body)?;
    let view = known(&shared.handle.views(), &name)?;
    let service = view.name.clone();
    // Who does not wait for the core's answer is at least not left to hope for a start that will be refused.
    if !wait && !view.enabled && matches!(verb, Verb::Start | Verb::Restart) {
        return Err(problem::disabled(&service));
    }
    let reply = shared.handle.request(service.clone(), verb)?;
    tracing::debug!(%service, verb = verb.as_str(), "a client asks");
    let answer = |result, detail| {
        Json(Answer { service: service.clone(), verb: verb.as_str().to_owned(), result, detail })
    };
    if !wait {
        return Ok((StatusCode::ACCEPTED, answer(Progress::Accepted, String::new())));
    }
    // The sender is dropped unused only when the daemon leaves.
    match reply.await.map_err(|_dropped| Refused::Leaving)? {
        Reply::Done(detail) => {
            if decides(verb) {
                shared.handle.commits.settle().await;
            }
            Ok((StatusCode::OK, answer(Progress::Done, detail)))
        }
        Reply::Failed(why) => Err(problem::failed(why)),
        Reply::NotFound => Err(problem::no_service(&name, &shared.handle.views())),
        Reply::Disabled => Err(problem::disabled(&service)),
    }
}

/// Whether what is to follow is decided by a verb: that holds once it is answered, even if keeper and daemon are killed in
/// that moment. What others have begun is there to be found.
fn decides(verb: Verb) -> bool {
    match verb {
        Verb::Stop | Verb::Disable | Verb::Enable | Verb::Pause(_) | Verb::Resume | Verb::Reset => true,
        Verb::Start | Verb::Restart | Verb::Kill(_) => false,
    }
}

/// The service of that name.
pub(super) fn known(views: &Views, name: &str) -> Result<Arc<ServiceView>, Problem> {
    let view = name.parse().ok().and_then(|name: ServiceName| views.get(&name));
    view.cloned().ok_or_else(|| problem::no_service(name, views))
}

/// The verb of a route.
fn verb(word: &str, body: &[u8]) -> Result<Verb, Problem> {
    Ok(match word {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "restart" => Verb::Restart,
        "reset" => Verb::Reset,
        "enable" => Verb::Enable,
        "disable" => Verb::Disable,
        "pause" => Verb::Pause(span(body)?),
        "resume" => Verb::Resume,
        "kill" => Verb::Kill(signal(body)?),
        _ => {
            return Err(problem::no_route(
                "the verbs are start, stop, restart, reset, enable, disable, pause, resume and kill",
            ));
        }
    })
}

/// How long to pause, in nanoseconds; for good if the body is empty.
fn span(body: &[u8]) -> Result<Option<u64>, Problem> {
    let Some(Pause { span: Some(text) }) = body::json(body)? else { return Ok(None) };
    let span = duration::parse(&text).map_err(|why| {
        problem::bad_request(StatusCode::BAD_REQUEST, format!("{text:?} is no duration: {why}"))
    })?;
    // The longest duration has fewer nanoseconds than 64 bits can count.
    Ok(u64::try_from(span.as_nanos()).ok())
}

/// The signal in the body of `kill`; SIGTERM if it is empty.
fn signal(body: &[u8]) -> Result<Signal, Problem> {
    let Some(Kill { signal }) = body::json(body)? else { return Ok(Signal::TERM) };
    signal.parse().map_err(|unknown| {
        problem::bad_request(StatusCode::BAD_REQUEST, format!("there is no signal {signal:?}: {unknown}"))
    })
}
