//! How many processes the kernel's out-of-memory killer has ended on the whole host, and for want of whose memory.
//!
//! The kernel counts them in `/proc/vmstat` (`oom_kill`) whatever the reason was, and so does the program at
//! `mark_victim`: it is handed the victim only, and neither the reason nor the cgroup is where a program may look. The
//! `memory.events` of cgroups do not tell either, because a group counts each of its processes that is killed, whoever had
//! no memory. What tells is the line in the kernel's log ([`super::kmsg`]), one for each victim and never left out.
//!
//! The log is read when somebody asks. If it cannot be read, or was overwritten since it was read last, the reason is not
//! known of as many as `/proc/vmstat` has more.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};

use super::kmsg::{self, Next};

/// Records that are read at a time, at some 2 µs each. What is left is read the next time.
const LOOK: usize = 65_536;

/// Numbers since they are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomKills {
    /// The host had no memory left.
    pub global: u64,
    /// A cgroup had used what it may.
    pub cgroup: u64,
    /// Nobody can tell.
    pub unknown: u64,
}

impl OomKills {
    fn total(self) -> u64 {
        self.global + self.cgroup + self.unknown
    }
}

/// Who counts them.
#[derive(Debug)]
pub struct OomCounter {
    log: Option<File>,
    /// What the kernel had counted at the beginning; `None`: it does not count them.
    before: Option<u64>,
    kills: OomKills,
}

impl OomCounter {
    /// Counts from now on.
    pub fn begin() -> Self {
        let log = kmsg::open().and_then(|mut log| log.seek(SeekFrom::End(0)).map(|_| log));
        let log = log.inspect_err(|error| tracing::debug!(%error, "the kernel's log cannot be read")).ok();
        Self { log, before: counted(), kills: OomKills::default() }
    }

    /// What there were until now; `None` if the kernel tells nothing. Some 50 µs, and longer where the log is long: not
    /// for a thread that must not wait.
    pub fn look(&mut self) -> Option<OomKills> {
        // Before the log: a kill is counted first and logged then.
        let total = self.before.zip(counted()).map(|(before, now)| now.saturating_sub(before));
        let known = self.read();
        if let Some(total) = total.filter(|_| !known) {
            self.kills.unknown += total.saturating_sub(self.kills.total());
        }
        (self.log.is_some() || total.is_some()).then_some(self.kills)
    }

    /// Reads what is new in the log; false if that is not all that there was.
    fn read(&mut self) -> bool {
        let Some(log) = &mut self.log else { return false };
        let mut complete = true;
        for _ in 0..LOOK {
            match kmsg::next(log) {
                Ok(Next::Kill(kill)) if kill.of_cgroup => self.kills.cgroup += 1,
                Ok(Next::Kill(_)) => self.kills.global += 1,
                Ok(Next::Other) => {}
                Ok(Next::Overwritten) => complete = false,
                Ok(Next::End) => break,
                Err(error) => {
                    tracing::warn!(%error, "the kernel's log cannot be read any more");
                    self.log = None;
                    return false;
                }
            }
        }
        complete
    }
}

/// What the kernel has counted since the boot.
fn counted() -> Option<u64> {
    let vmstat = fs::read_to_string("/proc/vmstat").ok()?;
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_them() {
        assert!(counted().is_some());
        assert!(OomCounter::begin().look().is_some());
    }

    #[test]
    fn of_what_is_not_in_the_log_the_reason_is_unknown() {
        let Some(before) = counted().and_then(|now| now.checked_sub(3)) else {
            // Nobody was killed since the boot: as if three had been.
            let mut counter = OomCounter { log: None, before: Some(0), kills: OomKills::default() };
            assert_eq!(counter.look().map(|kills| kills.global + kills.cgroup), Some(0));
            return;
        };
        let kills = OomKills { global: 1, cgroup: 1, unknown: 0 };
        let mut counter = OomCounter { log: None, before: Some(before), kills };
        let found = counter.look().expect("the kernel counts them");
        assert!(found.unknown >= 1 && (found.global, found.cgroup) == (1, 1), "{found:?}");
        assert!(counter.look().expect("again").unknown >= found.unknown);
    }
}
