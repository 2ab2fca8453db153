//! The output of services.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use defib_core::model::ServiceName;
use futures_util::stream;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::events::wants_stream;
use super::{Shared, body};
use crate::api::problem;
use crate::api::server::stopped;
use crate::api::types::{self, Counted, LogLine, LogUsage, Output, Problem, Vacuum, Vacuumed};
use crate::duration;
use crate::effect::output::{self, Follower, Kind, Line, QueryError};

/// The most lines of an answer that is one JSON value. A stream has no such limit.
const MOST: usize = 10_000;

/// How many lines there are unless more are asked for.
const USUAL: usize = 1000;

/// How many lines may wait between the thread that reads a log and the client.
const AHEAD: usize = 256;

/// How long a client may not read before nothing more is read for it.
const SLOW: Duration = Duration::from_secs(30);

/// The query of `logs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    lines: Option<usize>,
    since: Option<String>,
    until: Option<String>,
    grep: Option<String>,
    stream: Option<Kind>,
    #[serde(default)]
    follow: bool,
    /// Only how many lines there are.
    #[serde(default)]
    count: bool,
}

/// The query of `output`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lines {
    lines: Option<usize>,
}

/// What a stream of lines brings.
#[derive(Debug)]
enum News {
    Line(LogLine),
    /// What follows happens now.
    Live,
    /// So many bytes came too fast for this reader.
    Missed(u64),
}

/// `GET /v1/services/NAME/logs`
pub(super) async fn logs(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (Path(name), Query(wanted)) = (path?, wanted?);
    let service = known(&shared, &name)?;
    let stream = wanted.follow || wants_stream(&headers);
    let bounded = !stream && !wanted.count;
    let query = output::Query {
        lines: if bounded { Some(wanted.lines.unwrap_or(USUAL).min(MOST)) } else { wanted.lines },
        since: wanted.since.as_deref().map(|text| time("since", text)).transpose()?,
        until: wanted.until.as_deref().map(|text| time("until", text)).transpose()?,
        grep: wanted.grep.map(String::into_bytes),
        stream: wanted.stream,
    };
    shared.handle.logs.check(&service, &query).map_err(|error| refused(&error, &name, &shared))?;
    if stream {
        return follow(&shared, service, query, wanted.follow).await;
    }
    let mut lines = Vec::new();
    let mut count = 0;
    let mut waiting = read(&shared, service, query)?;
    while let Some(line) = waiting.recv().await {
        count += u64::from(!line.partial);
        if !wanted.count {
            lines.push(show(line));
        }
    }
    Ok(if wanted.count { Json(Counted { count }).into_response() } else { Json(lines).into_response() })
}

/// `GET /processes/NAME/output`
pub(super) async fn output(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    wanted: Result<Query<Lines>, QueryRejection>,
) -> Result<Json<Output>, Problem> {
    let (Path(name), Query(Lines { lines })) = (path?, wanted?);
    let service = known(&shared, &name)?;
    let query = output::Query { lines: Some(lines.unwrap_or(USUAL).min(MOST)), ..output::Query::default() };
    let mut waiting = read(&shared, service, query)?;
    let mut lines = Vec::new();
    while let Some(line) = waiting.recv().await {
        lines.push(String::from_utf8_lossy(&line.bytes).into_owned());
    }
    Ok(Json(Output { lines }))
}

/// `GET /v1/logs/usage`
pub(super) async fn usage(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<LogUsage>>, Problem> {
    let names: Vec<ServiceName> = shared.handle.views().keys().cloned().collect();
    let (logs, _place) = (shared.handle.logs.clone(), place(&shared)?);
    let looked = tokio::task::spawn_blocking(move || {
        let usages = names.iter().filter_map(|name| logs.usage(name).ok());
        usages
            .map(|usage| LogUsage {
                service: usage.service,
                files: usage.files,
                bytes: usage.bytes,
                path: usage.path.display().to_string(),
            })
            .collect()
    });
    looked.await.map(Json).map_err(|error| problem::failed(error.to_string()))
}

/// `POST /v1/logs/vacuum`
pub(super) async fn vacuum(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<Json<Vacuumed>, Problem> {
    let Vacuum { services, older, size } = body::json(&body)?.unwrap_or_default();
    let views = shared.handle.views();
    let older =
        older.map(|text| duration::parse(&text).map_err(|why| bad("older", &text, &why))).transpose()?;
    if older.is_none() && size.is_none() {
        let why = "say what is too much: `older`, a duration, or `size`, in bytes";
        return Err(problem::bad_request(StatusCode::BAD_REQUEST, why));
    }
    for name in &services {
        known(&shared, name.as_str())?;
    }
    let names = if services.is_empty() { views.keys().cloned().collect() } else { services };
    let _place = place(&shared)?;
    let answer = shared.handle.logs.vacuum(&names, output::Vacuum { older, size });
    let stalled =
        || problem::failed("the thread that writes logs does not answer: a disk may be stalled".to_owned());
    match tokio::time::timeout(shared.patience, answer).await {
        Ok(Ok((files, bytes))) => Ok(Json(Vacuumed { files, bytes })),
        Ok(Err(_)) | Err(_) => Err(stalled()),
    }
}

/// A stream of what there is, and with `on` of what comes.
async fn follow(
    shared: &Arc<Shared>,
    service: ServiceName,
    query: output::Query,
    on: bool,
) -> Result<Response, Problem> {
    let place = place(shared)?;
    let logs = shared.handle.logs.clone();
    let (lines, past) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let _place = place;
        // Who has gone away wants no more.
        let give = |line| send(&lines, line);
        if on {
            logs.follow(&service, &query, give).ok()
        } else {
            logs.read(&service, &query, give).ok().and(None)
        }
    });
    let begin = Way { past: Some((past, reading)), follower: None, ready: Vec::new().into_iter() };
    let stop = shared.stop.clone();
    let news = stream::unfold((begin, stop), async |(mut way, mut stop)| {
        let news = tokio::select! {
            biased;
            news = way.next() => news?,
            () = stopped(&mut stop) => return None,
        };
        let message = match news {
            News::Line(line) => sse::Event::default().json_data(line),
            News::Live => Ok(sse::Event::default().event("live").data("now")),
            News::Missed(bytes) => Ok(sse::Event::default().event("missed").data(bytes.to_string())),
        };
        Some((message, (way, stop)))
    });
    Ok(Sse::new(news).keep_alive(KeepAlive::default()).into_response())
}

