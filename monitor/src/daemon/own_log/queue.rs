//! What waits to be written.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::line::Line;
use super::sink::Sink;
use crate::config::OwnLog;

/// How many bytes may wait. When they do, lines are dropped and counted, and the count is told once there is room: the
/// supervisor thread waits for nobody.
const LIMIT: usize = 1 << 20;

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum Job {
    Write(Line),
    /// Go over to this sink, which is open.
    Become(Box<Sink>),
    /// Open what these settings name, and go over to it.
    Change(OwnLog),
    /// Open the file anew.
    Reopen,
}

/// What the writer gets at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) jobs: VecDeque<Job>,
    /// Lines for which there was no room behind these.
    pub(super) dropped: u64,
}

/// The queue. The lock is held for the time of a push or of taking all, never while something is written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// There is something to do.
    filled: Condvar,
    /// Everything has been done.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    batch: Batch,
    weight: usize,
    /// Whether the writer waits for something to do.
    waiting: bool,
}

impl Queue {
    /// Adds a job. A line is dropped if there is no room; what is not a line always has room, it is rare.
    pub(super) fn push(&self, job: Job) {
        let mut inner = self.lock();
        if let Job::Write(line) = &job {
            let weight = line.weight();
            if inner.weight + weight > LIMIT {
                inner.batch.dropped += 1;
                return;
            }
            inner.weight += weight;
        }
        inner.batch.jobs.push_back(job);
        if inner.waiting {
            self.filled.notify_one();
        }
    }

    /// Waits for jobs and takes all of them.
    pub(super) fn take(&self) -> Batch {
        let mut inner = self.lock();
        while inner.batch.jobs.is_empty() && inner.batch.dropped == 0 {
            inner.waiting = true;
            self.idle.notify_all();
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.waiting = false;
        inner.weight = 0;
        mem::take(&mut inner.batch)
    }

    /// Waits until everything has been written, but no longer than this.
    pub(super) fn wait_until_idle(&self, patience: Duration) {
        let busy = |inner: &mut Inner| !(inner.waiting && inner.batch.jobs.is_empty());
        let inner = self.lock();
        drop(self.idle.wait_timeout_while(inner, patience, busy));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked with it had done nothing by halves.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::Tick;

    use super::*;

    fn line(length: usize) -> Line {
        Line {
            at: Tick(0),
            level: tracing::Level::INFO,
            module: "test",
            place: None,
            message: "x".repeat(length),
            fields: vec![],
        }
    }

    #[test]
    fn a_full_queue_drops_lines_and_counts_them_but_no_other_job() {
        let queue = Queue::default();
        for _ in 0..40 {
            queue.push(Job::Write(line(LIMIT / 20)));
        }
        queue.push(Job::Reopen);
        let Batch { jobs, dropped } = queue.take();
        let lines = jobs.iter().filter(|job| matches!(job, Job::Write(_))).count();
        assert_eq!((lines, dropped), (19, 21));
        assert!(matches!(jobs.back(), Some(Job::Reopen)));
        queue.push(Job::Write(line(1)));
        let Batch { jobs, dropped } = queue.take();
        assert_eq!((jobs.len(), dropped), (1, 0), "there is room again");
    }
}
