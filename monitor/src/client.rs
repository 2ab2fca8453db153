//! A client of the API: finds the daemon's socket, asks, and turns what comes back into types.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::Verb;
use defib_core::model::ServiceName;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

mod logs;

pub use crate::api::types;
use crate::daemon::handle;
use crate::duration;
pub use logs::{LogNews, LogQuery, LogStream};
use types::{
    AllUsage, Answer, Boot, Code, Event, Identity, Inspection, Kill, Pause, PortPeers, PortTable, Problem,
    Reloaded, Service, Shutdown, Status,
};

/// Why something could not be had from the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon answers.
    #[error("no daemon answers ({}); `defib daemon` or `systemctl start defib` starts one", list(tried))]
    Unreachable {
        /// The sockets that were tried.
        tried: Vec<Tried>,
    },
    /// There is a daemon, and this user may not talk to it, or not ask for that.
    #[error("{0}")]
    Denied(String),
    /// There is no such service.
    #[error("{0}")]
    NotFound(String),
    /// The service is disabled.
    #[error("{0}")]
    Disabled(String),
    /// It was tried and failed, or was refused.
    #[error("{0}")]
    Failed(String),
    /// The connection broke.
    #[error("the connection to the daemon broke")]
    Broken(#[source] hyper::Error),
    /// What came back is not what this client knows; is the daemon of another version?
    #[error("the daemon's answer is not understood; is it of another version?")]
    Strange(#[source] serde_json::Error),
}

/// A socket that was tried.
#[derive(Debug)]
pub struct Tried {
    /// Where it is, or would be.
    pub socket: PathBuf,
    /// What came of it.
    pub error: io::Error,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.socket.display(), self.error)
    }
}

fn list(tried: &[Tried]) -> String {
    tried.iter().map(Tried::to_string).collect::<Vec<_>>().join("; ")
}

