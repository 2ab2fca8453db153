//! `/proc/PID/stat` and `/proc/PID/task/TID/stat` in units that need no explanation, for those who show them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use defib_core::model::Tick;
use nix::unistd::{SysconfVar, sysconf};

/// Two looks at the start of the same process may differ by this much: the keeper's clock is read around the clone,
/// and /proc counts in hundredths of a second.
const SLACK: Duration = Duration::from_secs(1);

/// How this kernel counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units {
    tick_ns: u64,
    page: u64,
}

impl Units {
    /// As sysconf(3) tells them.
    pub(super) fn of_this_kernel() -> Self {
        let value = |name, usual| {
            let found = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
            found.filter(|value| *value > 0).unwrap_or(usual)
        };
        Self {
            tick_ns: 1_000_000_000 / value(SysconfVar::CLK_TCK, 100),
            page: value(SysconfVar::PAGE_SIZE, 4096),
        }
    }

    /// So many pages in bytes.
    pub(super) fn bytes(self, pages: u64) -> u64 {
        pages.saturating_mul(self.page)
    }

    fn time(self, ticks: u64) -> Duration {
        Duration::from_nanos(ticks.saturating_mul(self.tick_ns))
    }
}

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// In user mode.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl Cpu {
    /// Both together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

impl std::ops::AddAssign for Cpu {
    fn add_assign(&mut self, other: Self) {
        self.user += other.user;
        self.system += other.system;
    }
}

/// Some fields of proc_pid_stat(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Its name, at most 15 bytes, which it can choose.
    pub(super) name: String,
    /// One letter: `R` runs, `S` and `D` wait, `T` is stopped, `Z` is a zombie.
    pub(super) state: String,
    /// The parent.
    pub(super) parent: u32,
    /// The session that it is in: the pid of who began it.
    pub(super) session: u32,
    /// CPU time of its own.
    pub(super) cpu: Cpu,
    /// CPU time of the children that it has waited for.
    pub(super) children_cpu: Cpu,
    /// How many threads it has.
    pub(super) threads: u64,
    /// When it started, rounded down to hundredths of a second.
    pub(super) started: Tick,
    /// Virtual memory in bytes.
    pub(super) virtual_bytes: u64,
    /// Resident memory in bytes.
    pub(super) rss: u64,
}

impl Stat {
    /// Reads that of a process.
    pub(super) fn of(pid: u32, units: Units) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}/stat")), units)
    }

    /// Reads a file of that form; `None` if the process is gone.
    pub(super) fn read(path: &Path, units: Units) -> Option<Self> {
        Self::parse(&fs::read(path).ok()?, units)
    }

    /// Whether it is a process that began at that time: a pid may be in use again.
    pub(super) fn began_at(&self, started: Tick) -> bool {
        self.started.since(started) <= SLACK && started.since(self.started) <= SLACK
    }

    /// The second field is the name in brackets, and may hold blanks and brackets itself.
    pub(super) fn parse(stat: &[u8], units: Units) -> Option<Self> {
        let from = stat.iter().position(|byte| *byte == b'(')? + 1;
        let to = stat.iter().rposition(|byte| *byte == b')')?;
        let name = String::from_utf8_lossy(stat.get(from..to)?).into_owned();
        let rest = std::str::from_utf8(stat.get(to + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and two fields are behind us.
        let field = |number: usize| fields.get(number - 3).copied();
        // Children's times are signed there.
        let count = |number| field(number)?.parse::<i64>().ok().map(|it| it.max(0).unsigned_abs());
        Some(Self {
            name,
            state: field(3)?.to_owned(),
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            cpu: Cpu { user: units.time(count(14)?), system: units.time(count(15)?) },
            children_cpu: Cpu { user: units.time(count(16)?), system: units.time(count(17)?) },
            threads: count(20)?,
            started: Tick(count(22)?.saturating_mul(units.tick_ns)),
            virtual_bytes: count(23)?,
            rss: count(24)?.saturating_mul(units.page),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_behind_it() {
        let units = Units { tick_ns: 10_000_000, page: 4096 };
        for name in ["a) S (b", "cat", "\u{fffd}", ") 1 2"] {
            let line = format!(
                "7 ({name}) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 30 20 20 0 3 0 1000 9000000 25 184467 1 1"
            );
            let wanted = Stat {
                name: name.to_owned(),
                state: "S".to_owned(),
                parent: 1,
                session: 7,
                cpu: Cpu { user: Duration::from_millis(1500), system: Duration::from_millis(500) },
                children_cpu: Cpu { user: Duration::from_millis(300), system: Duration::from_millis(200) },
                threads: 3,
                started: Tick(10_000_000_000),
                virtual_bytes: 9_000_000,
                rss: 25 * 4096,
            };
            assert_eq!(Stat::parse(line.as_bytes(), units).as_ref(), Some(&wanted));
            assert!(wanted.began_at(Tick(10_900_000_000)) && !wanted.began_at(Tick(12_000_000_000)));
            for cut in 0..line.len() {
                // No part of it is taken for the whole, but what only lacks fields that nobody asks for.
                assert!(Stat::parse(&line.as_bytes()[..cut], units).is_none_or(|it| it.parent == 1));
            }
        }
    }
}
