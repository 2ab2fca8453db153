//! Ports that are held for the next life: taken, looked at, given up.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

use defib_core::model::Tick;
use rustix::event::epoll;

use super::Keeper;
use crate::effect::clock;
use crate::keeper::events::{Token, unwatch, watch};
use crate::keeper::ports::{Port, Process, Released};
use crate::keeper::slots::Slot;

/// One connection, and no more until it has been looked at.
fn once() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::ONESHOT
}

/// What the daemon has found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) slot: u32,
    pub(super) incarnation: u64,
    pub(super) port: u16,
    pub(super) pid: u32,
    pub(super) numbers: Vec<RawFd>,
    pub(super) hold: Duration,
}

impl Keeper {
    /// A life listens. What was held of the port before is closed, and those who wait there come to this one.
    pub(super) fn hold_port(&mut self, found: Found, fds: Vec<OwnedFd>) {
        let Found { slot, incarnation, port, pid, numbers, hold } = found;
        let mut fds = fds.into_iter();
        let Some(pidfd) = fds.next() else { return };
        let Some(it) = self.slots.get_mut(&slot) else { return };
        let Some((life, _)) = it.process() else { return };
        if life.incarnation != incarnation {
            return;
        }
        let process = Process { pidfd, main: life.pid.unsigned_abs() == pid };
        let (held, released) = it.ports.hold(
            incarnation,
            port,
            Port::new(process, numbers.into_iter().zip(fds).collect(), hold),
        );
        for socket in held.into_iter().flat_map(Port::sockets) {
            watch(&self.epoll, socket.as_fd(), Token::Port(slot), once());
        }
        release(&self.epoll, released);
        self.date_ports(slot);
    }

    /// Nobody is to wait for this life, or the next one.
    pub(super) fn close_ports(&mut self, slot: u32, incarnation: u64) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        release(&self.epoll, it.ports.let_go(incarnation));
        self.date_ports(slot);
    }

    /// The life in this slot has ended.
    pub(super) fn ports_wait(&mut self, slot: u32, incarnation: u64, at: Tick) {
        let Some(it) = self.slots.get_mut(&slot).filter(|it| !it.ports.is_empty()) else { return };
        it.ports.ended(incarnation, at);
        self.date_ports(slot);
    }

    /// A socket that is held has a connection, or has been shut down.
    pub(super) fn port_stirred(&mut self, slot: u32) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        it.ports.stirred(clock::now());
        self.date_ports(slot);
    }

    /// Does what is due.
    pub(super) fn look_at_ports(&mut self) {
        let now = clock::now();
        let due: Vec<u32> =
            self.port_dates.iter().filter(|(_, due)| **due <= now).map(|(slot, _)| *slot).collect();
        for slot in due {
            if let Some(it) = self.slots.get_mut(&slot) {
                let (again, released) = it.ports.look(now);
                for socket in again {
                    epoll::modify(&self.epoll, socket, Token::Port(slot).data(), once()).ok();
                }
                release(&self.epoll, released);
            }
            self.date_ports(slot);
        }
    }

    fn date_ports(&mut self, slot: u32) {
        match self.slots.get(&slot).and_then(|it| it.ports.due()) {
            Some(due) => drop(self.port_dates.insert(slot, due)),
            None => drop(self.port_dates.remove(&slot)),
        }
    }
}

/// Closes them.
pub(super) fn release(epoll: &OwnedFd, released: Released) {
    for socket in released {
        unwatch(epoll, socket.as_fd());
    }
}

/// Closes all that is held of a service that is forgotten.
pub(super) fn forget(epoll: &OwnedFd, slot: &mut Slot) {
    release(epoll, slot.ports.let_go(u64::MAX));
}
