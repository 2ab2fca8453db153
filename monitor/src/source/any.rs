//! The closed set of sources, and the choice among them.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use defib_core::model::{KernelEvent, SourceName, Witness};

use super::ebpf::{EbpfError, EbpfSource};
use super::pidfd::PidfdSource;
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
    /// Nothing but the keeper's reports.
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

/// Opens the source that `choice` asks for, to hear of the children of the process `keeper`.
///
/// `Auto` always finds one. To be called on the tokio runtime that will wait for the source.
pub fn open(choice: &SourceChoice, keeper: u32) -> Result<Selection, SourceError> {
    match choice {
        SourceChoice::Auto => Ok(open_ebpf(keeper).unwrap_or_else(|error| {
            let pidfd = Source::Pidfd(PidfdSource);
            Selection {
                source: pidfd,
                name: SourceName::Pidfd,
                why: vec![format!("ebpf: {}", error.chain())],
            }
        })),
        SourceChoice::Ebpf => Ok(open_ebpf(keeper)?),
        SourceChoice::Pidfd => {
            let source = Source::Pidfd(PidfdSource);
            Ok(Selection {
                source,
                name: SourceName::Pidfd,
                why: vec!["asked for by the configuration".into()],
            })
        }
        SourceChoice::Scripted(path) => {
            let source = ScriptedSource::open(path)
                .map_err(|cause| SourceError::Script { path: path.clone(), cause })?;
            let why = vec![format!("reads {}", path.display())];
            Ok(Selection { source: Source::Scripted(source), name: SourceName::Scripted, why })
        }
    }
}

fn open_ebpf(keeper: u32) -> Result<Selection, EbpfError> {
    let (source, why) = EbpfSource::open(keeper)?;
    Ok(Selection { source: Source::Ebpf(source), name: SourceName::Ebpf, why })
}

impl Source {
    /// Waits until something has happened and adds it to `batch`. Cancelling it loses nothing. One call adds a bounded
    /// number of events; what is left makes the next call return at once.
    pub async fn wait(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(ebpf) => ebpf.wait(batch).await,
            Self::Pidfd(pidfd) => pidfd.wait().await,
            Self::Scripted(script) => script.wait(batch).await,
        }
    }

    /// Adds what is there already, without waiting; bounded as in [`Source::wait`].
    ///
    /// When the keeper reports an end, everything about it is there: the kernel side has written it before the
    /// keeper's pidfd fired.
    pub fn drain(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(ebpf) => ebpf.drain(batch),
            Self::Pidfd(PidfdSource) => {}
            Self::Scripted(script) => script.drain(batch),
        }
    }

    /// Does what can wait until everybody who waits for the events has been served: forgets the ends that were taken, and
    /// adds the losses to `batch`. To be called after [`Source::drain`] and [`Source::take_end`]; the system calls in it
    /// take as long as the rest of a restart's decision.
    pub fn settle(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(ebpf) => ebpf.settle(batch),
            Self::Pidfd(PidfdSource) | Self::Scripted(_) => {}
        }
    }

    /// The end of the main process `pid` that started at `start`, once. `None` if the source has not seen it.
    pub fn take_end(&mut self, pid: u32, start: u64) -> Option<Witness> {
        match self {
            Self::Ebpf(ebpf) => ebpf.take_end(pid, start),
            Self::Pidfd(PidfdSource) => None,
            Self::Scripted(script) => script.take_end(pid, start),
        }
    }

    /// Begins to hear of a main process that ran before the source was opened, and returns the start time by which it
    /// goes from now on. `None` if there is no such process, or the source does not track.
    ///
    /// Descendants that it has already are not heard of; those it makes from now on are.
    pub fn track(&mut self, pid: u32, slot: u32) -> Result<Option<u64>, SourceError> {
        match self {
            Self::Ebpf(ebpf) => Ok(ebpf.track(pid, slot)?),
            Self::Pidfd(PidfdSource) | Self::Scripted(_) => Ok(None),
        }
    }

    /// The map whose one `u64` the keeper sets to slot + 1 before a clone and to 0 after it, to be mapped shared.
    pub fn next_slot(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Ebpf(ebpf) => Some(ebpf.next_slot()),
            Self::Pidfd(PidfdSource) | Self::Scripted(_) => None,
        }
    }

    /// What has been counted so far.
    pub fn stats(&self) -> SourceStats {
        match self {
            Self::Ebpf(ebpf) => ebpf.stats(),
            Self::Pidfd(PidfdSource) => SourceStats::default(),
            Self::Scripted(script) => script.stats(),
        }
    }
}
