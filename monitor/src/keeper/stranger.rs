//! Main processes that an earlier keeper made: they are no children of this one, so nobody tells it how they ended.
//!
//! A pidfd tells that, whoever the parent is: it is readable when the process has ended, and hung up when somebody has
//! reaped it; then, since Linux 6.15, `PIDFD_GET_INFO` gives the raw status. Until then a zombie's status stands in
//! its `/proc/PID/stat`, for those who may read it. Where neither tells, the daemon may know from the kernel's side.
//!
//! What is left of such a life has not come to this keeper either: without a cgroup it is looked for among all processes.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use defib_core::model::Tick;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::raw;
use super::tree::Tag;

/// How long a zombie whose status cannot be read may wait for whoever is to reap it. A parent that reaps at all does so
/// within milliseconds.
const REAPING: Duration = Duration::from_secs(1);

/// One of them.
#[derive(Debug)]
pub(super) struct Stranger {
    /// Whether its `stat` shows all to this keeper: to others it says 0 where the status stands.
    legible: bool,
    /// When it was seen to have ended, while its status is waited for.
    ended: Cell<Option<Tick>>,
    /// Those who are left of its tree and have had SIGKILL.
    rest: RefCell<Vec<OwnedFd>>,
}

/// Whether one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It lives.
    Lives,
    /// It has, and how will be known until then, or not at all.
    Unread(Tick),
    /// It has, with this status, as far as this keeper can know.
    Ended(Option<i32>),
}

impl Stranger {
    pub(super) fn new(pid: i32) -> Self {
        // proc_pid_stat(5): the start of its code is 1 to those who may not know it.
        let legible = stat(pid).is_some_and(|stat| stat.field(26).is_some_and(|code| code != "1"));
        Self { legible, ended: Cell::new(None), rest: RefCell::new(Vec::new()) }
    }

    /// By which the processes of its life are known: what its own environment says.
    pub(super) fn tag(&self, pid: i32, incarnation: u64) -> Tag {
        Tag::of_process(pid, incarnation)
    }

    /// Asks the kernel how it is.
    pub(super) fn fate(&self, pid: i32, pidfd: &OwnedFd, now: Tick) -> Fate {
        let seen = polled(pidfd);
        if !seen.intersects(PollFlags::IN | PollFlags::HUP) {
            return Fate::Lives;
        }
        let told = raw::pidfd_status(pidfd.as_fd());
        if let Ok(Some(status)) = told {
            return Fate::Ended(Some(status));
        }
        if !seen.contains(PollFlags::HUP)
            && let Some(status) = self.status_of_zombie(pid)
        {
            // Nobody else has had the number since, if it has not been given back even now.
            if !polled(pidfd).contains(PollFlags::HUP) {
                return Fate::Ended(Some(status));
            }
            return Fate::Ended(raw::pidfd_status(pidfd.as_fd()).ok().flatten());
        }
        let since = self.ended.get().unwrap_or(now);
        self.ended.set(Some(since));
        let until = since + REAPING;
        if seen.contains(PollFlags::HUP) || told.is_err() || until <= now {
            return Fate::Ended(None);
        }
        Fate::Unread(until)
    }

    /// What stands where the status stands, if that can be believed.
    fn status_of_zombie(&self, pid: i32) -> Option<i32> {
        let stat = stat(pid).filter(|_| self.legible)?;
        if !matches!(stat.field(3)?, "Z" | "X") {
            return None;
        }
        stat.field(52)?.parse().ok()
    }

    /// SIGKILL to every process of the life, wherever it is. Returns whether one was left.
    pub(super) fn kill_by_tag(&self, main: i32, tag: &Tag) -> bool {
        let mut rest = Vec::new();
        for pid in processes().filter(|pid| *pid != main) {
            // First the pidfd, then the look: the number may have another owner by now.
            let Some(pidfd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            else {
                continue;
            };
            let of_session = stat(pid).is_some_and(|stat| {
                stat.field(6).and_then(|session| session.parse().ok()) == Some(main)
                    && !matches!(stat.field(3), Some("Z" | "X"))
            });
            if of_session || tag.marks(pid) {
                pidfd_send_signal(&pidfd, Signal::KILL).ok();
                rest.push(pidfd);
            }
        }
        let left = !rest.is_empty();
        self.rest.replace(rest);
        left
    }

    /// Those who have had SIGKILL and not ended: each of their ends is a moment to look again.
    pub(super) fn rest(&self) -> std::cell::Ref<'_, Vec<OwnedFd>> {
        self.rest.borrow()
    }
}

/// What a pidfd is ready for.
fn polled(pidfd: &OwnedFd) -> PollFlags {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => polled[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// `/proc/PID/stat`.
struct Stat(String);

impl Stat {
    /// A field by its number in proc_pid_stat(5), from the third on: the second may hold anything.
    fn field(&self, number: usize) -> Option<&str> {
        let (_, fields) = self.0.rsplit_once(") ")?;
        fields.split_ascii_whitespace().nth(number.checked_sub(3)?)
    }
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    Some(Stat(String::from_utf8_lossy(&text).into_owned()))
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test starts its own processes")]

    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::effect::clock;

    /// A grandchild of which the shell between is told when to reap.
    #[test]
    fn the_end_of_a_process_that_is_no_child_is_read_before_and_after_the_reaping() {
        for (script, expected) in [("exit 7", 7 << 8), ("kill -TERM $$", 15), ("exit 0", 0)] {
            // Job control is off: a background job has no input, so it is given the shell's under another number.
            let line = format!(
                "exec 3<&0; sh -c 'echo $$; read x; {script}' <&3 & read y; wait $!; echo reaped; read z"
            );
            let mut shell = Command::new("sh");
            shell.args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut shell = shell.spawn().expect("there is a sh");
            let mut lines = BufReader::new(shell.stdout.take().expect("it is piped")).lines();
            let mut line = || lines.next().expect("a line").expect("text");
            let pid: i32 = line().parse().expect("a pid");
            let stranger = Stranger::new(pid);
            let pidfd =
                pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty()).expect("it lives");
            assert_eq!(stranger.fate(pid, &pidfd, clock::now()), Fate::Lives);
            drop(shell.stdin.take());
            let deadline = clock::now() + Duration::from_secs(20);
            let fate = loop {
                match stranger.fate(pid, &pidfd, clock::now()) {
                    Fate::Lives | Fate::Unread(_) => assert!(clock::now() < deadline),
                    fate @ Fate::Ended(_) => break fate,
                }
                rustix::thread::sched_yield();
            };
            let exact = stranger.legible || raw::pidfd_status(pidfd.as_fd()).is_ok();
            assert!(fate == Fate::Ended(Some(expected)) || !exact, "{script}: {fate:?}");
            shell.wait().expect("it is our child");
        }
    }
}
