//! The threads of a process, as `top -H` shows them.

use std::fs;

use super::types::{Listed, Thread};
use crate::effect::proc_stat::{Stat, Units};

/// More threads are not looked at.
const LOOKED_AT: usize = 32_768;

/// The first `most` of the threads, those first that have used the most CPU time.
pub(super) fn threads(pid: u32, units: Units, most: usize) -> Listed<Thread> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = entries.take(LOOKED_AT).filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let path = |tid: u32, file| format!("/proc/{pid}/task/{tid}/{file}");
    let mut found: Vec<(u32, Stat)> =
        tids.filter_map(|tid| Some((tid, Stat::read(path(tid, "stat").as_ref(), units)?))).collect();
    found.sort_by_key(|(tid, stat)| (std::cmp::Reverse(stat.cpu.total()), *tid));
    let more = found.len().saturating_sub(most) as u64;
    let shown = found.into_iter().take(most).map(|(tid, stat)| Thread {
        tid,
        name: stat.name,
        state: stat.state,
        cpu_seconds: stat.cpu.total().as_secs_f64(),
        wchan: wchan(&path(tid, "wchan")),
    });
    Listed { items: shown.collect(), more }
}

/// `0` stands for a thread that runs, and for a kernel that does not tell.
fn wchan(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let name = text.trim();
    (!name.is_empty() && name != "0").then(|| name.to_owned())
}
