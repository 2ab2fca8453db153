//! The closed set of sources, and the choice among them.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use defib_core::model::{KernelEvent, SourceName, Tick, WaitStatus, Witness};

use super::connector::{ConnectorError, ConnectorSource};
use super::ebpf::{EbpfError, EbpfSource, PortRounds, PortTables, TaskLook, remove_pins};
use super::feed::Feed;
use super::pidfd::PidfdSource;
use super::rights;
use super::scripted::ScriptedSource;
use super::stats::SourceStats;

/// What the configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceChoice {
    /// The best that works.
    #[default]
    Auto,
    /// eBPF or nothing.
    Ebpf,
    /// The proc connector or nothing.
    ProcConnector,
    /// Only what the keeper reports.
    Pidfd,
    /// The events in this file or FIFO, one JSON object a line.
    Scripted(PathBuf),
}

/// An open source.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is never moved after it was opened")]
pub enum Source {
    /// eBPF programs in this kernel.
    Ebpf(EbpfSource),
    /// The kernel's proc connector.
    ProcConnector(ConnectorSource),
    /// The keeper's reports, and pidfds.
    Pidfd(PidfdSource),
    /// A script of events.
    Scripted(ScriptedSource),
}

/// The source that was taken.
#[derive(Debug)]
pub struct Selection {
    /// It.
    pub source: Source,
    /// Its name in logs, metrics and `doctor`.
    pub name: SourceName,
    /// Why each better one was not taken, else what this one is attached to.
    pub why: Vec<String>,
    /// Hears of every process of the host when it is asked to; `None` if the source cannot.
    pub feed: Option<Feed>,
    /// Counts connections; `None` if the source does not.
    pub ports: Option<(PortTables, PortRounds)>,
    /// Looks at what the tasks of services use; `None` if the source cannot.
    pub tasks: Option<TaskLook>,
}

/// The main process of a slot, as the keeper knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The slot.
    pub slot: u32,
    /// The process.
    pub pid: u32,
    /// When the keeper made it: a little before the kernel says that it started.
    pub started: Tick,
}

/// What one turn brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events in the order in which the kernel wrote them.
    pub events: Vec<KernelEvent>,
    /// How many were lost since the last turn: what is known may be stale.
    pub lost: u64,
}

