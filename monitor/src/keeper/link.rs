//! The socket to the daemon. A report that does not fit into it waits here, at most one for each slot and each held
//! thing: what is told is the state at the time of sending, so nothing is lost by telling it later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::{self, Order, Received, Report};
use super::slots::{Followed, Slot};

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Held(String),
    Memo(u32),
    Pipes(u32),
    Sockets(u32),
    Slot(u32),
    Synced,
    Signal(i32),
    Ping,
    Restart(Option<String>),
    Restarted,
}

/// The daemon's ear.
#[derive(Debug, Default)]
pub(super) struct Link {
    socket: Option<OwnedFd>,
    waiting: VecDeque<Item>,
    /// The slots among `waiting`.
    slots: BTreeSet<u32>,
    /// The latest life of each slot whose end has been told as followed.
    told: BTreeMap<u32, u64>,
    /// The latest withdrawal in each slot of which the daemon is to be told.
    withdrawn: BTreeMap<u32, u64>,
}

/// The most ends in one packet: each takes less than 100 bytes.
const ENDS: usize = 64;

/// What the keeper has to tell of.
#[derive(Debug)]
pub(super) struct Holdings<'a> {
    pub(super) slots: &'a BTreeMap<u32, Box<Slot>>,
    pub(super) held: &'a BTreeMap<String, OwnedFd>,
    /// Whether defib was asked to end, which every daemon must know.
    pub(super) ending: bool,
    /// What came of the last restart of defib itself, if there was one: why it failed.
    pub(super) restarted: Option<&'a Option<String>>,
}

impl Link {
    /// A new daemon.
    pub(super) fn connect(&mut self, socket: OwnedFd) {
        self.disconnect();
        self.socket = Some(socket);
    }

    /// The daemon is gone: the next one is told everything anew.
    pub(super) fn disconnect(&mut self) {
        self.socket = None;
        self.waiting.clear();
        self.slots.clear();
        self.told.clear();
        self.withdrawn.clear();
    }

    /// A slot is free: its next tenant counts its lives anew.
    pub(super) fn forget(&mut self, slot: u32) {
        self.told.remove(&slot);
        self.withdrawn.remove(&slot);
    }

    /// The socket, while there is a daemon.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The orders of a packet. `None`: the daemon has closed its end.
    pub(super) fn receive(&self) -> io::Result<Option<Received<Order>>> {
        match &self.socket {
            Some(socket) => protocol::receive(socket),
            None => Ok(None),
        }
    }

    /// Tells everything, to a daemon that has just said hello.
    pub(super) fn tell_all(&mut self, all: &Holdings<'_>) {
        self.waiting.extend(all.restarted.map(|_| Item::Restarted));
        self.waiting.extend(all.held.keys().cloned().map(Item::Held));
        for (slot, it) in all.slots {
            if it.memo.is_some() {
                self.waiting.push_back(Item::Memo(*slot));
            }
            if it.pipes.is_some() {
                self.waiting.push_back(Item::Pipes(*slot));
            }
            if it.sockets.is_some() {
                self.waiting.push_back(Item::Sockets(*slot));
            }
            self.tell_slot(*slot);
        }
        self.waiting.push_back(Item::Synced);
        self.waiting.extend(all.ending.then_some(Item::Signal(libc::SIGTERM)));
    }

    /// Tells how a slot is.
    pub(super) fn tell_slot(&mut self, slot: u32) {
        if self.socket.is_some() && self.slots.insert(slot) {
            self.waiting.push_back(Item::Slot(slot));
        }
    }

    /// Confirms a withdrawal. An earlier one in the same slot needs no confirmation any more.
    pub(super) fn tell_withdrawn(&mut self, slot: u32, withdrawal: u64) {
        if self.socket.is_some() {
            self.withdrawn.insert(slot, withdrawal);
            self.tell_slot(slot);
        }
    }

    /// Passes a signal on, if there is a daemon.
    pub(super) fn tell_signal(&mut self, signal: i32) {
        if self.socket.is_some() {
            self.waiting.push_back(Item::Signal(signal));
        }
    }

    /// Answers whether the keeper goes on as another program.
    pub(super) fn tell_restart(&mut self, refused: Option<String>) {
        if self.socket.is_some() {
            self.waiting.push_back(Item::Restart(refused));
        }
    }

