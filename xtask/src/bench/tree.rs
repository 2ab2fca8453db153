//! What the processes of a supervisor cost: memory, context switches, descriptors. Its services are not among them.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// The context switches of each thread of a process, by thread id.
pub(super) type Switches = BTreeMap<u32, u64>;

/// Voluntary and other switches of a process. Reading /proc does not wake it.
pub(super) fn switches(pid: u32) -> Result<Switches> {
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
pub(super) fn difference(before: &Switches, after: &Switches) -> u64 {
    let ended = before.keys().filter(|thread| !after.contains_key(thread)).count() as u64;
    let counted = after.iter().map(|(thread, count)| count - before.get(thread).copied().unwrap_or_default());
    counted.sum::<u64>() + ended
}

/// The keeper's child that is the daemon; the others are services.
pub(super) fn daemon_of(keeper: u32) -> Result<u32> {
    for child in children(keeper)? {
        let arguments = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|argument| argument == b"--under-keeper") {
            return Ok(child);
        }
    }
    anyhow::bail!("process {keeper} has no daemon among its children")
}

/// The children of all threads of a process.
pub(super) fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for thread in tasks(pid)? {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"))?;
        found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(found)
}

/// All descendants of a process, and itself.
pub(super) fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        // One that ends meanwhile has no children left.
        found.extend(children(*parent).unwrap_or_default());
        next += 1;
    }
    found
}

fn tasks(pid: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?)).collect()
}

/// The proportional set size in KiB: private pages, and the share of those that are shared.
pub(super) fn pss(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    field(&text, "Pss").with_context(|| format!("{file} has no Pss"))
}

/// The descriptors that a process holds.
pub(super) fn descriptors(pid: u32) -> Result<usize> {
    let folder = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?.count())
}

/// What is called `pid` in its innermost pid namespace, among `candidates` as they are called here.
pub(super) fn called(pid: u32, candidates: &[u32]) -> Option<u32> {
    let inside = |candidate: &&u32| {
        let status = fs::read_to_string(format!("/proc/{candidate}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.and_then(|line| line.split_whitespace().next_back()) == Some(pid.to_string().as_str())
    };
    candidates.iter().find(inside).copied()
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
    fn one_process_is_looked_at_from_all_sides() {
        let own = std::process::id();
        assert!(!switches(own).unwrap().is_empty() && pss(own).unwrap() > 0 && descriptors(own).unwrap() > 2);
        assert!(family(own).contains(&own));
        assert_eq!(called(own, &[own]), Some(own));
    }
}
