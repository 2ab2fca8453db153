//! What the surfaces hold of the daemon: typed requests in, immutable views out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use defib_core::model::{ServiceName, ServiceView, SourceName};
use defib_core::{Reply, Verb};
use nix::unistd::Uid;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use super::boot::{BootFile, NotKept};
use super::connections;
use super::feed::FeedHandle;
use super::journal::Journal;
pub use super::reload::{ReloadRefused, Reloaded};
use super::restart;
pub use super::restart::{Identity, RestartRefused};
pub use crate::connections::{
    Ages, BOUNDS, Crowd, Ending, Lengths, Method, Network, Only, Peer, PeerTable, Peers, Row, Table, Verdict,
    Verification,
};
use crate::connections::{Ask as PortAsk, Connections};
use crate::effect::holders::Household;
pub use crate::effect::inspect;
use crate::effect::output::Logs;
pub use crate::effect::port_status::PortStatus;
use crate::effect::port_status::{Owner, port_status};
pub use crate::effect::sockets::State as TcpState;
pub use crate::effect::usage::{Cpu, ProcessUsage, TreeUsage, of_process};
use crate::effect::usage::{Tasks, usage};
use crate::metrics::{self, Metrics, Pipeline, ports::Port};
use crate::source::{OomCounter, OomKills};
use crate::state::Commits;
pub use crate::state::Health;
use crate::web::WebFile;

/// The name of the API's socket in the runtime directory.
pub const SOCKET: &str = "defib.sock";

/// How many requests may wait for the supervisor thread. When it is full, a request is refused as [`Refused::Busy`].
pub const QUEUE: usize = 256;

/// How long the supervisor thread may take to say how its source and queues are. It answers in microseconds; more means
/// that it is stuck.
const STATS: Duration = Duration::from_secs(1);

/// How long a scrape waits for a look at the ports. Of a million sockets it takes about a second.
const PORTS: Duration = Duration::from_secs(3);

/// Where metrics are served over TCP: nowhere, or here.
pub type Doors = watch::Receiver<Option<Arc<Entrance>>>;

/// A socket that listens, and who may come in.
#[derive(Debug)]
pub struct Entrance {
    /// The socket. It does not block.
    pub listener: TcpListener,
    /// Says who may come in; `None`: everybody may.
    pub web: Option<Arc<WebFile>>,
}

/// What is asked of the supervisor thread.
#[derive(Debug)]
pub enum Ask {
    /// A verb for one service, answered when it is done.
    Verb {
        /// The service.
        service: ServiceName,
        /// The verb.
        verb: Verb,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// Read the configuration again.
    Reload {
        /// Only say what would change.
        dry_run: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Reloaded, ReloadRefused>>,
    },
    /// Stop every service and leave; `hurry`: by SIGKILL.
    Shutdown {
        /// Whether not to wait for anybody.
        hurry: bool,
    },
    /// Leave without stopping anything: the next keeper takes the services over.
    Leave,
    /// Leave, so that the keeper can go on as another program.
    Restart {
        /// The program.
        binary: OwnedFd,
        /// Where the answer goes: when the keeper has agreed, or not.
        reply: oneshot::Sender<Result<(), RestartRefused>>,
    },
    /// Say how the source and the queues are.
    Stats {
        /// Where the answer goes.
        reply: oneshot::Sender<Pipeline>,
    },
}

/// The views of all services at one moment.
pub type Views = Arc<BTreeMap<ServiceName, Arc<ServiceView>>>;

/// The service of each slot of the keeper at one moment.
pub type Tenants = Arc<BTreeMap<u32, ServiceName>>;

/// The ports of the host that are watched.
pub type Watched = Arc<BTreeSet<u16>>;

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many requests wait.
    #[error("{QUEUE} requests are waiting already; try again in a moment")]
    Busy,
    /// The daemon is leaving.
    #[error("defib is shutting down")]
    Leaving,
}