    /// Asks the daemon whether its loop turns; once, however long it takes to read that.
    pub(super) fn ping(&mut self) {
        if self.socket.is_some() && !self.waiting.contains(&Item::Ping) {
            self.waiting.push_back(Item::Ping);
        }
    }

    /// Sends what the socket takes. Returns whether something is left, to be sent when it is writable.
    pub(super) fn flush(&mut self, all: &Holdings<'_>) -> io::Result<bool> {
        while let Some(item) = self.waiting.front() {
            let Some(socket) = &self.socket else { return Ok(false) };
            let (reports, fds) = match item {
                Item::Slot(slot) => (self.of_slot(*slot, all), Vec::new()),
                Item::Held(_)
                | Item::Memo(_)
                | Item::Pipes(_)
                | Item::Sockets(_)
                | Item::Synced
                | Item::Signal(_)
                | Item::Ping
                | Item::Restart(_)
                | Item::Restarted => {
                    let (report, fds) = all.report(item).unzip();
                    (report.into_iter().collect(), fds.unwrap_or_default())
                }
            };
            if !reports.is_empty() {
                match protocol::send(socket.as_fd(), &protocol::pack(&reports)?, &fds) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            for report in &reports {
                match report {
                    Report::Followed { slot, end, .. } => drop(self.told.insert(*slot, end.incarnation)),
                    Report::Withdrawn { slot, .. } => drop(self.withdrawn.remove(slot)),
                    _ => {}
                }
            }
            // Not all of it fitted into one packet.
            if matches!(reports.last(), Some(Report::Followed { .. })) {
                continue;
            }
            if let Some(Item::Slot(slot)) = self.waiting.pop_front() {
                self.slots.remove(&slot);
            }
        }
        Ok(false)
    }

    /// What is to be told of a slot: the ends that were followed, and when those are all told, how it is now.
    fn of_slot(&self, slot: u32, all: &Holdings<'_>) -> Vec<Report> {
        let Some(it) = all.slots.get(&slot) else { return Vec::new() };
        let told = self.told.get(&slot).copied().unwrap_or(0);
        let ends = it.followed(told).take(ENDS + 1).map(|followed| {
            let Followed { end, output } = *followed;
            Report::Followed { slot, end, output }
        });
        let mut reports: Vec<_> = ends.collect();
        if reports.len() > ENDS {
            reports.truncate(ENDS);
            return reports;
        }
        let withdrawal = self.withdrawn.get(&slot);
        reports.extend(withdrawal.map(|withdrawal| Report::Withdrawn { slot, withdrawal: *withdrawal }));
        reports.push(Report::Slot { slot, state: it.report() });
        reports
    }
}

impl<'a> Holdings<'a> {
    /// The report of an item, as things are now; `None` if it is gone.
    fn report(&self, item: &Item) -> Option<(Report, Vec<BorrowedFd<'a>>)> {
        match item {
            Item::Held(name) => {
                let fd = self.held.get(name)?;
                Some((Report::Held { name: name.clone() }, vec![fd.as_fd()]))
            }
            Item::Memo(slot) => {
                let memo = self.slots.get(slot)?.memo.clone()?;
                Some((Report::Memo { slot: *slot, memo }, Vec::new()))
            }
            Item::Pipes(slot) => {
                let pipes = self.slots.get(slot)?.pipes.as_ref()?;
                let report = Report::Pipes { slot: *slot, streams: pipes.streams() };
                Some((report, pipes.of_daemon().collect()))
            }
            // Told with what was followed before: see `Link::of_slot`.
            Item::Slot(_) => None,
            Item::Sockets(slot) => {
                let (label, fds) = self.slots.get(slot)?.sockets.as_ref()?.of_daemon();
                Some((Report::Sockets { slot: *slot, count: fds.len() as u8, label }, fds))
            }
            Item::Synced => Some((Report::Synced, Vec::new())),
            Item::Signal(signal) => Some((Report::Signal(*signal), Vec::new())),
            Item::Ping => Some((Report::Ping, Vec::new())),
            Item::Restart(refused) => Some((Report::Restart { refused: refused.clone() }, Vec::new())),
            Item::Restarted => Some((Report::Restarted { failure: self.restarted.cloned()? }, Vec::new())),
        }
    }
}
