//! The standard families of a process, for the daemon itself.

use std::fs;
use std::io;
use std::path::Path;

use defib_core::model::Tick;
use nix::unistd::{SysconfVar, sysconf};

use super::names;
use super::text::Page;
use super::wall_seconds;

/// What `/proc` tells of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Own {
    cpu_seconds: f64,
    threads: u64,
    started: Tick,
    virtual_bytes: u64,
    resident_bytes: u64,
    open_fds: usize,
    /// `None`: no limit.
    max_fds: Option<u64>,
}

impl Own {
    /// Reads the folder of a process in `/proc`.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let stat = fs::read_to_string(folder.join("stat"))?;
        let limits = fs::read_to_string(folder.join("limits"))?;
        let open_fds = fs::read_dir(folder.join("fd"))?.count();
        Self::parse(&stat, &limits, open_fds).ok_or_else(|| io::Error::other("not as proc_pid_stat(5) says"))
    }

    fn parse(stat: &str, limits: &str, open_fds: usize) -> Option<Self> {
        let value = |name, usual| {
            let found = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
            found.filter(|value| *value > 0).unwrap_or(usual)
        };
        let (hertz, page) = (value(SysconfVar::CLK_TCK, 100), value(SysconfVar::PAGE_SIZE, 4096));
        // The second field is the name in brackets, and may hold blanks and brackets itself.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        Some(Self {
            cpu_seconds: field(14)?.checked_add(field(15)?)? as f64 / hertz as f64,
            threads: field(20)?,
            started: Tick(field(22)?.saturating_mul(1_000_000_000 / hertz)),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(page),
            // The folder that is being read is open, too.
            open_fds: open_fds.saturating_sub(1),
            max_fds: soft.split_whitespace().next()?.parse().ok(),
        })
    }

    pub(super) fn write(&self, page: &mut Page) {
        page.single(&names::OWN_CPU, self.cpu_seconds);
        page.single(&names::OWN_THREADS, self.threads as f64);
        page.single(&names::OWN_START_TIME, wall_seconds(self.started));
        page.single(&names::OWN_VIRTUAL, self.virtual_bytes as f64);
        page.single(&names::OWN_RESIDENT, self.resident_bytes as f64);
        page.single(&names::OWN_OPEN_FDS, self.open_fds as f64);
        page.single(&names::OWN_MAX_FDS, self.max_fds.map_or(f64::INFINITY, |max| max as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "7 (a) S (b) S 1 7 7 0 -1 4194560 100 0 0 0 151 50 0 0 20 0 5 0 1000 9000000 25 184467 1 1";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                          Max open files            1024                 524288               files\n";

    #[test]
    fn the_numbers_are_found() {
        let own = Own::parse(STAT, LIMITS, 8).unwrap();
        assert_eq!((own.cpu_seconds, own.threads, own.started), (2.01, 5, Tick(10_000_000_000)));
        assert_eq!((own.virtual_bytes, own.open_fds, own.max_fds), (9_000_000, 7, Some(1024)));
        assert_eq!(Own::parse(STAT, &LIMITS.replace("1024", "unlimited"), 8).unwrap().max_fds, None);
        for cut in 0..STAT.len() {
            // Whatever is cut off, nothing panics.
            Own::parse(&STAT[..cut], LIMITS, 0);
        }
    }

    #[test]
    fn this_process_has_them() {
        let own = Own::read(Path::new("/proc/self")).unwrap();
        assert!(own.resident_bytes > 1 << 20 && own.virtual_bytes >= own.resident_bytes);
        assert!(own.open_fds > 2 && own.threads >= 1 && own.started > Tick(0));
    }
}