/// The surfaces' end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    views: watch::Receiver<Views>,
    /// The latest events.
    pub journal: Arc<Journal>,
    /// The event source in use.
    pub source: SourceName,
    /// Every process of the host; `None` if the source cannot hear of them.
    pub feed: Option<FeedHandle>,
    /// The service of each slot of the keeper.
    pub tenants: watch::Receiver<Tenants>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where metrics are served besides the API's socket.
    pub doors: Doors,
    /// How the state database is.
    pub state: Arc<Health>,
    /// When what this daemon has told it is in it.
    pub commits: Commits,
    /// Who knows of the connections of ports.
    pub connections: Arc<Connections>,
    /// The ports of the host that are watched.
    pub watched: watch::Receiver<Watched>,
    /// Who runs.
    pub identity: Arc<Identity>,
    household: Household,
    /// Who lets the kernel walk through its tasks, if the source can.
    pub(super) tasks: Option<Arc<dyn Tasks>>,
    /// Who counts the kills of the out-of-memory killer.
    oom_kills: Arc<tokio::sync::Mutex<OomCounter>>,
    /// What operators have set for the start of defib.
    boot: Arc<BootFile>,
    /// One look at processes at a time: what one client asks for must not keep the processors from the services.
    reading: Arc<Semaphore>,
    /// The output of services.
    pub logs: Logs,
    /// One look at the ports at a time: however many clients ask, no more than one thread is busy with it.
    looking: Arc<Semaphore>,
}

impl Handle {
    /// Joins the parts. Metrics count for nobody and are served nowhere, and there is no state database, unless they are
    /// set afterwards.
    #[expect(clippy::too_many_arguments, reason = "it is called once, by who has made all of them")]
    pub fn new(
        asks: mpsc::Sender<Ask>,
        views: watch::Receiver<Views>,
        journal: Arc<Journal>,
        source: SourceName,
        feed: Option<FeedHandle>,
        tenants: watch::Receiver<Tenants>,
        household: Household,
        boot: BootFile,
        logs: Logs,
    ) -> Self {
        let (looking, reading) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let boot = Arc::new(boot);
        let identity = Arc::new(Identity {
            version: env!("CARGO_PKG_VERSION"),
            daemon: std::process::id(),
            keeper: household.keeper,
            restart_failure: None,
        });
        let (metrics, doors) = (Arc::default(), watch::channel(None).1);
        let connections = Arc::new(Connections::new(None, household.clone()));
        let watched = watch::channel(Watched::default()).1;
        Self {
            asks,
            views,
            journal,
            source,
            feed,
            tenants,
            metrics,
            doors,
            state: Arc::default(),
            commits: Commits::default(),
            connections,
            watched,
            identity,
            household,
            tasks: None,
            oom_kills: Arc::new(tokio::sync::Mutex::new(OomCounter::begin())),
            boot,
            logs,
            reading,
            looking,
        }
    }

    /// It was to be restarted, and is; `failure`: why not.
    pub(super) fn restarted(&mut self, failure: Option<String>) {
        match &failure {
            None => tracing::info!(version = self.identity.version, "defib has been restarted"),
            Some(why) => tracing::error!(why, "defib was to be restarted, and is not"),
        }
        Arc::make_mut(&mut self.identity).restart_failure = failure;
    }

    /// All services, as they are now.
    pub fn views(&self) -> Views {
        Arc::clone(&self.views.borrow())
    }

    /// The services as they are, and will be.
    pub(super) fn subscribe(&self) -> watch::Receiver<Views> {
        self.views.clone()
    }

    /// How the ports of these services are at this moment, in the order in which each names them. On another thread: a
    /// look at many sockets takes its time.
    pub async fn ports(&self, views: &[&ServiceView]) -> BTreeMap<ServiceName, Vec<PortStatus>> {
        let owners: Vec<Owner> = views.iter().filter_map(|view| Owner::of(view)).collect();
        if owners.is_empty() {
            return BTreeMap::new();
        }
        let household = self.household.clone();
        let _turn = self.looking.acquire().await;
        // The look does not panic; were it so, nothing would be known.
        tokio::task::spawn_blocking(move || port_status(&household, owners)).await.unwrap_or_default()
    }

