//! A subject and the life of its victim that will be ended next.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::clock;
use super::starts::Start;
use super::subject::Subject;

/// Crashes of each patient before a run counts: the first ones fill caches.
pub(super) const WARM_UP: usize = 20;

/// How long everything is quiet before a crash: what a supervisor does after a restart must not be in the next one's
/// figure.
const QUIET: Duration = Duration::from_millis(5);

pub(super) struct Patient {
    pub(super) subject: Subject,
    life: Start,
}

impl Patient {
    pub(super) fn new(mut subject: Subject) -> Result<Self> {
        let life = subject.next_start(0)?;
        Ok(Self { subject, life })
    }

    /// A subject of which the first victim's start has been seen.
    pub(super) fn living(subject: Subject, life: Start) -> Self {
        Self { subject, life }
    }

    /// Kills the victim and waits for its replacement. Returns what `now` said just before the signal was sent, and the
    /// start that followed.
    pub(super) fn crash(&mut self, now: fn() -> u64) -> Result<(u64, Start)> {
        let victim = pidfd_open(self.life.pid, PidfdFlags::empty()).context("the victim is gone")?;
        clock::sleep(QUIET);
        self.subject.expect_no_start()?;
        let killed = now();
        pidfd_send_signal(&victim, Signal::KILL)?;
        self.life = self.subject.next_start(0)?;
        Ok((killed, self.life))
    }
}
