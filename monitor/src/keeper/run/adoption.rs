//! Lives that an earlier keeper had begun: taken over, and followed to their ends.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;

use super::Keeper;
use crate::effect::clock;
use crate::keeper::events::{Token, unwatch, watch};
use crate::keeper::say;
use crate::keeper::slots::{Found, Life, State};
use defib_core::model::Tick;

impl Keeper {
    /// Takes a life over.
    pub(super) fn adopt(&mut self, slot: u32, found: Found, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let (Some(pidfd), cgroup) = (fds.next(), fds.next()) else { return };
        let Some(it) = self.slot(slot) else { return };
        if !matches!(it.state, State::Empty { .. }) {
            say(&format!("slot {slot} takes no life over: there is something in it"));
            return self.link.tell_slot(slot);
        }
        it.adopt(found, pidfd, cgroup);
        it.mark();
        if let Some((_, pidfd)) = self.slots.get(&slot).and_then(|it| it.process()) {
            watch(&self.epoll, pidfd.as_fd(), Token::Process(slot), epoll::EventFlags::IN);
        }
        self.link.tell_slot(slot);
    }

    /// A life has ended in other hands, and its status is still to be told: a hang-up says when.
    pub(super) fn wait_for_status(&mut self, slot: u32, until: Tick) {
        if let Some((_, pidfd)) = self.slots.get(&slot).and_then(|it| it.process()) {
            // Readable it stays, and would wake the loop again and again.
            epoll::modify(&self.epoll, pidfd, Token::Process(slot).data(), epoll::EventFlags::empty()).ok();
        }
        self.unreaped.insert(slot, until);
    }

    /// Whoever was to reap a process has not done so in time: it has ended all the same.
    pub(super) fn read_no_longer(&mut self) {
        let now = clock::now();
        let late: Vec<_> =
            self.unreaped.iter().filter(|(_, until)| **until <= now).map(|(slot, _)| *slot).collect();
        for slot in &late {
            self.unreaped.remove(slot);
            self.process_ended(*slot);
        }
        if !late.is_empty() {
            self.flush();
        }
    }
}

/// Watches those who are left of a life that was taken over, where there is no leaf that tells of them.
pub(super) fn watch_rest(epoll: &OwnedFd, slot: u32, life: &Life) {
    let Some(stranger) = life.stranger() else { return };
    for pidfd in stranger.rest().iter() {
        watch(epoll, pidfd.as_fd(), Token::Leaf(slot), epoll::EventFlags::IN);
    }
}

/// Watches them no longer.
pub(super) fn unwatch_rest(epoll: &OwnedFd, life: &Life) {
    let Some(stranger) = life.stranger() else { return };
    for pidfd in stranger.rest().iter() {
        unwatch(epoll, pidfd.as_fd());
    }
}
