//! What is opened in which order when the daemon starts, and closed again when it leaves.
//!
//! 1. The keeper hands over what it holds. A first daemon gets nothing; a later one gets the configuration that was
//!    accepted, the lock, the API's socket, and the memo and state of every slot.
//! 2. Configuration, folders, lock, socket, cgroups, event source: what cannot be had is an error for the first
//!    daemon and ends the keeper too; cgroups and eBPF are optional and their lack is told.
//! 3. The core is told of the past, then begins.

mod past;
mod places;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use defib_core::model::Tick;
use defib_core::{Input, Supervisor};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Uid;
use tokio::sync::{mpsc, watch};

use super::adoption;
use super::boot::{self, BootFile};
use super::capture::{self, Capture, Captured, Names};
use super::connections;
use super::door::{self, Door, Wish};
use super::ends::{self, Ends};
use super::feed::FeedHandle;
use super::handle::{self, Handle};
use super::journal::Journal;
use super::keeper_ends;
use super::kept::{self, Kept};
use super::link::{KeeperLink, LinkError};
use super::own_log::{self, Log, SinkError};
use super::ports::Ports;
use super::reload::Reloads;
use super::remember::{self, Memory};
use super::restart::Restart;
use super::run::Daemon;
use super::slots::Slots;
use super::sockets::HeldSockets;
use super::surfaces::{Serve, Surfaces};
use crate::config::{self, Overrides, OwnLog, Settings};
use crate::connections::Connections;
use crate::effect::cgroup;
use crate::effect::clock;
use crate::effect::holders::Household;
use crate::effect::output::folder;
use crate::effect::output::handle::{Farewell, Held};
use crate::effect::output::{self, Logs};
use crate::effect::pid_files::PidFiles;
use crate::effect::planner::{Planner, Workshop};
use crate::effect::port_watch::PortWatch;
use crate::keeper;
use crate::keeper::protocol::{LEDGER, Order, Report, SlotState};
use crate::metrics::{LogLayer, Metrics};
use crate::source::{self, Life, SourceChoice};
use past::{Past, configuration, meet_keeper};
use places::{cgroups, folders, listen, lock, settle_log};

