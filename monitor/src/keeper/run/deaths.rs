//! Main processes that have ended, what is left of their trees, and the lives that follow by standing orders.

use std::os::fd::AsFd;

use defib_core::model::{Tick, Usage};
use rustix::event::epoll;

use super::Keeper;
use super::adoption::{unwatch_rest, watch_rest};
use crate::effect::clock;
use crate::keeper::events::{Token, unwatch, watch};
use crate::keeper::pipes;
use crate::keeper::protocol::LEDGER;
use crate::keeper::raw;
use crate::keeper::slots::{RawEnd, State};
use crate::keeper::stranger::Fate;

/// The most ends that are followed while no daemon acknowledges them; what ends then waits for one. About 100 bytes each.
const MAX_UNACKNOWLEDGED: usize = 16 * 1024;

impl Keeper {
    /// A main process may have ended: reaps it if so.
    pub(super) fn process_ended(&mut self, slot: u32) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        let Some((life, pidfd)) = it.process() else { return };
        let end = match life.stranger() {
            Some(stranger) => match stranger.fate(life.pid, pidfd, clock::now()) {
                Fate::Lives => return,
                Fate::Unread(until) => return self.wait_for_status(slot, until),
                Fate::Ended(status) => RawEnd { at: clock::now().0, status, usage: Usage::default() },
            },
            None => {
                let Ok(Some(reaped)) = raw::reap(life.pid) else { return };
                let at = clock::now().0;
                self.mains.remove(&life.pid);
                RawEnd { at, status: Some(reaped.status), usage: reaped.usage }
            }
        };
        self.unreaped.remove(&slot);
        unwatch(&self.epoll, pidfd.as_fd());
        let (life, failed) = match it.take_state() {
            State::Starting { life, flight, failed } => {
                unwatch(&self.epoll, flight.status.as_fd());
                let failed = failed.or_else(|| flight.failure());
                self.nursery.landed(flight);
                (life, failed)
            }
            State::Living { life, .. } => (life, None),
            other @ (State::Empty { .. }
            | State::Queued { .. }
            | State::Failed { .. }
            | State::Ended { .. }) => {
                it.state = other;
                return;
            }
        };
        let (ended, at) = (life.incarnation, Tick(end.at));
        it.state = match failed {
            Some((step, errno)) => State::Failed { incarnation: life.incarnation, step, errno },
            None => {
                let follows =
                    !self.ending && self.unacknowledged < MAX_UNACKNOWLEDGED && it.takes_up(&life, &end);
                let cleared = life.sweep();
                if !cleared {
                    self.sweeping.insert(slot);
                    if let Some(leaf) = life.leaf() {
                        watch(&self.epoll, leaf.events(), Token::Leaf(slot), epoll::EventFlags::PRI);
                    }
                    watch_rest(&self.epoll, slot, &life);
                }
                self.ends.ended(slot, life.incarnation);
                State::Ended { life, end, cleared, acknowledged: false, follows }
            }
        };
        self.ports_wait(slot, ended, at);
        self.follow(slot);
        self.link.tell_slot(slot);
        self.launch_queued();
    }

    /// Starts the next life where the standing order says so and nothing is left of the last one.
    fn follow(&mut self, slot: u32) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        if let State::Ended { cleared: true, follows: true, .. } = it.state
            && !self.ending
        {
            it.follow();
            if let (Some(_), Some(ledger)) = (&it.pipes, self.held.get(LEDGER)) {
                pipes::say_followed(ledger, slot, it.latest());
            }
            self.unacknowledged += 1;
            self.queue.push_back(slot);
        }
    }

    /// Looks again whether anything is left of a tree.
    pub(super) fn sweep(&mut self, slot: u32) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        let State::Ended { life, cleared: false, .. } = &it.state else { return };
        unwatch_rest(&self.epoll, life);
        let cleared = life.sweep();
        watch_rest(&self.epoll, slot, life);
        if cleared {
            if let Some(leaf) = life.leaf() {
                unwatch(&self.epoll, leaf.events());
            }
            self.sweeping.remove(&slot);
            it.clear();
            self.follow(slot);
            self.link.tell_slot(slot);
            self.launch_queued();
        }
    }
}
