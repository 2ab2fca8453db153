//! The daemon as the keeper's child: started, and started again when it dies.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use defib_core::model::{Tick, WaitStatus};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::handover::DaemonText;
use super::notify::VARIABLES;
use super::oom;

/// A daemon that has lived at least this long is started again at once.
const LASTING: Duration = Duration::from_secs(10);

/// The longest time without a daemon. The services need one, so the keeper never gives up.
const LONGEST: Duration = Duration::from_secs(5);

/// How long a daemon that leaves may take to end, after its last order. One of which a thread waits for a disk that hangs
/// cannot end, and cannot be killed.
const PARTING: Duration = Duration::from_secs(1);

/// The daemon's care.
#[derive(Debug)]
pub(super) struct Nurse {
    /// The command line, without the program.
    args: Vec<OsString>,
    pid: Option<i32>,
    born: Tick,
    /// Whether a daemon has ever supervised: one that has not is not started again.
    ready: bool,
    /// When the keeper leaves, which the daemon has asked for, whether that has ended or not.
    leaving: Option<Tick>,
    /// Daemons that did not last, in a row.
    short_lives: u32,
    /// The OOM score adjustment that the unit gives.
    protection: Option<i32>,
    /// When the next one is due.
    due: Option<Tick>,
}

/// What follows the end of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The keeper leaves, with this exit code.
    Leave(u8),
    /// Another one is due in a while.
    Another(Duration),
}

impl Nurse {
    /// `args` is the command line of the daemon, without the program.
    pub(super) fn new(args: Vec<OsString>) -> Self {
        Self {
            args,
            pid: None,
            born: Tick(0),
            ready: false,
            leaving: None,
            short_lives: 0,
            protection: oom::renounce(),
            due: Some(Tick(0)),
        }
    }

    /// What the next keeper must know.
    pub(super) fn hand_over(&self) -> DaemonText {
        DaemonText { short_lives: self.short_lives, protection: self.protection }
    }

    /// Goes on where an earlier keeper was: a daemon has supervised, and the next one is due at once.
    pub(super) fn take_over(&mut self, text: DaemonText) {
        let DaemonText { short_lives, protection } = text;
        (self.ready, self.short_lives) = (true, short_lives);
        // That of this process has been taken away by then.
        self.protection = protection;
    }

    /// The daemon has left for another one, which is due when the keeper says so.
    pub(super) fn left(&mut self) {
        self.pid = None;
    }

    /// A daemon is due.
    pub(super) fn wake(&mut self, now: Tick) {
        if self.pid.is_none() {
            self.due = Some(now);
        }
    }

    /// The command line, without the program.
    pub(super) fn args(&self) -> &[OsString] {
        &self.args
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// When a daemon is to be started.
    pub(super) fn due(&self) -> Option<Tick> {
        self.due
    }

    /// The daemon supervises.
    pub(super) fn ready(&mut self) {
        self.ready = true;
    }

    /// The daemon wants the keeper to leave with it.
    pub(super) fn leave(&mut self, now: Tick) {
        self.leaving = Some(now + PARTING);
    }

    /// When the keeper leaves without waiting any longer for the daemon's end.
    pub(super) fn parting(&self) -> Option<Tick> {
        self.leaving
    }

    /// Starts a daemon and returns the keeper's end of the socket to it. The daemon's end is its standard input,
    /// which it has no other use for.
    #[expect(clippy::disallowed_methods, reason = "the daemon is the one process that is no service")]
    pub(super) fn start(&mut self, now: Tick) -> io::Result<OwnedFd> {
        self.due = None;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // By the link, not by a path: after an upgrade of the file it is still this keeper's own version.
        let mut command = Command::new("/proc/self/exe");
        for name in VARIABLES {
            command.env_remove(name);
        }
        let child = command
            .arg0("defib")
            .args(&self.args)
            .stdin(Stdio::from(theirs))
            .spawn()
            .inspect_err(|_| self.due = Some(now + LONGEST))?;
        self.pid = i32::try_from(child.id()).ok();
        if let (Some(pid), Some(protection)) = (self.pid, self.protection) {
            oom::protect(pid, protection);
        }
        self.born = now;
        Ok(ours)
    }

    /// The daemon has ended.
    pub(super) fn ended(&mut self, now: Tick, status: WaitStatus) -> Next {
        self.pid = None;
        if self.leaving.is_some() || !self.ready {
            return Next::Leave(status.code().unwrap_or(1));
        }
        let lasted = now.since(self.born) >= LASTING;
        self.short_lives = if lasted { 0 } else { self.short_lives.saturating_add(1) };
        let delay = match self.short_lives {
            0 | 1 => Duration::ZERO,
            n => (Duration::from_millis(100) * 2_u32.saturating_pow((n - 2).min(16))).min(LONGEST),
        };
        self.due = Some(now + delay);
        Next::Another(delay)
    }
}
