//! Busy pipes are lent to the writer's thread, which gives them back when they are quiet. A thread that stalls does not:
//! then they are taken back.

use std::time::Duration;

use defib_core::model::Tick;
use rustix::event::epoll;

use super::{BUSY, Reader, STALLED};
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
        if !tap.large || stalled || !tap.stream.may_be_lent(now) || !busy() {
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
    pub(super) fn take_back(&self, id: u64) {
        if let Some(tap) = self.taps.get(&id) {
            tap.stream.take_back();
        }
    }

    /// Looks at pipes again that the writer's thread has given back, and takes them back while it is stalled.
    pub(super) fn reclaim(&mut self, now: Tick) {
        let stalled = now.since(self.shared.desk.beat()) >= STALLED;
        for id in std::mem::take(&mut self.lent) {
            let Some(tap) = self.taps.get_mut(&id) else { continue };
            if stalled {
                tap.stream.take_back();
            }
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
