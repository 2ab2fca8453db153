//! The keeper of a binary that was executed in place of another: it takes over what that held.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

use rustix::event::epoll;

use super::{Keeper, NEXT_SLOT, renew};
use crate::effect::clock;
use crate::keeper::ends::HELD;
use crate::keeper::events::{Token, watch};
use crate::keeper::handover::{self, Taken, Text};
use crate::keeper::say;
use crate::keeper::slots::{Slot, State};

impl Keeper {
    /// Takes over from the hand-over with this number.
    pub(super) fn succeed(daemon: Vec<OsString>, number: RawFd) -> io::Result<Self> {
        let previous = handover::previous(number);
        // The number stays open until the text has been understood: the binary before would need it.
        let text = match handover::peek(number) {
            Ok(text) => text,
            Err(error) => {
                say(&error.to_string());
                return Err(match previous {
                    Some(previous) => renew::return_to(previous, number),
                    None => io::Error::other(error),
                });
            }
        };
        // Before the low numbers are taken, so that none of these is lost.
        let mut taken = Taken::new(&text.numbers());
        drop(Taken::new(&[number]));
        let mut keeper = Self::new(daemon, text.nofile)?;
        keeper.take_over(text, &mut taken);
        // What has ended meanwhile. Its SIGCHLD is lost: to set a signal to its default discards one that waits and
        // would be ignored by default.
        for slot in keeper.mains.values().copied().collect::<Vec<_>>() {
            keeper.process_ended(slot);
        }
        keeper.hear_signals()?;
        keeper.launch_queued();
        Ok(keeper)
    }

    fn take_over(&mut self, text: Text, taken: &mut Taken) {
        let now = clock::now();
        let (previous, failure) = (text.previous.and_then(|number| taken.take(number)), text.failure);
        self.renewal.begin(previous, failure);
        self.ending = text.ending;
        if self.ending {
            self.notify.stopping(now, true);
        }
        self.nurse.take_over(text.daemon);
        self.notify.watch(now, (text.watchdog_ms > 0).then(|| Duration::from_millis(text.watchdog_ms)));
        for (name, number) in text.held {
            match taken.take(number) {
                Some(fd) => drop(self.held.insert(name, fd)),
                None => say(&format!("{name} was not handed over")),
            }
        }
        if let Some(map) = self.held.get(NEXT_SLOT) {
            // The next daemon brings another. This one is for starts that are due before.
            self.nursery.announce_to(map).ok();
        }
        for slot in text.slots {
            let number = slot.slot;
            let nursery = &mut self.nursery;
            let it = Slot::take_over(slot, taken, |pid, pidfd, status| nursery.embark(pid, pidfd, status));
            self.settle(number, it);
        }
        self.queue = text.queue.into();
        match text.ends {
            Some(ends) if self.held.contains_key(HELD) => self.ends.go_on(ends, &self.slots),
            // An earlier binary held it, and wrote nothing there: the daemon makes another.
            Some(_) | None => drop(self.held.remove(HELD)),
        }
    }

    /// A slot that was handed over is this keeper's.
    fn settle(&mut self, slot: u32, it: Slot) {
        self.unacknowledged += it.followed(0).count();
        match &it.state {
            State::Starting { life, flight, .. } => {
                self.mains.insert(life.pid, slot);
                watch(&self.epoll, flight.pidfd.as_fd(), Token::Process(slot), epoll::EventFlags::IN);
                watch(&self.epoll, flight.status.as_fd(), Token::Status(slot), epoll::EventFlags::IN);
            }
            State::Living { life, pidfd } => {
                if life.stranger().is_none() {
                    self.mains.insert(life.pid, slot);
                }
                watch(&self.epoll, pidfd.as_fd(), Token::Process(slot), epoll::EventFlags::IN);
                self.unready.push_back(slot);
            }
            State::Ended { life, cleared: false, .. } => {
                self.sweeping.insert(slot);
                if let Some(leaf) = life.leaf() {
                    watch(&self.epoll, leaf.events(), Token::Leaf(slot), epoll::EventFlags::PRI);
                }
            }
            State::Empty { .. } => self.unready.push_back(slot),
            State::Queued { .. } | State::Failed { .. } | State::Ended { .. } => {}
        }
        self.slots.insert(slot, Box::new(it));
    }
}
