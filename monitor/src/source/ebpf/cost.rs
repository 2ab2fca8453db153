//! What the ring holds, and what the probes cost: for metrics.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use defib_ebpf::{Event, ExecEvent, ExitEvent, ForkEvent, PortEvent, SignalEvent, kind};

use super::super::stats::ProgramStats;

/// What the kernel puts before each record of a ring.
const HEADER: usize = 8;

/// How much of the ring a record of a kind takes.
const fn room(kind: usize) -> u64 {
    let size = match kind as u16 {
        kind::FORK => size_of::<ForkEvent>(),
        kind::EXEC => size_of::<ExecEvent>(),
        kind::EXIT => size_of::<ExitEvent>(),
        kind::SIGNAL => size_of::<SignalEvent>(),
        kind::LISTEN | kind::UNLISTEN => size_of::<PortEvent>(),
        _ => size_of::<Event>(),
    };
    (size + HEADER).next_multiple_of(8) as u64
}

/// How many bytes of the ring wait to be read: by what was written and read, because the positions of the ring are in
/// memory that is not ours to look at.
pub(super) fn waiting(emitted: &[u64; kind::COUNT], received: &[u64; kind::COUNT], malformed: u64) -> u64 {
    let of = |kind: usize| emitted[kind].saturating_sub(received[kind]) * room(kind);
    let unread: u64 = (0..kind::COUNT).map(of).sum();
    unread.saturating_sub(malformed * room(kind::OOM.into()))
}

/// What each program has cost so far, if the kernel measures it. Some ten microseconds a program.
pub(super) fn runs<'a>(
    programs: impl IntoIterator<Item = (&'static str, BorrowedFd<'a>)>,
) -> Vec<ProgramStats> {
    let measured = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|on| on.trim() == "1");
    if !measured {
        return Vec::new();
    }
    let of = |(name, fd): (&'static str, BorrowedFd<'_>)| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        let (runs, nanoseconds) = parse(&info)?;
        Some(ProgramStats { name, runs, nanoseconds })
    };
    programs.into_iter().filter_map(of).collect()
}

fn parse(info: &str) -> Option<(u64, u64)> {
    let value = |name| info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some((value("run_cnt:")?, value("run_time_ns:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_where_the_kernel_tells_them() {
        let info = "pos:\t0\nprog_jited:\t1\nrun_time_ns:\t1500\nrun_cnt:\t7\nrecursion_misses:\t0\n";
        assert_eq!(parse(info), Some((7, 1500)));
        assert_eq!(parse("pos:\t0\n"), None);
    }

    #[test]
    fn what_was_read_does_not_wait() {
        let (mut emitted, mut received) = ([0; kind::COUNT], [0; kind::COUNT]);
        assert_eq!(waiting(&emitted, &received, 0), 0);
        emitted[usize::from(kind::EXIT)] = 3;
        received[usize::from(kind::EXIT)] = 1;
        let one = room(usize::from(kind::EXIT));
        assert!(one as usize >= size_of::<ExitEvent>() + HEADER && one.is_multiple_of(8));
        assert_eq!(waiting(&emitted, &received, 0), 2 * one);
        assert_eq!(waiting(&received, &emitted, 9), 0, "never less than nothing");
    }
}