/// How long the planner may take for what is still to be removed.
const LAST_JOBS: Duration = Duration::from_secs(2);

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
    let keeper_pid = std::os::unix::process::parent_id();
    let (mut link, mut past) = meet_keeper().await?;
    let mut settings = configuration(overrides, &mut link, &mut past)?;
    boot::apply(&mut settings);
    metrics.loads.told(true, clock::now());
    let daemon = &settings.daemon;
    let pipes = past.is_first().then(|| folder::hold(&daemon.runtime_dir));
    folders(daemon)?;
    settle_log(log, &daemon.log, past.is_first())?;
    lock(&daemon.state_dir, keeper_pid, &mut link, &past)?;
    let (memory, remembered) = Memory::open(&daemon.state_dir, past.is_first())
        .map_err(|cause| DaemonError::System { what: "start the state database", cause })?;
    past.remembered = remembered;
    let socket = daemon.runtime_dir.join(handle::SOCKET);
    let listener = listen(&socket, &mut link, &mut past)?;
    let wish = Wish::read_soon(&settings.listen).await;
    let (door, doors) = Door::open(wish, past.held.remove(door::HELD), &mut link)?;
    metrics.limit(settings.listen.max_series);

    let choice = source_choice(daemon.source);
    let name = cgroup::short_name(&daemon.state_dir);
    let selection =
        source::open(&choice, keeper_pid, Some(&name)).map_err(|error| DaemonError::Source(error.chain()))?;
    for why in &selection.why {
        tracing::info!(source = selection.name.as_str(), "{why}");
    }
    if let Some(map) = selection.source.next_slot() {
        let map = own(map, "duplicate the map of the next slot")?;
        link.order(Order::Hold { name: keeper::NEXT_SLOT.to_owned() }, vec![map])?;
    }
    // Before what an earlier keeper has left is ended: what is in its pipes stays there from here on.
    let (lock, first) = (past.held.remove(capture::LOCK), past.is_first());
    let mut names = Names::open(&daemon.runtime_dir, lock, first, &mut link).await?;
    drop(pipes);
    let held = past.held.remove(ends::HELD);
    let (ends, told) = Ends::open(names.folder.as_deref().map(|folder| folder.path()), held);
    if let Some(file) = ends.to_hold() {
        link.order(Order::Hold { name: ends::HELD.to_owned() }, vec![file])?;
    }
    if past.is_first()
        && let Some(folder) = &names.folder
    {
        past.unheard = keeper_ends::read(folder.path());
        ends.add_to(&mut past.unheard);
    }
    // After all that can fail: a daemon that does not start leaves no groups behind.
    let cgroups = cgroups(&daemon.state_dir, keeper_pid);
    if past.is_first() {
        let (tree, services) = (cgroups.as_ref().ok(), &settings.services);
        past.residents = adoption::census(tree, &past.remembered, &past.unheard, services, &ends);
        names.of_residents(&past.residents);
    }

    let keeper_holds_ends = past.held.remove(keeper::ends::HELD).is_some();
    let household = Household { cgroups: cgroups.as_ref().ok().cloned(), keeper: keeper_pid };
    let workshop = Workshop {
        household: household.clone(),
        lang: std::env::var("LANG").unwrap_or_else(|_| "C.UTF-8".to_owned()),
        euid: Uid::effective().as_raw(),
        output: names.folder.clone(),
    };
    let (planner, planned) =
        Planner::start(workshop).map_err(|cause| DaemonError::System { what: "start the planner", cause })?;
    let watch = PortWatch::start(household.clone())
        .map_err(|cause| DaemonError::System { what: "start looking at ports", cause })?;
    let reloads = Reloads::start(overrides.config().0, overrides.clone())
        .map_err(|cause| DaemonError::System { what: "start the thread for reloads", cause })?;
    let slots = Slots::assign(&settings.services, &past.slots(&settings.services));
    let (logs, last_output) = start_logs(&daemon.log_dir, &names, &slots, &mut link, &mut past)?;
    let (asks, waiting) = mpsc::channel(handle::QUEUE);
    let (views, shown) = watch::channel(handle::Views::default());
    // Numbers that grow over restarts of the daemon, as long as there are fewer than a million events a second.
    let mut first = u64::try_from(clock::wall(started).as_microsecond()).unwrap_or(0);
    let (entries, untold) = ends.past(&told, &mut first);
    memory.told_earlier(told);
    let (journal, events, entries) = Journal::new(first, entries);
    let feed = selection.feed.map(FeedHandle::start).transpose();
    let feed =
        feed.map_err(|cause| DaemonError::System { what: "start the feed of all processes", cause })?;
    let (tenants, shown_tenants) = watch::channel(Arc::new(slots.names().clone()));
    let boot = BootFile::of(&daemon.state_dir);
    let mut handle = Handle::new(
        asks,
        shown,
        Arc::clone(&events),
        selection.name,
        feed,
        shown_tenants,
        household,
        boot,
        logs.clone(),
    );
    metrics.source(selection.name);
    // Nobody else has set it.
    metrics.output.set(Arc::new(Captured(logs.clone()))).ok();
    (handle.metrics, handle.doors, handle.state) = (Arc::clone(&metrics), doors, memory.health());
    metrics.state.set(Arc::new(remember::Keeping(memory.health()))).ok();
    let counter = connections::counter(selection.ports);
    let connections = Arc::new(Connections::new(counter, handle.household().clone()));
    let (watched, shown_watched) = watch::channel(Arc::new(settings.ports.watch.clone()));
    (handle.connections, handle.watched) = (Arc::clone(&connections), shown_watched);
    if let Some(failure) = past.restarted.take() {
        match &failure {
            None => tracing::info!(version = handle.identity.version, "defib has been restarted"),
            Some(why) => tracing::error!(why, "defib was to be restarted, and is not"),
        }
        Arc::make_mut(&mut handle.identity).restart_failure = failure;
    }
    let mut capture = Capture::new(logs.clone());
    settings.services.iter().for_each(|spec| capture.configure(spec));
    capture.adopt(&slots, std::mem::take(&mut past.pipes));
    capture.take_over(&slots, std::mem::take(&mut names.found), &mut link)?;
    let mut sockets = HeldSockets::default();
    sockets.adopt(std::mem::take(&mut past.sockets));

    let mut supervisor = Daemon {
        core: Supervisor::new(clock::seed()),
        slots,
        link,
        source: selection.source,
        source_name: selection.name,
        planner,
        planned,
        ports: Ports::new(watch),
        reloads,
        tenants,
        connections,
        watched,
        settings: settings.clone(),
        pid_files: PidFiles::new(daemon.pid_dir.clone(), Uid::effective().as_raw()),
        cgroups: cgroups.as_ref().ok().cloned(),
        capture,
        sockets,
        asks: waiting,
        views,
        journal,
        ends,
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
    supervisor.tell_untold(untold);
    begin(&mut supervisor, settings, past)?;
    supervisor.ends.begin();
    if let (false, Some(folder)) = (keeper_holds_ends, &names.folder) {
        // Not before all that the one before it holds has been told.
        match keeper_ends::make(folder.path()) {
            Ok(file) => {
                supervisor.link.order(Order::Hold { name: keeper::ends::HELD.to_owned() }, vec![file])?;
                supervisor.link.send_turn()?;
            }
            Err(error) => {
                tracing::warn!(%error, "the keeper has no file for ends: those that no daemon has heard of die with it");
            }
        }
    }
    let surfaces = Surfaces::start(serve, listener, handle, events, entries)
        .map_err(|cause| DaemonError::System { what: "start the API", cause })?;
    tracing::info!(socket = %socket.display(), keeper = keeper_pid, "defib supervises");
    // What the start needed is needed no more.
    keeper::give_back_memory();

    supervisor.run().await?;

    let another = supervisor.leaves_for_another();
    let alive = another || supervisor.leaves_alive;
    supervisor.source.leave(alive);
    if !alive {
        supervisor.remove_paths(supervisor.sockets.paths());
    }
    logs.stop();
    let written = last_output.wait();
    surfaces.stop(supervisor.journal);
    if another {
        // Everything else is the next daemon's: as after a crash, but that nothing is left to be written.
        tracing::info!("defib is restarted; services run on");
        return Ok(supervisor.link.finish().await?);
    }
    fs::remove_file(&socket).ok();
    drop(supervisor.planner);
    // It ends when it has done what was asked of it, or hangs, and is left alone then.
    let rest = async { while supervisor.planned.recv().await.is_some() {} };
    tokio::time::timeout(LAST_JOBS, rest).await.ok();
    supervisor.pid_files.finish();
    if alive {
        // What waits is written; that services have ended is not, for they have not.
        drop(supervisor.memory);
    } else {
        supervisor.memory.leave();
        supervisor.ends.leave();
        if let (true, Some(folder)) = (written, names.folder) {
            keeper_ends::remove(folder.path());
            folder.clear_away();
        }
    }
    if let Ok(tree) = cgroups
        && !alive
        && let Err(error) = tree.remove(keeper_pid)
    {
        tracing::warn!(cgroup = %tree.base().display(), %error, "not removed: processes are left in it");
    }
    let mut link = supervisor.link;
    link.order(Order::Leave, vec![])?;
    link.finish().await?;
    let how = if alive {
        "services run on, for the next start to take them over"
    } else {
        "every service has ended"
    };
    tracing::info!("{how}; defib leaves");
    Ok(())
}

