//! What the daemon orders, carried out.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Signal;

use super::{Keeper, NEXT_SLOT, ports};
use crate::effect::clock;
use crate::keeper::ends;
use crate::keeper::link::Holdings;
use crate::keeper::pipes::Pipes;
use crate::keeper::protocol::{MAX_SLOTS, Order, Step, VERSION};
use crate::keeper::raw;
use crate::keeper::say;
use crate::keeper::slots::{Found, Slot, State};
use crate::keeper::sockets::Sockets;

impl Keeper {
    /// Carries out the orders that have come.
    pub(super) fn hear_daemon(&mut self) {
        loop {
            match self.link.receive() {
                Ok(Some(orders)) => {
                    for (order, fds) in orders {
                        self.obey(order, fds);
                    }
                }
                // Its SIGCHLD says what became of it.
                Ok(None) => return self.drop_link(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The daemon has gone without having read everything: told once, and before what it has sent.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) => {
                    say(&format!("the daemon is not understood, and its connection closed: {error}"));
                    return self.drop_link();
                }
            }
        }
    }

    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) {
        match order {
            Order::Hello { version } => {
                if version != VERSION {
                    say(&format!(
                        "the daemon speaks version {version} of the protocol, the keeper {VERSION}"
                    ));
                    return self.drop_link();
                }
                let Self { slots, held, ending, renewal, .. } = self;
                let restarted = renewal.last.as_ref();
                self.link.tell_all(&Holdings { slots, held, ending: *ending, restarted });
                if self.quitting {
                    self.link.tell_signal(libc::SIGQUIT);
                }
            }
            Order::Ready => {
                self.nurse.ready();
                self.renewal.ready();
                self.unread.clear();
                self.notify.ready(clock::now());
                self.expect_calm();
                if self.ending || self.quitting {
                    self.notify.stopping(clock::now(), self.ending);
                }
            }
            Order::Restart => self.restart_asked(fds.into_iter().next()),
            Order::Watch { limit_ms } => {
                let limit = (limit_ms > 0).then(|| Duration::from_millis(limit_ms));
                self.notify.watch(clock::now(), limit);
            }
            Order::Pong => self.notify.daemon_answered(),
            Order::Reloading => self.notify.reloading(clock::now()),
            Order::Ending => self.end(),
            Order::Leave => {
                if !self.ending {
                    self.quit();
                }
                self.nurse.leave(clock::now());
            }
            Order::Hold { name } => {
                let Some(fd) = fds.into_iter().next() else { return };
                if name == NEXT_SLOT
                    && let Err(error) = self.nursery.announce_to(&fd)
                {
                    say(&format!("the eBPF programs cannot be told of new processes: {error}"));
                }
                let ends = name == ends::HELD;
                self.held.insert(name, fd);
                if ends {
                    self.ends.begin(&self.slots);
                }
            }
            Order::Plan { slot, cgroup, capture, .. } => self.provide(slot, capture, cgroup, fds),
            Order::Pipes { slot, streams } => {
                if let Some(it) = self.slot(slot)
                    && let Some(pipes) = Pipes::new(streams, fds)
                {
                    it.pipes = Some(pipes);
                }
            }
            Order::Sockets { slot, label, .. } => {
                if let Some(it) = self.slot(slot) {
                    it.sockets = Sockets::new(label, fds);
                }
            }
            Order::HoldPort { slot, incarnation, port, pid, numbers, hold_ms } => {
                let hold = Duration::from_millis(hold_ms);
                self.hold_port(ports::Found { slot, incarnation, port, pid, numbers, hold }, fds);
            }
            Order::ClosePorts { slot } => self.close_ports(slot, 0),
            Order::Remember { slot, memo } => {
                if let Some(it) = self.slot(slot) {
                    it.memo = Some(memo);
                }
            }
            Order::Forget { slot } => self.forget(slot),
            Order::Adopt { slot, incarnation, pid, started, end_leftovers, .. } => {
                let pid = pid.cast_signed();
                self.adopt(slot, Found { incarnation, pid, started, end_leftovers }, fds);
            }
            Order::Spawn { slot, incarnation } => self.spawn(slot, incarnation),
            Order::Stand { slot, incarnation, standing } => {
                if let Some(it) = self.slot(slot) {
                    it.stand(incarnation, standing);
                }
            }
            Order::Withdraw { slot, withdrawal } => {
                if let Some(it) = self.slot(slot) {
                    it.withdraw();
                    self.link.tell_withdrawn(slot, withdrawal);
                }
            }
            Order::Acknowledge { slot, incarnation, followed } => {
                let Some(it) = self.slot(slot) else { return };
                if !followed {
                    it.acknowledge(incarnation);
                } else if it.acknowledge_followed(incarnation) {
                    self.unacknowledged -= 1;
                }
                self.ends.acknowledge(slot, incarnation);
            }
            Order::Signal { slot, incarnation, signal } => self.signal(slot, incarnation, signal),
            Order::KillTree { slot, incarnation } => self.kill_tree(slot, incarnation),
        }
    }

    /// The slot, made if it is new; `None` if there is no such number.
    pub(super) fn slot(&mut self, slot: u32) -> Option<&mut Slot> {
        (slot < MAX_SLOTS).then(|| &mut **self.slots.entry(slot).or_insert_with(|| Box::new(Slot::new())))
    }

    fn forget(&mut self, slot: u32) {
        match self.slots.get(&slot).map(|it| &it.state) {
            Some(State::Empty { .. }) => {
                let mut it = self.slots.remove(&slot);
                if let Some(it) = &mut it {
                    ports::forget(&self.epoll, it);
                    self.port_dates.remove(&slot);
                }
                self.unacknowledged -= it.map_or(0, |it| it.followed(0).count());
                self.ends.forget(slot);
                self.link.forget(slot);
            }
            Some(_) => say(&format!("slot {slot} is not forgotten: there is something in it")),
            // Its service was never started.
            None => {}
        }
    }

    fn provide(&mut self, slot: u32, capture: bool, cgroup: bool, fds: Vec<OwnedFd>) {
        let Some(it) = self.slot(slot) else { return };
        let mut fds = fds.into_iter();
        let (Some(plan), cgroup) = (fds.next(), if cgroup { fds.next() } else { None }) else { return };
        match it.provide(plan, capture, cgroup) {
            // Sockets of two users do not share a port.
            Ok(same_user) => {
                it.ports.guard = fds.collect();
                let latest = it.latest();
                if !same_user {
                    self.close_ports(slot, latest);
                }
            }
            Err(error) => say(&format!("the plan of slot {slot} cannot be used: {error}")),
        }
    }

    fn spawn(&mut self, slot: u32, incarnation: u64) {
        let Some(it) = self.slot(slot) else { return };
        match it.state {
            State::Empty { .. } => {
                it.state = State::Queued { incarnation };
                self.queue.push_back(slot);
                self.launch_queued();
            }
            // One life at a time. The daemon sees from the report that it was wrong.
            State::Queued { .. }
            | State::Starting { .. }
            | State::Living { .. }
            | State::Failed { .. }
            | State::Ended { .. } => self.link.tell_slot(slot),
        }
    }

    fn signal(&mut self, slot: u32, incarnation: u64, signal: i32) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        if it.latest() != incarnation {
            return;
        }
        // Before the signal: what it is about to do may be to close its own.
        ports::release(&self.epoll, it.ports.let_go(incarnation));
        if let Some((_, pidfd)) = it.process() {
            // It may have ended meanwhile, and then there is nobody to tell.
            raw::pidfd_send_signal(pidfd, signal).ok();
        } else if let State::Queued { .. } = it.state {
            // Not made yet, and asked to end: it never was.
            it.state = State::Failed { incarnation, step: Step::Refused, errno: libc::ECANCELED };
            self.link.tell_slot(slot);
        }
    }

    fn kill_tree(&mut self, slot: u32, incarnation: u64) {
        let Some(it) = self.slots.get_mut(&slot) else { return };
        if it.latest() != incarnation {
            return;
        }
        ports::release(&self.epoll, it.ports.let_go(incarnation));
        if let Some((life, pidfd)) = it.process() {
            // The main process by its pidfd in any case: there may be no cgroup.
            rustix::process::pidfd_send_signal(pidfd, Signal::KILL).ok();
            if !life.keeps_leftovers() {
                life.kill_tree();
            }
        }
    }
}