/// The way to one daemon. Every request has a connection of its own: on a unix socket that costs microseconds, and a
/// slow answer holds up no other.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Finds the first daemon that answers in one of these folders.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if none does, [`Error::Denied`] if one is there and this user may not connect.
    pub async fn find(folders: &[PathBuf]) -> Result<Self, Error> {
        let mut tried = Vec::new();
        for socket in folders.iter().map(|folder| folder.join(handle::SOCKET)) {
            match connect(&socket).await {
                Ok(_) => return Ok(Self { socket }),
                Err(error) => tried.push(Tried { socket, error }),
            }
        }
        Err(unreachable(tried))
    }

    /// The daemon at a socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where the daemon is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// All services.
    ///
    /// # Errors
    /// As every request.
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// One service.
    ///
    /// # Errors
    /// As every request.
    pub async fn service(&self, name: &ServiceName) -> Result<Service, Error> {
        self.ask(Method::GET, &format!("/v1/status/{name}"), Bytes::new()).await
    }

    /// Asks for a verb; with `wait`, until it is done.
    ///
    /// # Errors
    /// As every request, and [`Error::Disabled`].
    pub async fn act(&self, name: &ServiceName, verb: Verb, wait: bool) -> Result<Answer, Error> {
        let body = match verb {
            Verb::Kill(signal) => json(&Kill { signal: signal.to_string() })?,
            Verb::Pause(for_ns) => {
                json(&Pause { span: for_ns.map(Duration::from_nanos).map(duration::show) })?
            }
            Verb::Start
            | Verb::Stop
            | Verb::Restart
            | Verb::Reset
            | Verb::Enable
            | Verb::Disable
            | Verb::Resume => Bytes::new(),
        };
        let path = format!("/v1/services/{name}/{}?wait={wait}", verb.as_str());
        self.ask(Method::POST, &path, body).await
    }

    /// Sets whether a service starts with defib.
    ///
    /// # Errors
    /// As every request.
    pub async fn set_boot(&self, name: &ServiceName, start: bool) -> Result<Answer, Error> {
        self.ask(Method::POST, &format!("/v1/services/{name}/boot"), json(&Boot { start })?).await
    }

    /// What all services use at this moment, with all their processes.
    ///
    /// # Errors
    /// As every request.
    pub async fn usage(&self) -> Result<AllUsage, Error> {
        self.ask(Method::GET, "/v1/usage", Bytes::new()).await
    }

    /// The table of ports: of these ports, ranges and services, or all of it. With `verify`, every port is counted again.
    ///
    /// # Errors
    /// As every request.
    pub async fn ports(&self, of: &[String], verify: bool) -> Result<PortTable, Error> {
        let of = of.iter().map(|word| format!("&of={word}")).collect::<String>();
        self.ask(Method::GET, &format!("/v1/ports?verify={verify}{of}"), Bytes::new()).await
    }

    /// Who is at the other end of a port: at most `limit` addresses.
    ///
    /// # Errors
    /// As every request.
    pub async fn peers(&self, port: u16, limit: u16) -> Result<PortPeers, Error> {
        self.ask(Method::GET, &format!("/v1/ports/{port}/peers?limit={limit}"), Bytes::new()).await
    }

    /// What a service consists of at this moment: at most `most` items of a kind.
    ///
    /// # Errors
    /// As every request.
    pub async fn inspect(&self, name: &ServiceName, most: u16) -> Result<Inspection, Error> {
        self.ask(Method::GET, &format!("/v1/inspect/{name}?most={most}"), Bytes::new()).await
    }

    /// The events that the daemon has kept, oldest first: those after number `after`, and those of one service.
    ///
    /// # Errors
    /// As every request.
    pub async fn events(&self, after: Option<u64>, only: Option<&ServiceName>) -> Result<Vec<Event>, Error> {
        self.ask(Method::GET, &events(after, only), Bytes::new()).await
    }

    /// The same, and then all events to come.
    ///
    /// # Errors
    /// As every request.
    pub async fn follow(&self, after: Option<u64>, only: Option<&ServiceName>) -> Result<Events, Error> {
        self.stream(events(after, only)).await
    }

    /// The same, and what happens to every other process of the host from now on.
    ///
    /// # Errors
    /// As every request, and if the event source cannot hear of them.
    pub async fn follow_all(&self, after: Option<u64>) -> Result<Events, Error> {
        self.stream(format!("{}&all=true", events(after, None))).await
    }

    async fn stream(&self, path: String) -> Result<Events, Error> {
        let request = Request::get(path).header(ACCEPT, "text/event-stream");
        let (response, connection) = self.send(request, Bytes::new()).await?;
        if response.status().is_success() {
            let body = response.into_body();
            Ok(Events { body, lines: Lines::default(), _connection: connection })
        } else {
            Err(problem(response.into_body()).await)
        }
    }

    /// Asks the daemon to read its configuration again; `dry_run`: only to say what would change.
    ///
    /// # Errors
    /// As every request; [`Error::Failed`] has a line for each error of the configuration.
    pub async fn reload(&self, dry_run: bool) -> Result<Reloaded, Error> {
        self.ask(Method::POST, &format!("/v1/reload?dry_run={dry_run}"), Bytes::new()).await
    }

    /// Asks the daemon to end all services and leave; `hurry`: by SIGKILL. `leave`: it leaves them running.
    ///
    /// # Errors
    /// As every request.
    pub async fn shutdown(&self, hurry: bool, leave: bool) -> Result<(), Error> {
        let (response, _connection) =
            self.send(Request::post("/v1/shutdown"), json(&Shutdown { hurry, leave })?).await?;
        if response.status().is_success() { Ok(()) } else { Err(problem(response.into_body()).await) }
    }

    /// Asks defib to go on as the binary that is on the disk now. Answered by who leaves, when the keeper has agreed.
    ///
    /// # Errors
    /// As every request; [`Error::Failed`] if nothing has changed.
    pub async fn restart(&self) -> Result<Identity, Error> {
        self.ask(Method::POST, "/v1/restart", Bytes::new()).await
    }

    /// Who runs.
    ///
    /// # Errors
    /// As every request.
    pub async fn identity(&self) -> Result<Identity, Error> {
        self.ask(Method::GET, "/v1/daemon", Bytes::new()).await
    }

    /// Whether a daemon still answers.
    pub async fn answers(&self) -> bool {
        connect(&self.socket).await.is_ok()
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Error> {
        let send = || self.send(Request::builder().method(method.clone()).uri(path), body.clone());
        let (response, _connection) = match send().await {
            // The daemon has gone, and the keeper holds the socket for the next one. To look twice does no harm.
            Err(Error::Broken(_)) if method == Method::GET => send().await?,
            sent => sent?,
        };
        if response.status().is_success() {
            serde_json::from_slice(&whole(response.into_body()).await?).map_err(Error::Strange)
        } else {
            Err(problem(response.into_body()).await)
        }
    }

    /// Sends a request on a new connection, which lives as long as what is returned.
    async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<(Response<Incoming>, JoinSet<()>), Error> {
        let stream = connect(&self.socket)
            .await
            .map_err(|error| unreachable(vec![Tried { socket: self.socket.clone(), error }]))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Error::Broken)?;
        let mut driver = JoinSet::new();
        // Its error reaches the caller through the response.
        driver.spawn(async move { drop(connection.await) });
        let request = request.header(HOST, "defib").body(Full::new(body));
        // Every part of it is ours: methods, paths made of names that are safe in one, and two headers.
        let request = request.map_err(|error| Error::Failed(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(Error::Broken)?;
        Ok((response, driver))
    }
}

/// Connects. Root does so only to root: whoever else could put a socket there could have root believe anything.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).await?;
    let owner = stream.peer_cred()?.uid();
    if geteuid().is_root() && owner != 0 {
        return Err(io::Error::other(format!("it belongs to user {owner}, and root trusts only root's")));
    }
    Ok(stream)
}