/// The threads of the logs, with what an earlier daemon knew of the files.
fn start_logs(
    log_dir: &Path,
    names: &Names,
    slots: &Slots,
    link: &mut KeeperLink,
    past: &mut Past,
) -> Result<(Logs, Farewell), DaemonError> {
    let failed = |cause| DaemonError::System { what: "start the logs", cause };
    let ledger = match past.held.remove(LEDGER) {
        Some(held) => held,
        None => {
            let made =
                output::handle::ledger(names.folder.as_deref(), &names.places(slots)).map_err(failed)?;
            let kept = own(made.as_fd(), "duplicate what the logs keep")?;
            link.order(Order::Hold { name: LEDGER.to_owned() }, vec![kept])?;
            made
        }
    };
    Logs::start(log_dir.to_owned(), Held { ledger, folder: names.folder.clone() }).map_err(failed)
}

/// `DEFIB_SCRIPT` names a script of events: how tests make the kernel say what it never says.
fn source_choice(configured: config::SourceChoice) -> SourceChoice {
    match (std::env::var_os("DEFIB_SCRIPT"), configured) {
        (Some(script), _) => SourceChoice::Scripted(script.into()),
        (None, config::SourceChoice::Auto) => SourceChoice::Auto,
        (None, config::SourceChoice::Ebpf) => SourceChoice::Ebpf,
        (None, config::SourceChoice::ProcConnector) => SourceChoice::ProcConnector,
        (None, config::SourceChoice::Pidfd) => SourceChoice::Pidfd,
    }
}

/// Tells the core of the past, and lets it begin.
fn begin(daemon: &mut Daemon, settings: Settings, past: Past) -> Result<(), DaemonError> {
    daemon.turn([Input::Configure(settings.services)])?;
    let mut rest = Vec::new();
    if !past.memos.is_empty() {
        daemon.memory.only(past.memos.values().map(|kept| kept.service.clone()).collect());
    }
    for (slot, Kept { service, memo }) in past.memos {
        let memo = match memo {
            Ok(memo) => memo,
            Err(error) => {
                tracing::error!(slot, %service, %error, "its memo is unreadable: it is taken as the keeper has it");
                let holds = !daemon.sockets.of(slot).is_empty();
                let autostart = daemon.slots.spec(&service).is_some_and(|spec| spec.autostart);
                Box::new(kept::found(slot, &past.states, autostart, holds))
            }
        };
        tracing::debug!(slot, %service, "resumed");
        rest.extend(daemon.orders([Input::Resume { service, memo }])?);
    }
    daemon.link.send_turn()?;
    daemon.tell_all(rest);
    let strangers = daemon.take_up(past.remembered, past.residents, past.unheard)?;
    daemon.recall(strangers)?;
    for report in past.states {
        if let Report::Slot { slot, state: SlotState::Living { pid, started, .. } } = report {
            daemon.follow(&Life { slot, pid, started: Tick(started) });
        }
        daemon.hear(report)?;
    }
    daemon.look_at_ports();
    daemon.link.order(watch_order(&daemon.settings), vec![])?;
    daemon.link.order(Order::Ready, vec![])?;
    daemon.turn([Input::Begin])?;
    for signal in past.signals {
        daemon.hear(Report::Signal(signal))?;
    }
    Ok(())
}

/// How the keeper is to watch this daemon.
pub(super) fn watch_order(settings: &Settings) -> Order {
    let limit = settings.daemon.watchdog.unwrap_or_default();
    Order::Watch { limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }
}

fn own(fd: std::os::fd::BorrowedFd<'_>, what: &'static str) -> Result<OwnedFd, DaemonError> {
    fd.try_clone_to_owned().map_err(|cause| DaemonError::System { what, cause })
}
