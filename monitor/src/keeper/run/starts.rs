//! Starts: from the queue to a program that runs.

use std::os::fd::AsFd;

use rustix::event::epoll;

use super::Keeper;
use crate::effect::clock;
use crate::keeper::events::{Token, unwatch, watch};
use crate::keeper::slots::State;
use crate::keeper::spawn::Answer;

/// Of so many starts at once, the memory that they took is given back when they are over. That takes the keeper a
/// millisecond, and what it needs for the next restart comes back at first use.
const MANY: usize = 64;

impl Keeper {
    /// Launches what waits, as far as there is room.
    pub(super) fn launch_queued(&mut self) {
        while self.nursery.has_room()
            && let Some(slot) = self.queue.pop_front()
        {
            let Some(it) = self.slots.get_mut(&slot) else { continue };
            let State::Queued { incarnation } = it.state else { continue };
            let now = clock::now().0;
            it.launch(incarnation, slot, now, |plan, berth| self.nursery.spawn(plan, berth));
            if let State::Starting { life, flight, .. } = &it.state {
                self.mains.insert(life.pid, slot);
                watch(&self.epoll, flight.pidfd.as_fd(), Token::Process(slot), epoll::EventFlags::IN);
                self.is_young(slot);
            } else {
                self.link.tell_slot(slot);
            }
        }
    }

    /// The status pipe of a start has an answer.
    pub(super) fn status_answered(&mut self, slot: u32) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        let State::Starting { flight, failed, .. } = &mut it.state else { return };
        match flight.answer() {
            Answer::Pending => {}
            // It is about to end: the slot is told of as failed when it has been reaped.
            Answer::Failed(step, errno) => {
                unwatch(&self.epoll, flight.status.as_fd());
                *failed = Some((step, errno));
            }
            Answer::Executed => {
                unwatch(&self.epoll, flight.status.as_fd());
                let State::Starting { life, flight, .. } = it.take_state() else { return };
                let pidfd = self.nursery.landed(flight);
                it.state = State::Living { life, pidfd };
                self.unready.push_back(slot);
                self.link.tell_slot(slot);
                self.launch_queued();
            }
        }
    }

    /// Makes the next life of one slot ready.
    pub(super) fn make_ready(&mut self) {
        if let Some(slot) = self.unready.pop_front()
            && let Some(it) = self.slots.get_mut(&slot)
        {
            it.mark();
            it.prepare_next();
        }
        self.made_ready += 1;
        if self.unready.is_empty() && std::mem::take(&mut self.made_ready) >= MANY {
            self.expect_calm();
        }
    }
}
