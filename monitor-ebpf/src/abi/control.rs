//! What user space sets while the programs run, and what one daemon leaves to the next.

/// Indices into the array `CTRL`, whose values are `u64`.
pub mod ctrl {
    /// Until when the feed of the whole host is read, in nanoseconds of `CLOCK_MONOTONIC`; zero if it is not.
    pub const FEED: u32 = 0;
    /// The thread group of the keeper, whose children are the main processes. Zero while nothing is to be tracked.
    pub const KEEPER: u32 = 1;
    /// When it started, as roughly as `/proc` tells. The programs do not read this, nor what is below.
    pub const KEEPER_START: u32 = 5;
    /// The [`VERSION`](crate::VERSION) of the programs.
    pub const VERSION: u32 = 2;
    /// Losses that a daemon has told its services' watchers of, by the programs' counters.
    pub const TOLD: u32 = 3;
    /// Skipped runs that it has told.
    pub const TOLD_SKIPPED: u32 = 4;
    /// Into which bank connections are counted, and whether what they do is written down: see
    /// [`ROUND_BANK`](crate::ROUND_BANK). The programs read this.
    pub const ROUND: u32 = 6;
    /// How many changes of connections might have been counted wrongly when everything was last counted anew.
    pub const PORTS_SETTLED: u32 = 7;
    /// The inode number of the cgroup below which each service has its own, for looks at tasks. The programs read this.
    pub const SERVICES: u32 = 8;
    /// The kernel's tags of the programs, in the order in which user space attaches them.
    pub const TAGS: u32 = 9;
    /// How many entries there are.
    pub const COUNT: u32 = 24;
}
