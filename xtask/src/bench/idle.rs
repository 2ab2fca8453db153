//! What a hundred quiet services cost: context switches and memory of keeper and daemon.
//!
//! Where nothing happens nothing should run. The switches of every thread, voluntary or not, are read from /proc before
//! and after a window in which no service does anything, on a machine that may be busy otherwise: a thread that does
//! not run is not switched. Reading /proc does not wake the process that is read about. The bench sleeps meanwhile.
//!
//! Memory is the proportional set size: private pages, and each process's share of those that are shared. It does not
//! hold what the kernel keeps for them (page tables, eBPF maps, cgroups, pipes).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::clock;
use super::programs::Programs;
use super::subject::Subject;

const SERVICES: usize = 100;

/// How long the start-up may have its after-effects: caches dropped, histories written, timers of a young service.
const SETTLE: Duration = Duration::from_secs(10);

/// What was seen in the window.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) services: usize,
    pub(super) window: Duration,
    /// Keeper and daemon.
    pub(super) processes: Vec<Cost>,
    /// From where defib hears of ends.
    pub(super) source: String,
}

/// What one process cost.
#[derive(Debug)]
pub(super) struct Cost {
    pub(super) name: &'static str,
    pub(super) threads: usize,
    pub(super) switches: u64,
    pub(super) pss_kib: u64,
}

pub(super) fn measure(programs: &Programs, window: Duration) -> Result<Idle> {
    println!("\nidle: {SERVICES} services, {window:?} after {SETTLE:?}");
    let mut defib = Subject::defib(programs, SERVICES)?;
    defib.first_starts()?;
    let source = defib.source(programs);
    clock::sleep(SETTLE);
    let (keeper, daemon) = (defib.pid(), daemon_of(defib.pid())?);
    let before = [switches(keeper)?, switches(daemon)?];
    clock::sleep(window);
    let after = [switches(keeper)?, switches(daemon)?];
    defib.expect_no_start()?;
    ensure!(daemon_of(keeper)? == daemon, "the daemon was started again meanwhile");
    let cost = |name, pid, index: usize| -> Result<Cost> {
        let (before, after) = (&before[index], &after[index]);
        Ok(Cost { name, threads: after.len(), switches: difference(before, after), pss_kib: pss(pid)? })
    };
    let processes = vec![cost("keeper", keeper, 0)?, cost("daemon", daemon, 1)?];
    Ok(Idle { services: SERVICES, window, processes, source })
}

/// The context switches of each thread of a process, by thread id.
type Switches = BTreeMap<u32, u64>;

fn switches(pid: u32) -> Result<Switches> {
    let mut threads = Switches::new();
    for thread in tasks(pid)? {
        // A thread may end while it is looked at.
        if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")) {
            let kinds = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
            let counts = kinds.map(|kind| field(&status, kind));
            let sum: Option<u64> = counts.into_iter().sum();
            threads.insert(thread, sum.with_context(|| format!("thread {thread} has no count of switches"))?);
        }
    }
    Ok(threads)
}

/// The switches in between. A thread that came brings its own; one that ended took its count along, but ran at least
/// once to end.
fn difference(before: &Switches, after: &Switches) -> u64 {
    let ended = before.keys().filter(|thread| !after.contains_key(thread)).count() as u64;
    let counted = after.iter().map(|(thread, count)| count - before.get(thread).copied().unwrap_or_default());
    counted.sum::<u64>() + ended
}

/// The keeper's child that is the daemon; the others are services.
pub(super) fn daemon_of(keeper: u32) -> Result<u32> {
    for thread in tasks(keeper)? {
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{thread}/children"))?;
        for child in children.split_whitespace() {
            let arguments = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if arguments.split(|byte| *byte == 0).any(|argument| argument == b"--under-keeper") {
                return Ok(child.parse()?);
            }
        }
    }
    anyhow::bail!("process {keeper} has no daemon among its children")
}

fn tasks(pid: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?)).collect()
}

pub(super) fn pss(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    field(&text, "Pss").with_context(|| format!("{file} has no Pss"))
}

/// The number of a line such as `Pss:    512 kB`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    values.flat_map(str::split_whitespace).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text =
            "Pss_Dirty:  7 kB\nPss:\t512 kB\nnonvoluntary_ctxt_switches:\t3\nvoluntary_ctxt_switches:\t2";
        assert_eq!(field(text, "Pss"), Some(512));
        assert_eq!(field(text, "voluntary_ctxt_switches"), Some(2));
        assert_eq!(field(text, "Rss"), None);
    }

    #[test]
    fn threads_that_come_or_end_count() {
        let before = Switches::from([(1, 10), (2, 5)]);
        assert_eq!(difference(&before, &before), 0);
        assert_eq!(difference(&before, &Switches::from([(1, 13), (3, 4)])), 3 + 4 + 1);
    }

    #[test]
    fn a_process_that_sleeps_is_not_switched() {
        let own = std::process::id();
        let counted = switches(own).unwrap();
        assert!(!counted.is_empty() && pss(own).unwrap() > 0);
    }
}
