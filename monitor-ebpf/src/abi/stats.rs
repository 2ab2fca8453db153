//! What the programs count, one copy per CPU.

use super::kind;

/// How a process has ended, and the index of its counter in [`Stats::ends`].
pub mod ending {
    /// It exited by itself.
    pub const EXIT: usize = 0;
    /// A signal ended it.
    pub const SIGNAL: usize = 1;
    /// A signal ended it and a core was dumped.
    pub const CORE: usize = 2;
    /// How many ways there are.
    pub const COUNT: usize = 3;

    /// How one has ended of which wait(2) reports that status.
    #[inline(always)]
    pub const fn of(wait_status: u32) -> usize {
        match (wait_status & 0x7f, wait_status & 0x80) {
            (0, _) => EXIT,
            (_, 0) => SIGNAL,
            (_, _) => CORE,
        }
    }
}

/// The one value of the per-CPU map `STATS`. Arrays are indexed by [`kind`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records put into the ring.
    pub emitted: [u64; kind::COUNT],
    /// Records for which the ring had no room.
    pub lost: [u64; kind::COUNT],
    /// What happened on the whole host, to processes, tracked or not. Ends are in [`Self::ends`].
    pub host: [u64; kind::COUNT],
    /// How processes of the whole host have ended, indexed by [`ending`].
    pub ends: [u64; ending::COUNT],
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

const _: () =
    assert!(size_of::<Stats>() == 8 * (3 * kind::COUNT + ending::COUNT + 6) && size_of::<FeedStats>() == 16);

#[cfg(test)]
mod tests {
    use super::ending;

    #[test]
    fn ends_are_told_apart_as_wait_does() {
        for (status, wanted) in [
            (0, ending::EXIT),
            (0x700, ending::EXIT),
            (0xff00, ending::EXIT),
            (9, ending::SIGNAL),
            (11, ending::SIGNAL),
            (11 | 0x80, ending::CORE),
            // What wait(2) never says: a core without a signal.
            (0x80, ending::EXIT),
        ] {
            assert_eq!(ending::of(status), wanted, "{status:#x}");
        }
    }
}