    /// The table of the watched ports. `None`: the look has failed. On another thread, and one at a time.
    pub async fn port_table(&self, only: Option<Only>, verify: bool) -> Option<Table> {
        let ask = PortAsk { only, owners: true, verify, ..self.port_ask() };
        let connections = Arc::clone(&self.connections);
        self.look_at_ports(move || connections.table(&ask)).await
    }

    /// Who is at the other end of a port: at most `most` addresses of each network namespace. `None`: the look has failed.
    pub async fn port_peers(&self, port: u16, most: usize) -> Option<PeerTable> {
        let (ask, connections) = (self.port_ask(), Arc::clone(&self.connections));
        self.look_at_ports(move || connections.peers(&ask, port, most)).await
    }

    /// The numbers of each watched port, and whether all of it could be looked at in time.
    pub async fn port_sums(&self) -> (Vec<Port>, bool) {
        let ask = PortAsk { busiest: true, ..self.port_ask() };
        if ask.host.is_empty() && ask.subjects.iter().all(|subject| subject.ports.is_empty()) {
            return (Vec::new(), true);
        }
        let connections = Arc::clone(&self.connections);
        let look = self.look_at_ports(move || connections.sums(&ask));
        match tokio::time::timeout(PORTS, look).await {
            Ok(Some((sums, trouble))) => {
                if let Err(why) = &trouble {
                    tracing::debug!(why, "not all ports can be looked at");
                }
                (sums.into_iter().map(connections::port).collect(), trouble.is_ok())
            }
            Ok(None) | Err(_) => (Vec::new(), false),
        }
    }

    fn port_ask(&self) -> PortAsk {
        let host = Arc::clone(&self.watched.borrow());
        PortAsk { host, subjects: connections::subjects(&self.views()), ..PortAsk::default() }
    }

