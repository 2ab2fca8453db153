//! What is counted of the connections of a port, and who counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use super::snapshot::Seen;

/// Where connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The inode number of the network namespace.
    pub netns: u32,
    /// The port at this end.
    pub port: u16,
}

/// What the kernel has counted at a place since it is watched, over both address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are ESTABLISHED now, accepted or not: what `ss` shows as such.
    pub active: u64,
    /// Connections that became ESTABLISHED.
    pub opened: u64,
    /// Connections that were ESTABLISHED and are it no more. In a quiet moment `active` has changed by
    /// `opened − closed` since the place is watched.
    pub closed: u64,
    /// Connections that a reset has ended, of either side; `None` where that cannot be told from a time-out.
    pub resets: Option<u64>,
    /// How long those that are closed had been ESTABLISHED; `None` where nobody hears of their begin.
    pub lengths: Option<Lengths>,
}

/// How many lengths are told apart.
pub const LENGTHS: usize = 16;

/// The upper bounds of all lengths but the last, which has none: in nanoseconds, and in seconds as they are written, with a
/// point, as OpenMetrics wants it.
pub const BOUNDS: [(u64, &str); LENGTHS - 1] = [
    (1_000_000, "0.001"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1.0"),
    (5_000_000_000, "5.0"),
    (10_000_000_000, "10.0"),
    (30_000_000_000, "30.0"),
    (60_000_000_000, "60.0"),
    (300_000_000_000, "300.0"),
    (600_000_000_000, "600.0"),
    (1_800_000_000_000, "1800.0"),
    (3_600_000_000_000, "3600.0"),
];

/// A histogram of the lengths of connections. Those of which the begin was not seen are not in it: they were there before
/// the place was watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// How many were no longer than the bound of that place in [`BOUNDS`], and longer than the one before it.
    pub counts: [u64; LENGTHS],
    /// All of them together, in nanoseconds.
    pub sum: u64,
    /// How many closed whose length is not known.
    pub unknown: u64,
}

impl Lengths {
    /// How many were no longer than each bound in [`BOUNDS`], in their order.
    pub fn cumulated(&self) -> [u64; LENGTHS - 1] {
        let mut count = 0;
        std::array::from_fn(|index| {
            count += self.counts[index];
            count
        })
    }

    /// How many there are of which it is known.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A second count of the connections at a place, beside what was counted so far. Both are of the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// By the counters.
    pub counted: u64,
    /// By the sockets.
    pub found: u64,
}

impl Verdict {
    /// Whether both say the same.
    pub fn is_equal(self) -> bool {
        self.counted == self.found
    }
}

/// What is to be known of counts by the ends of sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How often more sockets have ended than could be told: since the first time, totals are at least what they say.
    pub lost: u64,
    /// Why nothing is counted.
    pub trouble: Option<String>,
}

/// Who counts. Every method may be called on any thread.
pub trait Counter: fmt::Debug + Send + Sync {
    /// What is watched from now on. What is watched already goes on; new places are looked at on the counter's own
    /// thread, and have no counts until that is done. Never waits.
    ///
    /// Returns how many of them found no room: there are at most [`MAX_PLACES`].
    fn watch(&self, places: &BTreeSet<Place>) -> usize;

    /// To be called before a look at the sockets that [`Self::counts`] is then given.
    fn prepare(&self) {}

    /// What is counted at a place. `None` while it is not watched, or not known yet. `seen` is what the look shows there,
    /// for who counts by that, too; without it they tell what they told last.
    fn counts(&self, place: Place, seen: Option<&Seen>) -> Option<Counts>;

    /// Counts the connections at these places once more, by their sockets, in one look at all of them. Where that differs,
    /// the counts are put right. An error stands where a place is not watched, its namespace is gone, or sock_diag does
    /// not answer.
    ///
    /// Takes some 10 ms, and longer while another thread does the same: not for a thread that must not wait.
    fn verify_all(&self, places: &BTreeSet<Place>) -> BTreeMap<Place, io::Result<Verdict>>;

    /// The map that remembers of each connection when it became ESTABLISHED; `None`: nobody does.
    fn memory(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How often everything was counted anew because the kernel had skipped a run of the probe; `None`: there is no probe.
    fn reseeds(&self) -> Option<u64>;

    /// `None`: it counts in the kernel, as connections open and close. Never waits.
    fn ending(&self) -> Option<Ending> {
        None
    }
}

/// How many places can be watched.
pub const MAX_PLACES: usize = 4096;
