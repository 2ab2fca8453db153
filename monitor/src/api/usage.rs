//! What a process uses at this moment, read from /proc when somebody asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::Tick;
use nix::unistd::{SysconfVar, sysconf};

/// Two looks at the start of the same process may differ by this much: the keeper's clock is read around the clone,
/// and /proc counts in hundredths of a second.
const SLACK: Duration = Duration::from_secs(1);

/// Reads the `stat` of processes below a root, which is `/proc` but in tests.
#[derive(Clone, Debug)]
pub(super) struct Proc {
    root: PathBuf,
    tick_ns: u64,
    page: u64,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// CPU time, in user mode and in the kernel.
    pub(super) cpu: Duration,
    /// Resident memory in bytes.
    pub(super) memory: u64,
}

impl Proc {
    /// Reads below `root`.
    pub(super) fn at(root: &Path) -> Self {
        let value = |name, usual| {
            let found = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
            found.filter(|value| *value > 0).unwrap_or(usual)
        };
        let tick_ns = 1_000_000_000 / value(SysconfVar::CLK_TCK, 100);
        Self { root: root.to_owned(), tick_ns, page: value(SysconfVar::PAGE_SIZE, 4096) }
    }

    /// What the process that began at `started` uses; `None` if it is gone, be its pid in use again or not.
    pub(super) fn usage(&self, pid: u32, started: Tick) -> Option<Use> {
        let stat = fs::read_to_string(self.root.join(pid.to_string()).join("stat")).ok()?;
        // The second field is the name in brackets, and may hold blanks and brackets itself.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // proc_pid_stat(5) counts from 1, and two fields are behind us.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let began = Tick(field(22)?.saturating_mul(self.tick_ns));
        if began.since(started) > SLACK || started.since(began) > SLACK {
            return None;
        }
        let ticks = field(14)?.saturating_add(field(15)?);
        Some(Use {
            cpu: Duration::from_nanos(ticks.saturating_mul(self.tick_ns)),
            memory: field(24)?.saturating_mul(self.page),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::clock;

    const STAT: &str =
        "7 (a) S (b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1000 9000000 25 184467 1 1";

    #[test]
    fn the_numbers_are_found_behind_any_name() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("7")).unwrap();
        fs::write(root.path().join("7/stat"), STAT).unwrap();
        let proc = Proc { root: root.path().to_owned(), tick_ns: 10_000_000, page: 4096 };
        let wanted = Use { cpu: Duration::from_secs(2), memory: 25 * 4096 };
        assert_eq!(proc.usage(7, Tick(10_000_000_000)), Some(wanted));
        assert_eq!(proc.usage(7, Tick(5_000_000_000)), None, "the pid is in use again");
        assert_eq!(proc.usage(8, Tick(10_000_000_000)), None, "no such process");
        fs::write(root.path().join("7/stat"), "7 (cut off) S 1").unwrap();
        assert_eq!(proc.usage(7, Tick(10_000_000_000)), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let proc = Proc::at(Path::new("/proc"));
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let began: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
        let began = Tick(began * proc.tick_ns);
        assert!(began <= clock::now());
        assert!(proc.usage(std::process::id(), began).is_some_and(|used| used.memory > 1 << 20));
    }
}
