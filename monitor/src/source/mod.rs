//! Where defib hears of processes: a closed set of event sources with one vocabulary.
//!
//! Every source tells the same [`KernelEvent`](defib_core::model::KernelEvent)s with the same meaning; they differ in
//! how much they hear. [`open`] takes the best that works and keeps the reasons why a better one does not.
//!
//! | source | hears | needs |
//! | --- | --- | --- |
//! | `ebpf` | fork, exec, fatal signals with their senders, end, OOM kill and ports of supervised processes, from the kernel | BTF, `CAP_BPF`, the initial pid namespace |
//! | `proc-connector` | fork, exec and end of every process, from the kernel; an OOM kill from its log | `CAP_NET_ADMIN` before Linux 6.6, the initial pid and network namespaces |
//! | `pidfd` | nothing by itself: ends come with the keeper's reports, an OOM kill from the kernel's log | nothing |
//! | `scripted` | what a file says, for tests | the file |
//!
//! A source is owned by the supervisor thread. It decides nothing.

mod any;
mod clocks;
mod connector;
mod ebpf;
mod feed;
mod kmsg;
mod namespace;
mod oom_kills;
mod pidfd;
mod procfs;
mod rights;
mod scripted;
mod stats;
#[cfg(test)]
mod testing;
mod watch;

pub use any::{Batch, Life, Selection, Source, SourceChoice, SourceError, may_cost_the_host, open};
pub use connector::ConnectorError;
pub use ebpf::{
    EbpfError, Hook, PinnedSet, PortRounds, PortTables, ProbeReport, TaskLook, Unpinned, Witnessed, grace,
    pinned, probe_report, probes, remove_pins,
};
pub use feed::Feed;
pub use oom_kills::{OomCounter, OomKills};
pub use pidfd::tells_ends;
pub use stats::{EndStats, KindStats, ProgramStats, RingStats, SourceStats};
