//! What the keeper says by itself: lines on standard error, which the daemon shares.

use std::io::{self, Write};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Says something. The keeper has no log of its own, and only speaks when something is wrong. It never waits: with a
/// reader that sleeps on a full pipe the line is lost.
pub(super) fn say(text: &str) {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    let stderr = io::stderr();
    let mut poll = [PollFd::new(&stderr, PollFlags::OUT)];
    if !matches!(rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1)) {
        return;
    }
    // 4 is a warning, to sd-daemon(3) as to syslog(3).
    let prefix = if *JOURNAL.get_or_init(stderr_is_journal) { "<4>" } else { "" };
    // In one write, so that no line of the daemon gets into it.
    stderr.lock().write_all(format!("{prefix}defib keeper: {text}\n").as_bytes()).ok();
}

/// Whether standard error is a stream of the journal: systemd.exec(5), `$JOURNAL_STREAM`.
pub fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    // Whoever has redirected it has left the variable as it was.
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
