//! The processes of a service, each after its parent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Uid, User};

use super::types::{Listed, Process};
use crate::effect::proc_stat::{Stat, Units};

/// A command line is cut to this.
const COMMAND: u64 = 4096;

/// The first `most` of the processes, with the main process's family before all others.
pub(super) fn tree(pids: Vec<u32>, main: Option<u32>, units: Units, most: usize) -> Listed<Process> {
    let stats: BTreeMap<u32, Stat> =
        pids.into_iter().filter_map(|pid| Some((pid, Stat::of(pid, units)?))).collect();
    let parents = stats.iter().map(|(pid, stat)| (*pid, stat.parent)).collect();
    let order = order(&parents, main);
    let mut users = BTreeMap::new();
    let more = order.len().saturating_sub(most) as u64;
    let shown = order.into_iter().take(most).filter_map(|(pid, depth)| {
        let stat = stats.get(&pid)?;
        Some(Process {
            pid,
            parent: stat.parent,
            depth,
            user: user(pid, &mut users),
            state: stat.state.clone(),
            threads: stat.threads,
            cpu_seconds: stat.cpu.total().as_secs_f64(),
            memory_bytes: stat.rss,
            name: stat.name.clone(),
            command: command(pid),
        })
    });
    Listed { items: shown.collect(), more }
}

/// Processes with their depths, children behind their parents. Whose parent is not among them is at the top.
fn order(parents: &BTreeMap<u32, u32>, main: Option<u32>) -> Vec<(u32, u32)> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut tops = Vec::new();
    for (pid, parent) in parents {
        if parents.contains_key(parent) && parent != pid {
            children.entry(*parent).or_default().push(*pid);
        } else {
            tops.push(*pid);
        }
    }
    tops.sort_by_key(|pid| (Some(*pid) != main, *pid));
    let mut left: Vec<(u32, u32)> = tops.into_iter().rev().map(|pid| (pid, 0)).collect();
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some((pid, depth)) = left.pop() {
        if seen.insert(pid) {
            order.push((pid, depth));
            let below = children.get(&pid).into_iter().flatten().rev();
            left.extend(below.map(|child| (*child, depth + 1)));
        }
    }
    // They were read one after the other, so parents may seem to go in circles.
    order.extend(parents.keys().filter(|pid| !seen.contains(pid)).map(|pid| (*pid, 0)));
    order
}

/// The user of a process: whoever owns its folder, which is its effective user.
fn user(pid: u32, known: &mut BTreeMap<u32, String>) -> String {
    let Ok(folder) = fs::metadata(format!("/proc/{pid}")) else { return String::new() };
    let uid = folder.uid();
    let name = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    known.entry(uid).or_insert_with(|| name().unwrap_or_else(|| uid.to_string())).clone()
}

fn command(pid: u32) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(format!("/proc/{pid}/cmdline")).map(|file| file.take(COMMAND));
    if read.and_then(|mut file| file.read_to_end(&mut bytes)).is_err() || bytes.is_empty() {
        return Vec::new();
    }
    // Each argument ends with a NUL.
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_come_behind_their_parents_and_the_main_family_first() {
        let parents = BTreeMap::from([(10, 1), (11, 10), (12, 11), (13, 10), (5, 1), (6, 5)]);
        let wanted = [(10, 0), (11, 1), (12, 2), (13, 1), (5, 0), (6, 1)];
        assert_eq!(order(&parents, Some(10)), wanted);
        assert_eq!(order(&parents, None)[0], (5, 0));
        let circle = BTreeMap::from([(2, 3), (3, 2), (4, 4)]);
        assert_eq!(order(&circle, None).len(), 3);
    }
}
