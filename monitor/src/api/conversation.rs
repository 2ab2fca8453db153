//! One connection: what is spoken on it, how long its client may take, and how it ends when the daemon leaves.

use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::task::coop::unconstrained;

use super::http2::{self, Room};
use super::server::stopped;

/// The largest head of a request. Over HTTP/1 one that is larger is answered 431.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// How long a client that has connected and asked nothing yet may take to begin when the daemon leaves. Its request is on
/// the way: a client connects to ask. The next daemon cannot have it, for a connection is accepted once. A client of this
/// host begins within a millisecond, one with TLS in its network within a few; and only a connection that is silent holds up
/// the leave by so much.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// What is spoken on a connection.
#[derive(Debug)]
pub(super) enum Protocol {
    /// HTTP/1.0 or 1.1: one request at a time.
    Http1,
    /// HTTP/2, with room for more than one.
    Http2(Room),
}

/// Serves a connection once it is open. Opening it may take `head`, and so may the head of each request.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    opening: impl Future<Output = io::Result<(S, Protocol)>>,
    app: Router,
    head: Duration,
    stop: watch::Receiver<bool>,
) {
    let (first, heard) = oneshot::channel();
    // Its turn comes even if the client keeps the connection busy.
    let mut farewell = pin!(unconstrained(farewell(stop.clone(), heard)));
    let opened = tokio::select! {
        biased;
        opened = tokio::time::timeout(head, opening) => opened.unwrap_or(Err(io::ErrorKind::TimedOut.into())),
        () = farewell.as_mut() => return,
    };
    let ended: Result<(), Box<dyn Error + Send + Sync>> = match opened {
        Ok((stream, Protocol::Http1)) => {
            let stream = Listened { stream, first: Some(first) };
            http1(stream, app, head, farewell).await.map_err(Into::into)
        }
        Ok((stream, Protocol::Http2(room))) => {
            http2::serve(stream, app, room, head, stop).await.map_err(Into::into)
        }
        Err(error) => Err(error.into()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has ended early");
    }
}

/// Serves requests one by one, until the client has none, or after the farewell.
async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    app: Router,
    head: Duration,
    farewell: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(MAX_HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    tokio::select! {
        // A request that has come is read first: hyper hangs up on who has said nothing yet.
        biased;
        ended = connection.as_mut() => ended,
        () = farewell => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Waits until the daemon leaves and the client, which may have been silent until then, has begun to ask or had its grace.
async fn farewell(mut stop: watch::Receiver<bool>, heard: oneshot::Receiver<()>) {
    stopped(&mut stop).await;
    // What comes of it is the same.
    tokio::time::timeout(GRACE, heard).await.ok();
}

/// A stream that tells when its client has said the first byte.
#[derive(Debug)]
struct Listened<S> {
    stream: S,
    first: Option<oneshot::Sender<()>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before
            && let Some(first) = self.first.take()
        {
            // Nobody may wait for it any more.
            first.send(()).ok();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
