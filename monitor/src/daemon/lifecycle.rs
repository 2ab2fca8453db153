//! What is opened in which order when the daemon starts, and closed again when it leaves.
//!
//! 1. The keeper hands over what it holds. A first daemon gets nothing; a later one gets the configuration that was
//!    accepted, the lock, the API's socket, and the memo and state of every slot.
//! 2. Configuration (`past`), folders, lock, database, sockets (`places`), event source: what cannot be had is an error for
//!    the first daemon and ends the keeper too; eBPF is optional and its lack is told, and so are cgroups.
//! 3. What keepers and daemons before have left: names of pipes, ends, who lives (`estate`).
//! 4. The threads (`crew`), and what the surfaces see (`front`).
//! 5. The core is told of the past, then begins (`begin`); clients are answered from then on.
//! 6. The daemon leaves: of its own accord, or for another (`leave`).

mod begin;
mod crew;
mod estate;
mod front;
mod leave;
mod past;
mod places;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use defib_core::Supervisor;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Uid;

use super::boot;
use super::capture::Capture;
use super::link::{KeeperLink, LinkError};
use super::own_log::{self, Log, SinkError};
use super::restart::Restart;
use super::run::Daemon;
use super::slots::Slots;
use super::sockets::HeldSockets;
use super::surfaces::{Serve, Surfaces};
use crate::config::{self, Overrides, OwnLog, Settings};
use crate::effect::cgroup;
use crate::effect::clock;
use crate::effect::holders::Household;
use crate::effect::pid_files::PidFiles;
use crate::keeper;
use crate::keeper::protocol::Order;
use crate::metrics::{LogLayer, Metrics};
use crate::source::{self, Selection, SourceChoice};
use begin::begin;
use crew::Crew;
use estate::Estate;
use leave::{Beside, leave};
use past::{configuration, meet_keeper};
use places::Home;