/// Nobody answers; or somebody does, but not to this user.
fn unreachable(tried: Vec<Tried>) -> Error {
    match tried.iter().find(|tried| tried.error.kind() == io::ErrorKind::PermissionDenied) {
        Some(Tried { socket, .. }) => Error::Denied(format!(
            "{} may be used by root and the members of its group only (try sudo)",
            socket.display()
        )),
        None => Error::Unreachable { tried },
    }
}

fn events(after: Option<u64>, only: Option<&ServiceName>) -> String {
    let after = after.map(|after| format!("after={after}"));
    let only = only.map(|name| format!("service={name}"));
    let query: Vec<String> = [after, only].into_iter().flatten().collect();
    format!("/v1/events?{}", query.join("&"))
}

fn json(body: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(Error::Strange)
}

async fn whole(body: Incoming) -> Result<Bytes, Error> {
    Ok(body.collect().await.map_err(Error::Broken)?.to_bytes())
}

/// The error that the problem details in a body stand for.
async fn problem(body: Incoming) -> Error {
    let body = match whole(body).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    match serde_json::from_slice(&body) {
        Ok(Problem { code, detail, .. }) => match code {
            Code::NotFound => Error::NotFound(detail),
            Code::Denied => Error::Denied(detail),
            Code::Disabled => Error::Disabled(detail),
            Code::Failed | Code::Busy | Code::BadRequest => Error::Failed(detail),
        },
        Err(error) => Error::Strange(error),
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    lines: Lines,
    /// Moves the bytes; ends with this.
    _connection: JoinSet<()>,
}

impl Events {
    /// The next event; `None` when the daemon has left.
    ///
    /// # Errors
    /// [`Error::Broken`] if the connection broke, [`Error::Strange`] if an event is not understood.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(line) = self.lines.next() {
                // The daemon sends an event's JSON as one line of `data`. The rest is for browsers.
                if let Some(data) = line.strip_prefix(b"data:") {
                    return serde_json::from_slice(data).map(Some).map_err(Error::Strange);
                }
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Error::Broken)?.into_data() {
                        self.lines.push(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole line, without its end.
    fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.0.drain(..=end).collect();
        line.pop();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_bytes_were() {
        let mut lines = Lines::default();
        lines.push(b"id: 1\nda");
        assert_eq!(lines.next().as_deref(), Some(&b"id: 1"[..]));
        assert_eq!(lines.next(), None);
        lines.push(b"ta: {}\n\n");
        assert_eq!(lines.next().as_deref(), Some(&b"data: {}"[..]));
        assert_eq!(lines.next().as_deref(), Some(&b""[..]));
        assert_eq!(lines.next(), None);
    }

    /// A daemon that ends where another begins: one connection is dropped, the next is answered.
    #[tokio::test]
    async fn who_only_looks_looks_again_when_the_daemon_was_replaced() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("defib.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let daemons = async {
            for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"services\":[]}"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let heard = stream.read(&mut [0; 4096]).await.unwrap();
                assert!(heard > 0);
                stream.write_all(answer).await.unwrap();
            }
            // To do something twice could do harm.
            drop(listener.accept().await.unwrap());
        };
        let client = Client::at(&socket);
        let asks = async { (client.usage().await, client.restart().await) };
        let ((looked, acted), ()) = tokio::join!(asks, daemons);
        assert!(looked.unwrap().services.is_empty());
        assert!(matches!(acted, Err(Error::Broken(_))), "{acted:?}");
    }

    #[tokio::test]
    async fn every_socket_that_was_tried_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Client::find(&[folder.path().to_owned()]).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Unreachable { .. }));
        assert!(text.contains(&format!("{}/defib.sock: No such file", folder.path().display())), "{text}");
        assert!(text.contains("`defib daemon`"), "{text}");
    }
}
