//! Accepts connections and holds clients to their limits: on the API's unix socket, where the kernel tells who is at the
//! other end, and on any other [`Door`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use nix::unistd::geteuid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::conversation::{Protocol, converse};
use super::peer::Peer;
use super::routes;
use super::tcp;
use crate::daemon::handle::Handle;

/// How much and how long a client may occupy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections of operators. Apart from those of readers, who must not be able to lock the operator out.
    pub(super) operators: usize,
    /// Connections of readers. One more is answered 503, as is one more of an operator.
    pub(super) readers: usize,
    /// How long the head of a request may take, from the end of the one before.
    pub(super) head: Duration,
    /// How long its body may take.
    pub(super) body: Duration,
    /// How long answers that are under way when defib stops may take.
    pub(super) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operators: 64,
            readers: 64,
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

/// How many connections may be told at a time that there is no place for them. One more is closed without a word.
pub(super) const TURNED_AWAY: usize = 16;

/// How long to wait after a failed accept(2): it fails for want of file descriptors or memory, and would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where clients come in.
pub(super) trait Door: Send {
    /// A connection as it comes.
    type Arrival: Send + 'static;

    /// One on which requests can be read.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Cancelling it loses none.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Arrival>> + Send;

    /// What is served on a connection, and the place that it takes; `None`: it is closed without a word.
    fn admit(&self, arrival: &Self::Arrival) -> Option<(Router, OwnedSemaphorePermit)>;

    /// Makes a connection one on which requests can be read. It may wait for the client: no other waits for it.
    fn open(
        arrival: Self::Arrival,
    ) -> impl Future<Output = io::Result<(Self::Stream, Protocol)>> + Send + 'static;
}

/// Serves the API, and the metrics over TCP, until `stop` is true, or nobody can make it so. No connection outlives it.
pub async fn serve(listener: UnixListener, handle: Handle, stop: watch::Receiver<bool>) {
    tokio::join!(
        serve_within(Limits::default(), listener, handle.clone(), stop.clone()),
        tcp::serve(tcp::Limits::default(), handle, stop),
    );
}

/// Serves the API within other limits.
pub(super) async fn serve_within(
    limits: Limits,
    listener: UnixListener,
    handle: Handle,
    stop: watch::Receiver<bool>,
) {
    let full = routes::full(Arc::clone(&handle.metrics));
    let app = routes::router(handle, stop.clone(), limits.body);
    serve_at(Unix { listener, gate: Gate::new(limits), app, full }, limits.head, limits.drain, stop).await;
}

/// Serves the clients of a door. The head of a request may take `head`, and answers that are under way at the end
/// `drain`.
pub(super) async fn serve_at<D: Door>(
    door: D,
    head: Duration,
    drain: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            // Joined as they end; the loop has nothing to say to them.
            Some(_) = connections.join_next() => {}
            accepted = door.accept() => match accepted {
                Ok(arrival) => {
                    if let Some((app, place)) = door.admit(&arrival) {
                        let stop = stop.clone();
                        connections.spawn(async move {
                            converse(D::open(arrival), app, head, stop).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(door);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, all).await.is_err() {
        connections.shutdown().await;
    }
}

/// Waits until `stop` is true, or can never be.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// The API's socket.
struct Unix {
    listener: UnixListener,
    gate: Gate,
    app: Router,
    full: Router,
}

impl Door for Unix {
    type Arrival = UnixStream;
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    fn admit(&self, stream: &UnixStream) -> Option<(Router, OwnedSemaphorePermit)> {
        let (peer, place) = self.gate.admit(stream)?;
        let app = match peer {
            Some(peer) => self.app.clone().layer(Extension(peer)),
            None => self.full.clone(),
        };
        Some((app, place))
    }

    async fn open(stream: UnixStream) -> io::Result<(UnixStream, Protocol)> {
        Ok((stream, Protocol::Http1))
    }
}

/// Lets connections in.
#[derive(Debug)]
struct Gate {
    operators: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    daemon: u32,
}

impl Gate {
    fn new(limits: Limits) -> Self {
        Self {
            operators: Arc::new(Semaphore::new(limits.operators)),
            readers: Arc::new(Semaphore::new(limits.readers)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            daemon: geteuid().as_raw(),
        }
    }

    /// Who it is, unless there is no place for one more of them, and the place that the connection takes.
    fn admit(&self, stream: &UnixStream) -> Option<(Option<Peer>, OwnedSemaphorePermit)> {
        let peer = Peer::of(stream.peer_cred().ok()?.uid(), self.daemon);
        let places = match peer {
            Peer::Operator => &self.operators,
            Peer::Reader { .. } => &self.readers,
        };
        let take = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let turned_away = || Some((None, take(&self.turned_away)?));
        take(places).map(|place| (Some(peer), place)).or_else(turned_away)
    }
}
