//! The families of the event pipeline and of the host.

use std::time::Duration;

use defib_core::model::SourceName;

use super::names;
use super::tally::Tally;
use super::text::Page;
use super::wall_seconds;

/// The sources of which one is in use: the others stand at 0, so that a change of the source is seen.
const SOURCES: [SourceName; 3] = [SourceName::Ebpf, SourceName::ProcConnector, SourceName::Pidfd];

/// What the supervisor thread tells of its source and its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// The source in use.
    pub source: SourceName,
    /// Events that were read, by kind.
    pub received: Vec<(&'static str, u64)>,
    /// Events that were lost, by reason.
    pub lost: Vec<(&'static str, u64)>,
    /// How often more sockets ended than could be told; `None`: nobody listens to that.
    pub ends_lost: Option<u64>,
    /// Events that were left out on purpose.
    pub suppressed: u64,
    /// What happened on the whole host; `None` where the source does not hear of it.
    pub host: Option<Host>,
    /// Whom the out-of-memory killer has ended on the whole host; `None` where nobody tells.
    pub oom_kills: Option<OomKills>,
    /// The queues between the threads.
    pub queues: Vec<Queue>,
    /// The rings between the kernel and the source.
    pub rings: Vec<Ring>,
    /// What the probes have cost; empty while the kernel does not measure it.
    pub programs: Vec<Program>,
}

/// What happened on the whole host since the source was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Processes that were made.
    pub forks: u64,
    /// Programs that were executed.
    pub execs: u64,
    /// Processes that ended by themselves.
    pub exits: u64,
    /// Processes that a signal ended.
    pub signals: u64,
    /// Processes that a signal ended with a core dumped.
    pub cores: u64,
}

/// Processes that the out-of-memory killer has ended, by want of whose memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomKills {
    /// Of the host's.
    pub global: u64,
    /// Of a cgroup's.
    pub cgroup: u64,
    /// Nobody can tell.
    pub unknown: u64,
}

/// A bounded queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: &'static str,
    /// How many items wait in it.
    pub length: usize,
    /// How many can.
    pub capacity: usize,
}

/// A ring buffer that the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its name.
    pub name: &'static str,
    /// Bytes that wait to be read.
    pub used: u64,
    /// Bytes that can.
    pub capacity: u64,
}

/// A program in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// How often it has run.
    pub runs: u64,
    /// How long, in all.
    pub took: Duration,
}

/// Writes what the source and the supervisor thread tell.
pub(super) fn write(page: &mut Page, pipeline: &Pipeline) {
    let name = pipeline.source.as_str();
    for source in SOURCES.iter().chain((!SOURCES.contains(&pipeline.source)).then_some(&pipeline.source)) {
        page.family(&names::EVENT_SOURCE_UP).truth(&[source.as_str()], *source == pipeline.source);
    }
    for (event, count) in &pipeline.received {
        page.family(&names::EVENTS_RECEIVED).count(&[name, event], *count);
    }
    for (reason, count) in &pipeline.lost {
        page.family(&names::EVENTS_LOST).count(&[name, reason], *count);
    }
    if let Some(count) = pipeline.ends_lost {
        page.family(&names::EVENTS_LOST).count(&["sock_diag", "socket_overrun"], count);
    }
    page.family(&names::EVENTS_SUPPRESSED).count(&[name], pipeline.suppressed);
    for Queue { name, length, capacity } in &pipeline.queues {
        page.family(&names::EVENT_QUEUE_LENGTH).add(&[name], *length as f64);
        page.family(&names::EVENT_QUEUE_CAPACITY).add(&[name], *capacity as f64);
    }
    for Ring { name, used, capacity } in &pipeline.rings {
        page.family(&names::EVENT_RING_USED).count(&[name], *used);
        page.family(&names::EVENT_RING_CAPACITY).count(&[name], *capacity);
    }
    for Program { name, runs, took } in &pipeline.programs {
        page.family(&names::EBPF_RUNS).count(&[name], *runs);
        page.family(&names::EBPF_RUN_SECONDS).add(&[name], took.as_secs_f64());
    }
    if let Some(host) = pipeline.host {
        page.family(&names::HOST_FORKS).count(&[], host.forks);
        page.family(&names::HOST_EXECS).count(&[], host.execs);
        for (cause, count) in [("exit", host.exits), ("signal", host.signals), ("core", host.cores)] {
            page.family(&names::HOST_EXITS).count(&[cause], count);
        }
        page.family(&names::HOST_COREDUMPS).count(&[], host.cores);
    }
    if let Some(OomKills { global, cgroup, unknown }) = pipeline.oom_kills {
        for (scope, count) in [("global", global), ("cgroup", cgroup), ("unknown", unknown)] {
            page.family(&names::HOST_OOM_KILLS).count(&[scope], count);
        }
    }
}

/// Writes what is measured of events and of what follows from them. Needs nobody's answer.
pub(super) fn write_spans(page: &mut Page, source: SourceName, tally: &Tally) {
    let (name, spans) = (source.as_str(), &tally.spans);
    for (family, histogram) in [
        (&names::EVENT_LATENCY, &spans.event),
        (&names::PROCESS_EXIT_DETECTION, &spans.detection),
        (&names::PROCESS_RESTART_LATENCY, &spans.restart),
    ] {
        page.family(family).histogram(&[name], &histogram.read());
    }
    page.family(&names::PROCESS_READY).histogram(&[], &spans.ready.read());
    page.family(&names::PROCESS_STOP).histogram(&[], &spans.stop.read());
    if let Some(at) = tally.last_event() {
        page.family(&names::EVENT_LAST).add(&[name], wall_seconds(at));
    }
}