/// Why a daemon could not start, or go on.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("{0}")]
    Config(#[from] config::ConfigErrors),
    #[error("another defib, pid {holder}, uses {}: stop it, or give this one a --state-dir of its own", path.display())]
    Locked { holder: String, path: PathBuf },
    #[error("{what} {}: {cause}", path.display())]
    Path { what: &'static str, path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Log(#[from] SinkError),
    #[error("{0}")]
    Source(String),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{what}: {cause}")]
    System { what: &'static str, cause: io::Error },
}

impl DaemonError {
    /// Says what could not be done.
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }
}

/// `defib daemon`: the keeper, and under it the daemon, which has the keeper at the other end of its standard input.
/// `serve` answers its clients.
/// `handover` is the number under which the keeper of another binary, of which this one takes the place, hands over.
pub fn run(overrides: &Overrides, under_keeper: bool, handover: Option<RawFd>, serve: Serve) -> ExitCode {
    if !under_keeper {
        let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
        keeper::handover::forget(&mut args);
        args.push("--under-keeper".into());
        return keeper::run(args, handover);
    }
    // It was executed as /proc/self/exe, and is called so until it says its name: the journal and `ps` show it.
    nix::sys::prctl::set_name(c"defib").ok();
    // Of the signals that the keeper has blocked, and the daemon with it, the one by which the keeper ends a daemon that
    // hangs; before there are other threads. All others, Ctrl-C among them, are the keeper's business.
    SigSet::from(Signal::SIGABRT).thread_unblock().ok();
    // One of its threads would leave the others with nobody to talk to. The keeper starts a whole daemon.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
    let metrics = Arc::new(Metrics::new(clock::now()));
    let log = match own_log::start(&OwnLog::early(overrides), LogLayer(Arc::clone(&metrics))) {
        Ok(log) => log,
        Err(error) => {
            writeln!(io::stderr(), "defib: {error}").ok();
            return ExitCode::FAILURE;
        }
    };
    let code = run_daemon(overrides, serve, &log, metrics);
    log.finish();
    code
}

/// `defib daemon --check-handover`: whether this binary could take the place of one that hands over what is on standard
/// input.
pub fn check_handover() -> ExitCode {
    match keeper::handover::check(io::stdin().as_fd()) {
        Ok(()) => {
            writeln!(io::stderr(), "{}", keeper::handover::UNDERSTOOD).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            writeln!(io::stderr(), "{error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run_daemon(overrides: &Overrides, serve: Serve, log: &Log, metrics: Arc<Metrics>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(supervise(overrides, serve, log, metrics)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn supervise(
    overrides: &Overrides,
    serve: Serve,
    log: &Log,
    metrics: Arc<Metrics>,
) -> Result<(), DaemonError> {
    let started = clock::now();
    let keeper = std::os::unix::process::parent_id();
    let (mut link, mut past) = meet_keeper().await?;
    let mut settings = configuration(overrides, &mut link, &mut past)?;
    boot::apply(&mut settings);
    metrics.loads.told(true, clock::now());
    metrics.limit(settings.listen.max_series);

    let Home { pipes, memory, socket, listener, door, doors } =
        Home::open(&settings, keeper, log, &mut link, &mut past).await?;
    let mut selection = open_source(&settings.daemon, keeper, &mut link)?;
    let mut estate = Estate::take(&settings, keeper, pipes, &mut link, &mut past).await?;
    let diary = estate.diary(started, &memory);

    let household = Household { cgroups: estate.cgroups.clone(), keeper };
    let slots = Slots::assign(&settings.services, &past.slots(&settings.services));
    let crew = Crew::start(overrides, &settings, &household, &estate.names, &slots, &mut link, &mut past)?;
    let (mut handle, desk) =
        front::open(&mut selection, &settings, household, &slots, &diary.events, &crew.logs)?;
    (handle.metrics, handle.doors) = (Arc::clone(&metrics), doors);
    (handle.state, handle.commits) = (memory.health(), memory.commits());
    if let Some(failure) = past.restarted.take() {
        handle.restarted(failure);
    }
    front::count(&metrics, selection.name, &crew.logs, &memory);

    let mut capture = Capture::new(crew.logs.clone());
    settings.services.iter().for_each(|spec| capture.configure(spec));
    capture.adopt(&slots, std::mem::take(&mut past.pipes));
    capture.take_over(&slots, estate.names.found, &mut link)?;
    let mut sockets = HeldSockets::default();
    sockets.adopt(std::mem::take(&mut past.sockets));

    let mut daemon = Daemon {
        core: Supervisor::new(clock::seed()),
        slots,
        link,
        source: selection.source,
        source_name: selection.name,
        planner: crew.planner,
        planned: crew.planned,
        ports: crew.ports,
        reloads: crew.reloads,
        tenants: desk.tenants,
        connections: desk.connections,
        watched: desk.watched,
        settings: settings.clone(),
        pid_files: PidFiles::new(settings.daemon.pid_dir.clone(), Uid::effective().as_raw()),
        cgroups: estate.cgroups,
        capture,
        sockets,
        asks: desk.asks,
        views: desk.views,
        journal: diary.journal,
        ends: estate.ends,
        memory,
        metrics,
        door,
        acted: started,
        replies: BTreeMap::new(),
        next_request: 0,
        own_log: log.clone(),
        leaving_since: None,
        done: false,
        leaves_alive: false,
        restart: Restart::None,
    };
    daemon.tell_untold(diary.untold);
    begin(&mut daemon, settings, past, estate.names.folder.as_deref())?;
    let surfaces = Surfaces::start(serve, listener, handle, diary.events, diary.entries)
        .map_err(DaemonError::system("start the API"))?;
    tracing::info!(socket = %socket.display(), keeper, "defib supervises");
    // What the start needed is needed no more.
    keeper::give_back_memory();

    daemon.run().await?;

    let (logs, last_output, folder) = (crew.logs, crew.last_output, estate.names.folder);
    leave(daemon, Beside { surfaces, logs, last_output, folder, socket, keeper }).await
}

/// The event source. A first daemon that is to have one that it cannot have does not start.
fn open_source(
    daemon: &config::DaemonSettings,
    keeper: u32,
    link: &mut KeeperLink,
) -> Result<Selection, DaemonError> {
    // `DEFIB_SCRIPT` names a script of events: how tests make the kernel say what it never says.
    let choice = match (std::env::var_os("DEFIB_SCRIPT"), daemon.source) {
        (Some(script), _) => SourceChoice::Scripted(script.into()),
        (None, config::SourceChoice::Auto) => SourceChoice::Auto,
        (None, config::SourceChoice::Ebpf) => SourceChoice::Ebpf,
        (None, config::SourceChoice::ProcConnector) => SourceChoice::ProcConnector,
        (None, config::SourceChoice::Pidfd) => SourceChoice::Pidfd,
    };
    let name = cgroup::short_name(&daemon.state_dir);
    let opened = source::open(&choice, keeper, Some(&name));
    let selection = opened.map_err(|error| DaemonError::Source(error.chain()))?;
    for why in &selection.why {
        tracing::info!(source = selection.name.as_str(), "{why}");
    }
    if let Some(map) = selection.source.next_slot() {
        let map = own(map, "duplicate the map of the next slot")?;
        link.order(Order::Hold { name: keeper::NEXT_SLOT.to_owned() }, vec![map])?;
    }
    Ok(selection)
}

/// How the keeper is to watch this daemon.
pub(super) fn watch_order(settings: &Settings) -> Order {
    let limit = settings.daemon.watchdog.unwrap_or_default();
    Order::Watch { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }
}

fn own(fd: std::os::fd::BorrowedFd<'_>, what: &'static str) -> Result<OwnedFd, DaemonError> {
    fd.try_clone_to_owned().map_err(|cause| DaemonError::System { what, cause })
}
