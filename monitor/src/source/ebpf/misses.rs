//! Runs of probes that the kernel skipped because the same probe was running on that CPU already.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tokio::time::Instant;

/// How often [`Misses::known`] looks, at most. Each look costs a few microseconds a probe.
const PAUSE: Duration = Duration::from_secs(1);

/// More than what the kernel tells of a program.
const LEN: usize = 1024;

/// The `fdinfo` files of the probes, kept open.
#[derive(Debug)]
pub(super) struct Misses {
    files: Vec<File>,
    next: Instant,
    known: u64,
}

impl Misses {
    /// Of these programs.
    pub(super) fn of<'a>(programs: impl IntoIterator<Item = BorrowedFd<'a>>) -> Self {
        let open = |fd: BorrowedFd<'_>| File::open(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok();
        let files = programs.into_iter().filter_map(open).collect();
        Self { files, next: Instant::now() + PAUSE, known: 0 }
    }

    /// How many there were; `None` before Linux 5.12, which does not count them.
    pub(super) fn count(&self) -> Option<u64> {
        self.files.iter().map(skipped).sum()
    }

    /// How many there were when it last looked, which it does again once a second.
    pub(super) fn known(&mut self) -> u64 {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + PAUSE;
            self.known = self.count().unwrap_or(0);
        }
        self.known
    }
}

fn skipped(file: &File) -> Option<u64> {
    let mut bytes = [0; LEN];
    let len = file.read_at(&mut bytes, 0).ok()?;
    parse(std::str::from_utf8(bytes.get(..len)?).ok()?)
}

fn parse(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_where_the_kernel_tells_it() {
        let info = "pos:\t0\nflags:\t02000002\nprog_jited:\t1\nrun_cnt:\t7\nrecursion_misses:\t42\n";
        assert_eq!(parse(info), Some(42));
        assert_eq!(parse("pos:\t0\nprog_jited:\t1\n"), None);
        assert_eq!(parse("recursion_misses:\tmany\n"), None);
    }
}
