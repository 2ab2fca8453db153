//! Pins: probes and maps that outlive the daemon, so that no end goes unrecorded while none runs.
//!
//! ```text
//! /sys/fs/bpf/defib/v3-0123456789abcdef    the layout of the maps, and the object
//! └─ 89abcdef                              one daemon: the hash of its state directory, locked while it runs
//!    ├─ set/{map,prog,link}_NAME           what is in force
//!    └─ new/, old/                         what a daemon that died left half done
//! ```
//!
//! A set is made in `new` and renamed when it is complete, so that no half of one is ever taken for a whole. Whatever
//! else is found of the same daemon is asked for the ends that it recorded ([`legacy`]), and removed.

mod folder;
mod legacy;
mod seen;
mod set;

pub(super) use folder::Folder;
pub use folder::Unpinned;
pub(super) use legacy::Legacy;
pub use seen::{PinnedSet, pinned, remove_pins};
