//! Busy pipes are lent to the writer's thread, which gives them back when they are quiet. A thread that stalls does not:
//! then they are taken back.

use std::sync::Arc;
use std::time::Duration;

use defib_core::model::Tick;
use jiff::Timestamp;
use rustix::event::epoll;
use rustix::pipe::SpliceFlags;

use super::{BUSY, Reader, STALLED, Stream};
use crate::effect::clock;

/// How often it is looked whether the writer's thread still makes progress, while it has pipes.
pub(super) const LOOK: Duration = Duration::from_millis(100);

impl Reader {
    /// Leaves a busy pipe to the writer's thread. One that could not be made larger would be full before that thread looks
    /// into it.
    pub(super) fn lend(&mut self, id: u64) -> bool {
        let now = clock::now();
        let Some(tap) = self.taps.get_mut(&id) else { return false };
        let (pipe, _) = tap.stream.fds();
        let busy = || rustix::io::ioctl_fionread(pipe).is_ok_and(|waiting| waiting >= BUSY as u64);
        let stalled = now.since(self.shared.desk.beat()) >= STALLED;
        if tap.large != Some(true) || stalled || !tap.stream.may_be_lent(now) || !busy() {
            return false;
        }
        // As in `hold`.
        epoll::delete(&self.epoll, pipe).ok();
        tap.used = now;
        self.lent.push(id);
        self.shared.desk.lend(&tap.stream);
        true
    }

    /// Moves the bytes of a stream itself from here on; `reclaim` looks at its pipe again.
    pub(super) fn take_back(&mut self, id: u64) {
        if let Some(tap) = self.taps.get(&id) {
            let stream = Arc::clone(&tap.stream);
            stream.take_back(|shown| self.save(&stream, shown));
        }
    }

    /// Moves so much into the spool, of which the other thread does not know yet whether it comes into the file; how much it
    /// was.
    fn save(&mut self, stream: &Arc<Stream>, shown: usize) -> usize {
        let (pipe, spool) = stream.fds();
        let mut saved = 0;
        while saved < shown {
            let mut offset = stream.filled();
            let left = shown - saved;
            match rustix::pipe::splice(pipe, None, spool, Some(&mut offset), left, SpliceFlags::NONBLOCK) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    self.took(stream, count);
                    saved += count;
                }
            }
        }
        let mut left = shown - saved;
        // No memory for the spool. The other thread has it, and no later daemon will.
        while left > 0
            && let Ok(count @ 1..) = self.read_away(stream, left)
        {
            stream.counters.add(count as u64, 0);
            stream.ring().push(Timestamp::now(), count as u64, &[], stream.service.limits());
            left -= count;
        }
        saved
    }

    /// Looks at pipes again that the writer's thread has given back, and takes them back while it is stalled.
    pub(super) fn reclaim(&mut self, now: Tick) {
        let stalled = now.since(self.shared.desk.beat()) >= STALLED;
        for id in std::mem::take(&mut self.lent) {
            if stalled {
                self.take_back(id);
            }
            let Some(tap) = self.taps.get_mut(&id) else { continue };
            // A pipe that is lent is not quiet.
            tap.used = now;
            if tap.stream.is_lent() {
                self.lent.push(id);
                continue;
            }
            let data = epoll::EventData::new_u64(id);
            epoll::add(&self.epoll, tap.stream.fds().0, data, epoll::EventFlags::IN).ok();
        }
    }
}
