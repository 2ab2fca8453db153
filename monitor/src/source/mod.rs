//! Where defib hears of processes: a closed set of event sources with one vocabulary.
//!
//! Every source tells the same [`KernelEvent`](defib_core::model::KernelEvent)s with the same meaning; they differ in
//! how much they hear. [`open`] takes the best that works and keeps the reasons why a better one does not.
//!
//! | source | hears | needs |
//! | --- | --- | --- |
//! | `ebpf` | fork, exec, end and OOM kill of every supervised process, from the kernel | BTF, `CAP_BPF`, the initial pid namespace |
//! | `pidfd` | nothing by itself: ends come with the keeper's reports | nothing |
//! | `scripted` | what a file says, for tests | the file |
//!
//! A source is owned by the supervisor thread. It decides nothing.

mod any;
mod connector;
mod ebpf;
mod feed;
mod namespace;
mod pidfd;
mod scripted;
mod stats;

pub use any::{Batch, Life, Selection, Source, SourceChoice, SourceError, open};
pub use connector::ConnectorError;
pub use ebpf::{EbpfError, probe_report};
pub use feed::Feed;
pub use stats::{KindStats, SourceStats};