/// One client's way through a log.
struct Way {
    past: Option<(mpsc::Receiver<Line>, tokio::task::JoinHandle<Option<Follower>>)>,
    follower: Option<Follower>,
    ready: std::vec::IntoIter<Line>,
}

impl Way {
    async fn next(&mut self) -> Option<News> {
        if let Some((lines, _)) = &mut self.past {
            if let Some(line) = lines.recv().await {
                return Some(News::Line(show(line)));
            }
            let (_, reading) = self.past.take()?;
            self.follower = reading.await.ok().flatten();
            return self.follower.is_some().then_some(News::Live);
        }
        loop {
            if let Some(line) = self.ready.next() {
                return Some(News::Line(show(line)));
            }
            let (missed, lines) = self.follower.as_mut()?.next().await;
            self.ready = lines.into_iter();
            if missed > 0 {
                return Some(News::Missed(missed));
            }
        }
    }
}

/// Reads on a thread that may block.
fn read(
    shared: &Arc<Shared>,
    service: ServiceName,
    query: output::Query,
) -> Result<mpsc::Receiver<Line>, Problem> {
    let place = place(shared)?;
    let logs = shared.handle.logs.clone();
    let (lines, waiting) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        // It was there a moment ago; what is gone now has no lines.
        logs.read(&service, &query, |line| send(&lines, line)).ok();
    });
    Ok(waiting)
}

/// Hands a line to a client. Returns whether it wants more: one that does not read for so long does not.
fn send(lines: &mpsc::Sender<Line>, line: Line) -> bool {
    match lines.try_send(line) {
        Ok(()) => true,
        Err(TrySendError::Closed(_)) => false,
        Err(TrySendError::Full(line)) => {
            let sent = tokio::runtime::Handle::current()
                .block_on(async { tokio::time::timeout(SLOW, lines.send(line)).await });
            matches!(sent, Ok(Ok(())))
        }
    }
}

/// One of the few places for those who read files.
fn place(shared: &Arc<Shared>) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&shared.readers)
        .try_acquire_owned()
        .map_err(|_full| problem::busy("too many logs are being read; try again in a moment"))
}

fn known(shared: &Shared, name: &str) -> Result<ServiceName, Problem> {
    let views = shared.handle.views();
    let known = name.parse().ok().filter(|name| views.contains_key(name));
    known.ok_or_else(|| problem::no_service(name, &views))
}

fn refused(error: &QueryError, name: &str, shared: &Shared) -> Problem {
    match error {
        QueryError::NotFound => problem::no_service(name, &shared.handle.views()),
        QueryError::Joined(_) => problem::failed(error.to_string()),
    }
}

fn bad(key: &str, text: &str, why: &dyn std::fmt::Display) -> Problem {
    problem::bad_request(StatusCode::BAD_REQUEST, format!("`{key}` is {text:?}: {why}"))
}

/// A time, or how long ago.
fn time(key: &str, text: &str) -> Result<Timestamp, Problem> {
    types::time(text, Timestamp::now()).map_err(|why| bad(key, text, &why))
}

fn show(line: Line) -> LogLine {
    let Line { at, stream, bytes, partial } = line;
    let (line, hex) = match String::from_utf8(bytes) {
        Ok(line) => (line, None),
        Err(error) => {
            let bytes = error.as_bytes();
            let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (String::from_utf8_lossy(bytes).into_owned(), Some(hex))
        }
    };
    LogLine { at, stream: stream.as_str().to_owned(), line, hex, partial }
}
