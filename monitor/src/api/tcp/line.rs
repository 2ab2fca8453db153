//! What a client speaks through: plain TCP, or TLS where the web configuration wants it.
//!
//! Which of both is known only when the configuration has been looked at, and TLS takes some round trips. All that happens
//! at the first read, so it counts towards the time in which the head of a request must have come, and holds up no other
//! client.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Impatient;
use crate::web::{Unusable, WebFile};

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

/// The answer to who speaks plain HTTP where TLS is wanted.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 41\r\n\
    connection: close\r\n\r\nHTTPS is spoken here: ask with https://.\n";

type Opening = Pin<Box<dyn Future<Output = io::Result<Line>> + Send>>;

/// A connection.
pub(super) enum Line {
    /// As it comes.
    Plain(Impatient),
    /// Encrypted.
    Tls(Box<TlsStream<Impatient>>),
    /// Not known yet.
    Opening(Opening),
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
            Self::Opening(_) => "Opening",
        })
    }
}

impl Line {
    /// As the web configuration wants it.
    pub(super) fn opened(stream: Impatient, web: Arc<WebFile>) -> Self {
        Self::Opening(Box::pin(open(stream, web)))
    }

    /// Goes on with opening it, if it is not open.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Self::Opening(opening) = self {
            *self = ready!(opening.as_mut().poll(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

async fn open(mut stream: Impatient, web: Arc<WebFile>) -> io::Result<Line> {
    let tls = match web.now().await {
        Ok(config) => config.tls.clone(),
        // Each request is refused.
        Err(Unusable { tls: false }) => None,
        Err(Unusable { tls: true }) => return Err(io::Error::other("the web configuration cannot be used")),
    };
    let Some(tls) = tls else { return Ok(Line::Plain(stream)) };
    let mut first = [0];
    if stream.stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
        // What is left unread when a socket is closed takes the answer with it.
        let heard = stream.read(&mut [0; 4096]).await?;
        stream.write_all(PLAIN).await?;
        stream.shutdown().await?;
        return Err(io::Error::other(format!("{heard} bytes that are no TLS")));
    }
    let stream = TlsAcceptor::from(tls).accept(stream).await?;
    Ok(Line::Tls(Box::new(stream)))
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Opening(_) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Opening(_) => Poll::Pending,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Opening(_) => Poll::Pending,
        }
    }

    /// Asked once, before anything is open: every kind can.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// There is nothing to be flushed before it is open.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Opening(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Opening(_) => Poll::Ready(Ok(())),
        }
    }
}
