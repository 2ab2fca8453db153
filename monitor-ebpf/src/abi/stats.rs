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
    /// Events of descendants, and ports, for which the slot had no budget left.
    pub suppressed: u64,
    /// Processes that found no room in `TRACKED`, so nothing more is heard of them.
    pub tracked_full: u64,
    /// Ends of main processes that found no room in `EXITS`.
    pub exits_full: u64,
    /// Signals that found no room in `BLOWS`, so nobody knows who sent them.
    pub blows_full: u64,
    /// Sockets that found no room in `LISTENERS`, so nobody hears of them.
    pub listeners_full: u64,
}

/// The one value of the per-CPU map `FEED_STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedStats {
    /// Events that were to be told: each was put into the ring or lost.
    pub emitted: u64,
    /// Events for which the ring had no room.
    pub lost: u64,
}

const _: () = assert!(size_of::<Stats>() == 8 * (3 * kind::COUNT + 6) && size_of::<FeedStats>() == 16);
