//! What a client speaks through: plain TCP, or TLS where the web configuration wants it.
//!
//! Which of both is known only when the configuration has been looked at, and TLS takes some round trips. All that is
//! waited for by the task of the connection, and holds up no other client. With TLS the client says what it speaks (ALPN,
//! RFC 7301): HTTP/2 only where the configuration offers it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Arrival, Impatient};
use crate::api::conversation::Protocol;
use crate::web::{HTTP2, Unusable};

/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

/// The answer to who speaks plain HTTP where TLS is wanted.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 41\r\n\
    connection: close\r\n\r\nHTTPS is spoken here: ask with https://.\n";

/// A connection.
#[derive(Debug)]
pub(super) enum Line {
    /// As it comes.
    Plain(Impatient),
    /// Encrypted.
    Tls(Box<TlsStream<Impatient>>),
}

/// Opens a connection as the web configuration wants it.
pub(super) async fn open(Arrival { mut stream, web, room }: Arrival) -> io::Result<(Line, Protocol)> {
    let tls = match web {
        None => None,
        Some(web) => match web.now().await {
            Ok(config) => config.tls.clone(),
            // Each request is refused.
            Err(Unusable { tls: false }) => None,
            Err(Unusable { tls: true }) => {
                return Err(io::Error::other("the web configuration cannot be used"));
            }
        },
    };
    let Some(tls) = tls else { return Ok((Line::Plain(stream), Protocol::Http1)) };
    let mut first = [0];
    if stream.stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
        // What is left unread when a socket is closed takes the answer with it.
        let heard = stream.read(&mut [0; 4096]).await?;
        stream.write_all(PLAIN).await?;
        stream.shutdown().await?;
        return Err(io::Error::other(format!("{heard} bytes that are no TLS")));
    }
    let stream = TlsAcceptor::from(tls).accept(stream).await?;
    let agreed = stream.get_ref().1.alpn_protocol();
    let protocol = if agreed == Some(HTTP2) { Protocol::Http2(room) } else { Protocol::Http1 };
    Ok((Line::Tls(Box::new(stream)), protocol))
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    /// Every kind can.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
