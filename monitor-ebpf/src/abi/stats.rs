//! What the programs count, one copy per CPU.

use super::kind;

/// The one value of the per-CPU map `STATS`. Arrays are indexed by [`kind`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records put into the ring.
    pub emitted: [u64; kind::COUNT],
    /// Records for which the ring had no room.
    pub lost: [u64; kind::COUNT],
    /// What happened on the whole host, to processes, tracked or not.
    pub host: [u64; kind::COUNT],
    /// Ends of descendants, which make no record of their own.
    pub descendant_exits: u64,
    /// Processes that found no room in `TRACKED`, so nothing more is heard of them.
    pub tracked_full: u64,
    /// Ends of main processes that found no room in `EXITS`.
    pub exits_full: u64,
}

const _: () = assert!(size_of::<Stats>() == 8 * (3 * kind::COUNT + 3));
