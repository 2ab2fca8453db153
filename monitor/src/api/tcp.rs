//! The metrics over TCP: the same routes as on the API's socket, to strangers, within limits of their own.
//!
//! Whoever reaches the address may look, unless a web configuration says who may (`guard`, and for TLS `line`); nobody can
//! act, and nobody can hold up the supervisor thread or the operator, whose connections are counted apart. The address can
//! change while defib runs: see [`Doors`](crate::daemon::handle::Doors).

mod guard;
mod line;

pub(super) use guard::{Guard, check};

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use super::conversation::Protocol;
use super::http2::Room;
use super::routes;
use super::server::{self, Door, TURNED_AWAY, stopped};
use crate::daemon::handle::Handle;
use crate::web::WebFile;
use line::Line;

/// How much and how long strangers may occupy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections, and requests beside another on one with HTTP/2. One more is answered 503. Each may hold one page: with
    /// 1000 services some 4 MB.
    pub(super) connections: usize,
    /// How long the head of a request may take, from the connection or from the end of the request before.
    pub(super) head: Duration,
    /// How long an answer may take to be found.
    pub(super) answer: Duration,
    /// How long a client may take to read it.
    pub(super) reading: Duration,
    /// How long answers that are under way at the end may take.
    pub(super) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            head: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            reading: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

/// Serves at the door that is there, until `stop` is true: another one as soon as it changes.
pub(super) async fn serve(limits: Limits, handle: Handle, mut stop: watch::Receiver<bool>) {
    let mut doors = handle.doors.clone();
    let full = routes::full(Arc::clone(&handle.metrics));
    loop {
        let (closing, closed) = watch::channel(false);
        let entrance = doors.borrow_and_update().clone();
        let web = entrance.as_ref().and_then(|entrance| entrance.web.clone());
        let guard = guard::guard(web.clone());
        let app = routes::observing(handle.clone(), stop.clone(), limits.answer, guard);
        let serving = async {
            match entrance.as_deref().map(|entrance| take(&entrance.listener)).transpose() {
                Ok(Some(listener)) => {
                    let places = Arc::new(Semaphore::new(limits.connections));
                    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
                    let longest = limits.answer + limits.reading;
                    let room = Room { places, full: full.clone(), longest };
                    let door = Tcp { listener, app, room, turned_away, reading: limits.reading, web };
                    server::serve_at(door, limits.head, limits.drain, closed).await;
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "metrics cannot be served over TCP"),
            }
        };
        let mut serving = pin!(serving);
        let (mut served, mut settled) = (false, false);
        let last = loop {
            tokio::select! {
                () = &mut serving, if !served => served = true,
                changed = doors.changed(), if !settled => match changed {
                    Ok(()) => break false,
                    // Nobody can change it any more.
                    Err(_gone) => settled = true,
                },
                () = stopped(&mut stop) => break true,
            }
        };
        closing.send_replace(true);
        if !served {
            serving.await;
        }
        if last {
            return;
        }
    }
}

/// The socket for this runtime. The daemon keeps its own descriptor of it.
fn take(listener: &std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener.try_clone()?)
}

/// A TCP socket that listens.
struct Tcp {
    listener: TcpListener,
    app: Router,
    room: Room,
    turned_away: Arc<Semaphore>,
    reading: Duration,
    web: Option<Arc<WebFile>>,
}

/// A connection as it comes.
struct Arrival {
    stream: Impatient,
    web: Option<Arc<WebFile>>,
    room: Room,
}

impl Door for Tcp {
    type Arrival = Arrival;
    type Stream = Line;

    async fn accept(&self) -> io::Result<Arrival> {
        let (stream, _) = self.listener.accept().await?;
        let stream = Impatient { stream, reading: self.reading, since: None };
        Ok(Arrival { stream, web: self.web.clone(), room: self.room.clone() })
    }

    fn admit(&self, _: &Arrival) -> Option<(Router, OwnedSemaphorePermit)> {
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let served = take(&self.room.places).map(|place| (self.app.clone(), place));
        served.or_else(|| Some((self.room.full.clone(), take(&self.turned_away)?)))
    }

    fn open(arrival: Arrival) -> impl Future<Output = io::Result<(Line, Protocol)>> + Send + 'static {
        line::open(arrival)
    }
}

/// A connection that ends if its client does not read what it has asked for. The time runs from the moment at which the
/// kernel takes no more until all that was to be written has been: a client that reads a byte now and then is no better
/// than one that reads nothing.
#[derive(Debug)]
struct Impatient {
    stream: TcpStream,
    reading: Duration,
    since: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    /// Passes on what a write came to, or an error if it has waited for too long.
    fn wait<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            let reading = self.reading;
            let since = self.since.get_or_insert_with(|| Box::pin(tokio::time::sleep(reading)));
            if since.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        written
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wait(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wait(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.since = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
