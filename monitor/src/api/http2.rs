//! HTTP/2, with the limits of HTTP/1.
//!
//! hyper and h2 read the frames and bound what one frame can cost: heads and their continuations, the table of headers,
//! settings and pings, of which each is answered before the next is read, streams that are reset before they are looked at
//! (20, then the connection ends). What they do not bound is here: how long a client may be silent, how long it may take to
//! read an answer, how many requests at a time it may have for its one place, and how many it may give up.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio::time::Instant;

use super::conversation::{GRACE, MAX_HEAD};
use super::server::stopped;

/// How many requests a client may have under way on one connection. One more is refused in a way that clients know to try
/// again (REFUSED_STREAM); they know the number from the first answer of the server. A scraper has one or two.
const STREAMS: u32 = 8;

/// How much of bodies is taken before somebody reads it: nothing here takes a body. HTTP/2 has no smaller window for all
/// streams together.
const WINDOW: u32 = 65_535;

/// How many requests in a row a client may give up before they are answered. Each costs it next to nothing.
const GIVEN_UP: u32 = 20;

/// What requests at the same time take from other clients.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Each request beside another on its connection takes a place, as a connection does: with HTTP/2 a client gets no more
    /// at a time than with HTTP/1.
    pub(super) places: Arc<Semaphore>,
    /// Answers the one for which there is no place.
    pub(super) full: Router,
    /// How long an answer may take from its request until the client has read it.
    pub(super) longest: Duration,
}

/// Serves a connection until its client leaves, is silent for `head`, or does not read.
///
/// # Errors
/// If the client breaks the protocol, or the connection breaks.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    app: Router,
    room: Room,
    head: Duration,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let talk = Arc::new(Talk::new());
    let service = service_fn({
        let (talk, room) = (Arc::clone(&talk), room.clone());
        move |request| answer(&talk, &app, &room, request)
    });
    // The task of a request ends with its stream, and the stream with the connection.
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut leaving: Option<Instant> = None;
    loop {
        let silence = if leaving.is_some() { GRACE } else { head };
        // A request that begins or ends meanwhile may bring the end closer.
        let again = Instant::now() + silence.min(room.longest);
        let look = talk.deadline(leaving, silence, room.longest).min(again);
        let leave = tokio::select! {
            // The connection last: a client that keeps it busy could use up the time slice of all the others.
            biased;
            () = stopped(&mut stop), if leaving.is_none() => true,
            () = talk.enough.notified() => true,
            () = tokio::time::sleep_until(look) => false,
            ended = connection.as_mut() => return ended,
        };
        let over = talk.deadline(leaving, silence, room.longest) <= Instant::now();
        let (idle, given_up) = talk.how();
        if given_up > GIVEN_UP || (over && (leaving.is_some() || !idle)) {
            return Ok(());
        }
        if (leave || over) && leaving.is_none() {
            // Requests that are on the way are answered; of all later ones the client knows that nobody has seen them.
            connection.as_mut().graceful_shutdown();
            leaving = Some(Instant::now());
        }
    }
}

/// Answers a request.
fn answer(
    talk: &Arc<Talk>,
    app: &Router,
    room: &Room,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
    let (app, place) = match talk.place(room) {
        Ok(place) => (app, place),
        Err(_none) => (&room.full, None),
    };
    let (app, mut turn) = (TowerToHyperService::new(app.clone()), talk.begin(place));
    async move {
        // Who has given it up by now, in the same breath, is found out here, and costs no answer.
        tokio::task::yield_now().await;
        let mut response = app.call(request).await?;
        let last = response.headers_mut().remove(header::CONNECTION).is_some_and(|it| it == "close");
        turn.found(last);
        let turn = Arc::new(turn);
        let held = move |data| Bytes::from_owner(Held { data, _turn: Arc::clone(&turn) });
        Ok(response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(&held)))))
    }
}

/// What is under way on a connection.
#[derive(Debug)]
struct Talk {
    /// Held for moments, by the tasks of one connection.
    state: Mutex<State>,
    /// Told when the connection is to end.
    enough: Notify,
}

#[derive(Debug)]
struct State {
    next: u64,
    /// Since when; h2 bounds how many there are.
    open: BTreeMap<u64, Instant>,
    /// Since when there is none, if there is none.
    idle: Instant,
    /// In a row.
    given_up: u32,
}

impl Talk {
    fn new() -> Self {
        let state = State { next: 0, open: BTreeMap::new(), idle: Instant::now(), given_up: 0 };
        Self { state: Mutex::new(state), enough: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is under way, and how many requests in a row were given up.
    fn how(&self) -> (bool, u32) {
        let state = self.state();
        (state.open.is_empty(), state.given_up)
    }

    /// When the connection ends if nothing happens until then.
    fn deadline(&self, leaving: Option<Instant>, silence: Duration, longest: Duration) -> Instant {
        let state = self.state();
        match state.open.first_key_value() {
            Some((_, since)) => *since + longest,
            None => leaving.map_or(state.idle, |leaving| leaving.max(state.idle)) + silence,
        }
    }

    /// The place that one more request takes: the first at a time has that of the connection.
    fn place(&self, room: &Room) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        let alone = self.state().open.is_empty();
        if alone { Ok(None) } else { Arc::clone(&room.places).try_acquire_owned().map(Some) }
    }

    fn begin(self: &Arc<Self>, place: Option<OwnedSemaphorePermit>) -> Turn {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Instant::now());
        Turn { talk: Arc::clone(self), number, found: false, last: false, _place: place }
    }
}

/// A request that is under way, until the last byte of its answer has been written.
#[derive(Debug)]
struct Turn {
    talk: Arc<Talk>,
    number: u64,
    found: bool,
    /// The connection ends after it.
    last: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// There is an answer to it, which may be the last.
    fn found(&mut self, last: bool) {
        (self.found, self.last) = (true, last);
        self.talk.state().given_up = 0;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.talk.state();
        state.open.remove(&self.number);
        state.idle = Instant::now();
        if !self.found {
            state.given_up += 1;
        }
        if self.last || state.given_up > GIVEN_UP {
            self.talk.enough.notify_one();
        }
    }
}

/// A part of an answer: h2 keeps it until it has been written, as far as the client lets it.
struct Held {
    data: Bytes,
    _turn: Arc<Turn>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests;