/// Why the source that was asked for cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The eBPF source.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
    /// The proc connector.
    #[error(transparent)]
    ProcConnector(#[from] ConnectorError),
    /// The script.
    #[error("cannot start reading the script {}", path.display())]
    Script {
        /// The file or FIFO.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

impl SourceError {
    /// The error with all its causes, on one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Opens the source that `choice` asks for, to hear of the children of the process `keeper`. What of it can outlive this
/// process goes by `name`, which must be another for each daemon of the host; without a name nothing outlives it.
///
/// `Auto` always finds one. To be called on the tokio runtime that will wait for the source.
pub fn open(choice: &SourceChoice, keeper: u32, name: Option<&str>) -> Result<Selection, SourceError> {
    let selection = choose(choice, keeper, name)?;
    // Probes of an earlier daemon would go on for nobody.
    if selection.name != SourceName::Ebpf
        && let Some(name) = name
        && let Err(error) = remove_pins(name)
    {
        tracing::info!(error = chain(&error), "what an earlier daemon has pinned is left alone");
    }
    Ok(selection)
}

fn choose(choice: &SourceChoice, keeper: u32, name: Option<&str>) -> Result<Selection, SourceError> {
    match choice {
        SourceChoice::Auto => Ok(best(keeper, name)),
        SourceChoice::Ebpf => Ok(open_ebpf(keeper, name)?),
        SourceChoice::ProcConnector => Ok(open_connector(keeper)?),
        SourceChoice::Pidfd => Ok(open_pidfd(vec!["asked for by the configuration".into()])),
        SourceChoice::Scripted(path) => {
            let source = ScriptedSource::open(path)
                .map_err(|cause| SourceError::Script { path: path.clone(), cause })?;
            let why = vec![format!("reads {}", path.display())];
            let source = Source::Scripted(source);
            Ok(Selection { source, name: SourceName::Scripted, why, feed: None, ports: None, tasks: None })
        }
    }
}

/// The best source that works, and why better ones do not.
fn best(keeper: u32, name: Option<&str>) -> Selection {
    let ebpf = match open_ebpf(keeper, name) {
        Ok(selection) => return selection,
        Err(error) => format!("ebpf: {}", error.chain()),
    };
    let connector = match may_cost_the_host() {
        Ok(()) => open_connector(keeper).map_err(|error| chain(&error)),
        Err(why) => Err(why.to_owned()),
    };
    match connector {
        Ok(mut selection) => {
            selection.why.insert(0, ebpf);
            selection
        }
        Err(error) => open_pidfd(vec![ebpf, format!("proc-connector: {error}")]),
    }
}

/// Whether the proc connector may be taken without having been asked for. Since Linux 6.6 every user may subscribe to
/// it; but every process of the host pays, and whoever makes them pay should be their administrator.
///
/// # Errors
/// If not, with the reason.
pub fn may_cost_the_host() -> Result<(), &'static str> {
    match rights::effective() {
        Ok(effective) if effective & rights::NET_ADMIN != 0 => Ok(()),
        Ok(_) | Err(_) => {
            Err("it would cost every process of the host, so without CAP_NET_ADMIN it has to be asked \
                               for; set source = \"proc-connector\"")
        }
    }
}

fn open_ebpf(keeper: u32, name: Option<&str>) -> Result<Selection, EbpfError> {
    let (mut source, feed, why) = EbpfSource::open(keeper, name)?;
    let (ports, tasks) = (source.take_ports(), source.take_tasks());
    let (source, feed) = (Source::Ebpf(source), Some(Feed::Ebpf(feed)));
    Ok(Selection { source, name: SourceName::Ebpf, why, feed, ports, tasks })
}

fn open_connector(keeper: u32) -> Result<Selection, ConnectorError> {
    let (source, feed, why) = ConnectorSource::open(keeper)?;
    let (source, feed) = (Source::ProcConnector(source), Some(Feed::ProcConnector(feed)));
    Ok(Selection { source, name: SourceName::ProcConnector, why, feed, ports: None, tasks: None })
}

fn open_pidfd(mut why: Vec<String>) -> Selection {
    let (source, limits) = PidfdSource::open();
    why.extend(limits);
    Selection {
        source: Source::Pidfd(source),
        name: SourceName::Pidfd,
        why,
        feed: None,
        ports: None,
        tasks: None,
    }
}

impl Source {
    /// Waits until something has happened and adds it to `batch`. Cancelling it loses nothing. One call adds a bounded
    /// number of events; what is left makes the next call return at once.
    pub async fn wait(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(ebpf) => ebpf.wait(batch).await,
            Self::ProcConnector(connector) => connector.wait(batch).await,
            Self::Pidfd(pidfd) => pidfd.wait(batch).await,
            Self::Scripted(script) => script.wait(batch).await,
        }
    }

    /// Adds what is there already, without waiting; bounded as in [`Source::wait`].
    ///
    /// When the keeper reports an end, everything about it that eBPF tells is there: the kernel side has written it
    /// before the keeper's pidfd fired.
    pub fn drain(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(ebpf) => ebpf.drain(batch),
            Self::ProcConnector(connector) => connector.drain(batch),
            Self::Pidfd(pidfd) => pidfd.drain(batch),
            Self::Scripted(script) => script.drain(batch),
        }
    }

    /// Learns from the keeper's report whose process that is, and adds what had been heard of it before. For sources
    /// that the keeper cannot tell ahead; to be called after [`Source::drain`], as often as the keeper reports.
    pub fn claim(&mut self, life: &Life, batch: &mut Batch) {
        match self {
            Self::ProcConnector(connector) => connector.claim(life, batch),
            Self::Ebpf(_) | Self::Pidfd(_) | Self::Scripted(_) => {}
        }
    }

    /// Does what can wait until everybody who waits for the events has been served: forgets the ends that were taken, and
    /// adds the losses to `batch`. To be called after [`Source::drain`] and [`Source::take_end`]; the system calls in it
    /// take as long as the rest of a restart's decision.
    pub fn settle(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(ebpf) => ebpf.settle(batch),
            Self::ProcConnector(connector) => connector.settle(batch),
            Self::Pidfd(pidfd) => pidfd.settle(batch),
            Self::Scripted(_) => {}
        }
    }

    /// What is known of the end of a main process that the keeper has reaped with `status`, once. `start` is its start
    /// time as the source told it. `None` if the source has not seen the end.
    pub fn take_end(&mut self, life: &Life, start: Option<u64>, status: WaitStatus) -> Option<Witness> {
        match self {
            Self::Ebpf(ebpf) => match start {
                Some(start) => ebpf.take_end(life.pid, start),
                None => ebpf.recorded_end(life.pid, life.started.0),
            },
            Self::ProcConnector(connector) => connector.take_end(life, status),
            Self::Pidfd(pidfd) => pidfd.take_end(life, status),
            Self::Scripted(script) => script.take_end(life.pid, start?),
        }
    }

    /// The end of a main process that died while no daemon listened, once: that of the process `pid` whose keeper had made
    /// it at `started`, in nanoseconds of `CLOCK_BOOTTIME`, give or take 50 ms. `None` if it was not recorded. To be asked
    /// within a minute after the source was opened; what nobody asks for is forgotten.
    pub fn recorded_end(&mut self, pid: u32, started: u64) -> Option<Witness> {
        match self {
            Self::Ebpf(ebpf) => ebpf.recorded_end(pid, started),
            Self::ProcConnector(_) | Self::Pidfd(_) | Self::Scripted(_) => None,
        }
    }

    /// Ends the source's work. If `keep`, what it has in the kernel goes on recording ends until the next daemon comes.
    pub fn leave(&mut self, keep: bool) {
        match self {
            Self::Ebpf(ebpf) => ebpf.leave(keep),
            Self::ProcConnector(_) | Self::Pidfd(_) | Self::Scripted(_) => {}
        }
    }

    /// Begins to hear of a main process that ran before the source was opened, or that it has lost sight of, and returns
    /// the start time by which it goes from now on. `None` if there is no such process, or the source does not track.
    ///
    /// Descendants that it has already are not heard of; those it makes from now on are.
    pub fn track(&mut self, life: &Life) -> Result<Option<u64>, SourceError> {
        match self {
            Self::Ebpf(ebpf) => Ok(ebpf.track(life)?),
            Self::ProcConnector(connector) => Ok(connector.track(life)),
            Self::Pidfd(pidfd) => Ok(pidfd.track(life)),
            Self::Scripted(_) => Ok(None),
        }
    }

    /// Whether a main process is still heard of. After a loss it may not be: its fork may be what was lost.
    pub fn follows(&self, pid: u32, start: Option<u64>) -> bool {
        match self {
            Self::Ebpf(ebpf) => start.is_some_and(|start| ebpf.follows(pid, start)),
            Self::ProcConnector(connector) => connector.follows(pid),
            Self::Pidfd(_) | Self::Scripted(_) => true,
        }
    }

    /// Whether it tells when a process begins and ceases to listen on a port.
    pub fn hears_ports(&self) -> bool {
        match self {
            Self::Ebpf(ebpf) => ebpf.hears_ports(),
            Self::ProcConnector(_) | Self::Pidfd(_) | Self::Scripted(_) => false,
        }
    }

    /// The map whose one `u64` the keeper sets to slot + 1 before a clone and to 0 after it, to be mapped shared.
    pub fn next_slot(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Ebpf(ebpf) => Some(ebpf.next_slot()),
            Self::ProcConnector(_) | Self::Pidfd(_) | Self::Scripted(_) => None,
        }
    }

    /// What has been counted so far.
    pub fn stats(&self) -> SourceStats {
        match self {
            Self::Ebpf(ebpf) => ebpf.stats(),
            Self::ProcConnector(connector) => connector.stats(),
            Self::Pidfd(_) => SourceStats::default(),
            Self::Scripted(script) => script.stats(),
        }
    }
}
