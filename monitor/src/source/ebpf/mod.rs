//! The eBPF source: probes in this kernel, rings that they write and maps that they keep.
//!
//! Opening it reads the kernel's own types ([`btf`]), resolves from them what the probes must know ([`offsets`]),
//! loads and attaches the embedded object ([`load`]) and takes hold of its maps ([`maps`]). From then on [`live`]
//! turns ring records into events by way of [`decode`], and [`feed`] those of the second ring, which tells of every
//! process of the host while somebody listens.
//!
//! The probes are pinned where that is possible ([`pins`]): they outlive the daemon, and [`open`] finds them again. Else
//! dropping the source detaches them.
//!
//! What they count of connections is handed out once, to whoever makes sense of it ([`ports`]); likewise the look at all
//! tasks of services ([`tasks`]).
//!
//! The kernel half is the package `defib-ebpf`, whose library holds the layouts that both halves share.

mod btf;
mod control;
mod cost;
mod decode;
mod ends;
mod error;
mod feed;
mod live;
mod load;
mod maps;
mod misses;
mod offsets;
mod open;
mod pins;
mod ports;
mod report;
mod shape;
mod tasks;
#[cfg(test)]
mod tests;

pub use error::EbpfError;
pub(super) use feed::EbpfFeed;
pub(super) use live::EbpfSource;
pub use load::{probe_report, probes};
pub use pins::{PinnedSet, Unpinned, pinned, remove_pins};
pub use ports::{PortRounds, PortTables, Witnessed, grace};
pub use report::{Hook, ProbeReport};
pub use tasks::TaskLook;