    /// Looks at ports on another thread, one look at a time: the next one waits even if nobody waits for this any more.
    async fn look_at_ports<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = Arc::clone(&self.looking).acquire_owned().await.ok()?;
        let look = move || {
            let found = look();
            drop(turn);
            found
        };
        tokio::task::spawn_blocking(look).await.ok()
    }

    /// What these services use at this moment, with all their processes. On another thread, as the ports. After `longest`
    /// no more of them are looked at; of a look that hangs or does not come to its turn, nothing is known after twice that.
    pub async fn usage(&self, views: &[&ServiceView], longest: Duration) -> Vec<TreeUsage> {
        let services = views.iter().map(|view| (view.name.clone(), view.pid)).collect();
        let (household, tasks) = (self.household.clone(), self.tasks.clone());
        let look = async {
            let turn = Arc::clone(&self.reading).acquire_owned().await.ok()?;
            let look = move || {
                let found = usage(&household, tasks.as_deref(), services, longest);
                // The next one waits even if nobody waits for this any more.
                drop(turn);
                found
            };
            // The look does not panic; were it so, nothing would be known.
            tokio::task::spawn_blocking(look).await.ok()
        };
        tokio::time::timeout(2 * longest, look).await.ok().flatten().unwrap_or_default()
    }

    /// What a service consists of at this moment, at most `most` of a kind; `None` if the look has failed. On another
    /// thread, as the ports.
    pub async fn inspect(&self, view: &ServiceView, most: usize) -> Option<inspect::Inspection> {
        let (household, boot) = (self.household.clone(), Arc::clone(&self.boot));
        let subject = inspect::Subject::of(view);
        let name = view.name.clone();
        let _turn = self.reading.acquire().await;
        let look = move || inspect::Inspection {
            boot: boot.choice(&name),
            ..inspect::look(&household, subject, most)
        };
        tokio::task::spawn_blocking(look).await.ok()
    }

    /// Keeps whether a service is to start with defib. On another thread: it waits for the disk.
    ///
    /// # Errors
    /// If it could not be kept.
    pub async fn set_boot(&self, service: ServiceName, start: bool) -> Result<(), NotKept> {
        let boot = Arc::clone(&self.boot);
        let kept = tokio::task::spawn_blocking(move || boot.set(service, start)).await;
        kept.unwrap_or_else(|failed| Err(NotKept::Failed(failed.to_string())))
    }

    /// Asks for a verb. The receiver gets the answer when the verb is done.
    ///
    /// # Errors
    /// If too many requests wait, or the daemon is leaving.
    pub fn request(&self, service: ServiceName, verb: Verb) -> Result<oneshot::Receiver<Reply>, Refused> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Verb { service, verb, reply })?;
        Ok(answer)
    }

    /// Asks for the configuration to be read again; `dry_run`: only to say what would change.
    ///
    /// # Errors
    /// If too many requests wait, or the daemon is leaving.
    pub fn reload(
        &self,
        dry_run: bool,
    ) -> Result<oneshot::Receiver<Result<Reloaded, ReloadRefused>>, Refused> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Reload { dry_run, reply })?;
        Ok(answer)
    }

    /// Asks the daemon to leave.
    ///
    /// # Errors
    /// If too many requests wait, or it is leaving already.
    pub fn shutdown(&self, hurry: bool) -> Result<(), Refused> {
        self.ask(Ask::Shutdown { hurry })
    }

    /// Asks the daemon to leave, and its services alone.
    ///
    /// # Errors
    /// If too many requests wait, or it is leaving already.
    pub fn leave(&self) -> Result<(), Refused> {
        self.ask(Ask::Leave)
    }

    /// Asks defib to go on as the binary that is on the disk now. Answered when the daemon is about to leave.
    ///
    /// # Errors
    /// If that binary may or can not be used, or the daemon is leaving already.
    pub async fn restart(&self) -> Result<(), RestartRefused> {
        let (keeper, euid) = (self.identity.keeper, Uid::effective().as_raw());
        let opened = tokio::task::spawn_blocking(move || restart::open_binary(keeper, euid)).await;
        let binary = opened.unwrap_or_else(|failed| Err(RestartRefused::Failed(failed.to_string())))?;
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Restart { binary, reply }).map_err(|refused| match refused {
            Refused::Busy => RestartRefused::Busy,
            Refused::Leaving => RestartRefused::Leaving,
        })?;
        // The sender is dropped unused only when the daemon leaves.
        answer.await.unwrap_or(Err(RestartRefused::Leaving))
    }

    /// The same as [`Self::pipeline`], with whom the out-of-memory killer has ended. That is read on another thread.
    pub async fn pipeline_with_kills(&self) -> Option<Pipeline> {
        let look = async {
            let mut counter = Arc::clone(&self.oom_kills).lock_owned().await;
            // The look does not panic; were it so, nothing would be known.
            tokio::task::spawn_blocking(move || counter.look()).await.ok().flatten()
        };
        let (pipeline, kills) = tokio::join!(self.pipeline(), tokio::time::timeout(STATS, look));
        let kills = kills.ok().flatten();
        let kills =
            kills.map(|OomKills { global, cgroup, unknown }| metrics::OomKills { global, cgroup, unknown });
        pipeline.map(|pipeline| Pipeline { oom_kills: kills, ..pipeline })
    }

    /// How the source and the queues are; `None` if the supervisor thread does not say so within a second.
    pub async fn pipeline(&self) -> Option<Pipeline> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Stats { reply }).ok()?;
        tokio::time::timeout(STATS, answer).await.ok()?.ok()
    }

    fn ask(&self, ask: Ask) -> Result<(), Refused> {
        self.asks.try_send(ask).map_err(|full| match full {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Leaving,
        })
    }
}
