//! Crashing victims, one life after the other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::clock;
use super::starts::Start;
use super::subject::{START_LIMIT, Subject};

/// Crashes of each patient before a run counts: the first ones fill caches.
pub(super) const WARM_UP: usize = 20;

/// How long everything is quiet before a crash: what a supervisor does after a restart must not be in the next one's
/// figure.
pub(super) const QUIET: Duration = Duration::from_millis(5);

/// A subject and the lives of its victims that will be ended next.
#[derive(Debug)]
pub(super) struct Patient {
    pub(super) subject: Subject,
    lives: Vec<Start>,
}

/// A crash and what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    /// Just before the signal was sent, in nanoseconds of the clock that was asked for.
    pub(super) killed: u64,
    pub(super) next: Start,
}

impl Crash {
    /// From the signal to the first thing that the replacement did; both by the monotonic clock.
    pub(super) fn latency(&self) -> Result<u64> {
        self.next.stamp.checked_sub(self.killed).context("a start before the crash")
    }
}

impl Patient {
    pub(super) fn new(mut subject: Subject) -> Result<Self> {
        let lives = subject.first_starts()?;
        Ok(Self { subject, lives })
    }

    /// The pid of a victim.
    pub(super) fn pid(&self, victim: usize) -> u32 {
        self.lives[victim].pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// One of whose victims only the first is to be crashed, and tells of its starts.
    pub(super) fn of_first(mut subject: Subject) -> Result<Self> {
        let lives = vec![subject.next_start(0)?];
        Ok(Self { subject, lives })
    }

    /// How long a victim has run.
    pub(super) fn age(&self, victim: usize) -> Duration {
        Duration::from_nanos(clock::now().saturating_sub(self.lives[victim].stamp))
    }

    /// Kills the first victim after a moment of quiet, and waits for its replacement.
    pub(super) fn crash(&mut self) -> Result<Crash> {
        clock::sleep(QUIET);
        self.end(0, Signal::KILL, clock::now)
    }

    /// Sends a victim a signal that ends it, and waits for its replacement.
    pub(super) fn end(&mut self, victim: usize, signal: Signal, now: fn() -> u64) -> Result<Crash> {
        let crash = self.end_within(victim, signal, now, START_LIMIT)?;
        crash.with_context(|| format!("{}: no restart in {START_LIMIT:?}", self.subject.name()))
    }

    /// The same, but gives up after `limit`. The victim is dead then, and its replacement may still come.
    pub(super) fn end_within(
        &mut self,
        victim: usize,
        signal: Signal,
        now: fn() -> u64,
        limit: Duration,
    ) -> Result<Option<Crash>> {
        let name = self.subject.name();
        let life = pidfd_open(self.lives[victim].pid, PidfdFlags::empty());
        let life = life.with_context(|| format!("{name}: victim {victim} is gone"))?;
        let unasked = self.subject.start_within(victim, Duration::ZERO)?;
        ensure!(unasked.is_none(), "{name}: victim {victim} was started again without a crash");
        let killed = now();
        pidfd_send_signal(&life, signal)?;
        let Some(next) = self.subject.start_within(victim, limit)? else { return Ok(None) };
        self.lives[victim] = next;
        Ok(Some(Crash { killed, next }))
    }
}
