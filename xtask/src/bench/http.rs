//! The few requests that a bench makes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// One scrape over TCP, as Prometheus's are: the body.
pub(super) fn scrape(address: SocketAddr) -> Result<String> {
    let stream = TcpStream::connect(address).context("cannot connect to the metrics")?;
    get(stream, "/metrics")
}

/// One question to defib's own socket: the body.
pub(super) fn ask(runtime: &Path, path: &str) -> Result<String> {
    let socket = runtime.join("defib.sock");
    let stream =
        UnixStream::connect(&socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    get(stream, path)
}

fn get(mut stream: impl Read + Write, path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}
