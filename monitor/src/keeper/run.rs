//! The keeper's loop: one thread, one epoll.

mod adoption;
mod calm;
mod care;
mod ports;
mod renew;
mod succeed;
mod young;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use adoption::{unwatch_rest, watch_rest};
use defib_core::model::{Tick, Usage, WaitStatus};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit, Signal};

use super::ends::{self, Ends};
use super::events::{Token, unwatch, watch};
use super::link::{Holdings, Link};
use super::notify::Notify;
use super::nurse::Nurse;
use super::pipes::{self, Pipes};
use super::protocol::{LEDGER, MAX_SLOTS, Order, Step, VERSION};
use super::raw;
use super::say;
use super::slots::{Found, RawEnd, Slot, State};
use super::sockets::Sockets;
use super::spawn::{Answer, Nursery};
use super::stranger::Fate;
use super::window::Window;
use crate::effect::clock;
use renew::Renewal;

/// The name under which the daemon hands over the map in which the eBPF programs look for the slot of the next child.
pub const NEXT_SLOT: &str = "next_slot";

/// The most ends that are followed while no daemon acknowledges them; what ends then waits for one. About 100 bytes each.
const MAX_UNACKNOWLEDGED: usize = 16 * 1024;

/// Of so many starts at once, the memory that they took is given back when they are over. That takes the keeper a
/// millisecond, and what it needs for the next restart comes back at first use.
const MANY: usize = 64;

/// Runs as the keeper of a daemon with this command line, until that has left; `handover`: in place of one that has handed
/// over what it held under this number.
pub fn run(daemon: Vec<OsString>, handover: Option<RawFd>) -> ExitCode {
    let keeper = match handover {
        None => Keeper::new(daemon, None),
        Some(handover) => Keeper::succeed(daemon, handover),
    };
    let kept = keeper.and_then(|mut keeper| keeper.run());
    match kept {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("the keeper cannot go on: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Keeper {
    epoll: OwnedFd,
    signals: SignalFd,
    nursery: Nursery,
    nurse: Nurse,
    notify: Notify,
    link: Link,
    /// Whether the epoll watches the link for room to write.
    link_full: bool,
    /// In boxes: a node of the map has room for eleven, and most are half empty.
    slots: BTreeMap<u32, Box<Slot>>,
    /// Slots that wait for room in the nursery.
    queue: VecDeque<u32>,
    /// Slots whose next life is to be made ready when there is nothing else to do: of a thousand services that start at
    /// once, none waits for the second cgroup of another.
    unready: VecDeque<u32>,
    /// How many of them have been made ready since there were none.
    made_ready: usize,
    /// Slots whose pipes are to be made large when there is nothing else to do: nobody reads them.
    unread: Vec<u32>,
    /// Slots whose children have just been made, and when they are looked at.
    young: Vec<u32>,
    quiet_until: Option<Tick>,
    /// When memory is given back, if there has been a burst.
    calm_at: Option<Tick>,
    /// Slots whose main processes have ended in other hands, and until when their statuses are waited for.
    unreaped: BTreeMap<u32, Tick>,
    /// Main processes, by pid: all of them children that have not been reaped.
    mains: BTreeMap<i32, u32>,
    /// Slots whose tree is being ended.
    sweeping: BTreeSet<u32>,
    /// Slots whose ports are to be looked at, and when.
    port_dates: BTreeMap<u32, Tick>,
    /// How many ends were followed by standing orders and have not been acknowledged.
    unacknowledged: usize,
    /// The ends that have not been acknowledged, for the next keeper.
    ends: Ends,
    /// Whether defib was asked to end.
    ending: bool,
    /// Whether it was asked to leave the services running.
    quitting: bool,
    /// What is kept for the next daemon.
    held: BTreeMap<String, OwnedFd>,
    renewal: Renewal,
}

impl Keeper {
    /// `nofile` are the limits of the services, if they are not those of this process.
    fn new(daemon: Vec<OsString>, nofile: Option<(u64, u64)>) -> io::Result<Self> {
        raw::give_back_memory();
        raw::default_dispositions();
        raw::close_inherited_on_exec();
        let own = raise_nofile()?;
        // Before anything else is opened, so that it gets a number behind the window.
        let window = Window::reserve()
            .inspect_err(|error| {
                say(&format!(
                    "low descriptor numbers cannot be kept free, so starts take longer and sockets cannot be passed: {error}"
                ));
            })
            .ok();
        // All of them: a child is born with them blocked, so none can end it before its exec.
        SigSet::all().thread_block()?;
        let mut heard = SigSet::empty();
        for signal in
            [NixSignal::SIGCHLD, NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGQUIT, NixSignal::SIGHUP]
        {
            heard.add(signal);
        }
        let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // Orphans of services come here, where they can be found and reaped. The name is for `ps`.
        nix::sys::prctl::set_child_subreaper(true)?;
        nix::sys::prctl::set_name(c"defib-keeper")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &signals, Token::Signals.data(), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            signals,
            nursery: Nursery::new(nofile.unwrap_or(own), window)?,
            nurse: Nurse::new(daemon),
            notify: Notify::from_env(clock::now()),
            link: Link::default(),
            link_full: false,
            slots: BTreeMap::new(),
            queue: VecDeque::new(),
            unready: VecDeque::new(),
            made_ready: 0,
            unread: Vec::new(),
            young: Vec::new(),
            quiet_until: None,
            calm_at: None,
            unreaped: BTreeMap::new(),
            mains: BTreeMap::new(),
            sweeping: BTreeSet::new(),
            port_dates: BTreeMap::new(),
            unacknowledged: 0,
            ends: Ends::default(),
            ending: false,
            quitting: false,
            held: BTreeMap::new(),
            renewal: Renewal::default(),
        })
    }

    /// Runs until the daemon has left; returns the exit code.
    fn run(&mut self) -> io::Result<u8> {
        let mut events = Vec::with_capacity(64);
        loop {
            self.renew();
            if self.renewal.due().is_some_and(|due| due <= clock::now()) {
                self.renewal_due(clock::now());
            }
            if self.nurse.due().is_some_and(|due| due <= clock::now()) {
                self.start_daemon();
            }
            if self.notify.due().is_some_and(|due| due <= clock::now()) {
                self.watch_daemon();
            }
            if self.quiet_until.is_some_and(|until| until <= clock::now()) {
                self.look_at_young();
                self.flush();
            }
            if self.calm_at.is_some_and(|at| at <= clock::now()) {
                self.calm_due();
            }
            self.read_no_longer();
            if self.port_dates.values().any(|due| *due <= clock::now()) {
                self.look_at_ports();
            }
            let idle_work =
                !(self.unready.is_empty() && self.unread.is_empty()) && self.quiet_until.is_none();
            if self.nurse.parting().is_some_and(|until| until <= clock::now()) {
                say("the daemon has left, but its process does not end: a disk hangs");
                return Ok(0);
            }
            let unreaped = self.unreaped.values().min().copied();
            let dates = [
                self.nurse.due(),
                self.nurse.parting(),
                self.notify.due(),
                self.renewal.due(),
                self.quiet_until,
                self.calm_at,
                unreaped,
                self.port_dates.values().min().copied(),
            ];
            let due = dates.into_iter().flatten().min();
            let timeout = if idle_work {
                Some(timespec(Duration::ZERO))
            } else {
                due.map(|due| timespec(due.since(clock::now())))
            };
            // After every start that was due: what is written here is for the case that this keeper is killed.
            self.ends.write(self.held.get(ends::HELD), &self.slots);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if events.is_empty() && idle_work {
                self.make_ready();
                self.grow_pipes();
            }
            for event in &events {
                let leave = match Token::of(event.data) {
                    Token::Daemon => {
                        self.hear_daemon();
                        None
                    }
                    Token::Signals => self.hear_signals()?,
                    Token::Process(slot) => {
                        self.process_ended(slot);
                        None
                    }
                    Token::Status(slot) => {
                        self.status_answered(slot);
                        None
                    }
                    Token::Leaf(slot) => {
                        self.sweep(slot);
                        None
                    }
                    Token::Port(slot) => {
                        self.port_stirred(slot);
                        None
                    }
                };
                if let Some(code) = leave {
                    return Ok(code);
                }
                // After each event, so that an end is on its way before the next thing is looked at.
                if self.quiet_until.is_none() {
                    self.flush();
                }
            }
        }
    }

    fn drop_link(&mut self) {
        if let Some(socket) = self.link.socket() {
            unwatch(&self.epoll, socket);
        }
        self.link.disconnect();
    }

    /// Carries out the orders that have come.
    fn hear_daemon(&mut self) {
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
    fn slot(&mut self, slot: u32) -> Option<&mut Slot> {
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

    /// Launches what waits, as far as there is room.
    fn launch_queued(&mut self) {
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

    /// The status pipe of a start has an answer.
    fn status_answered(&mut self, slot: u32) {
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
    fn make_ready(&mut self) {
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

    /// A main process may have ended: reaps it if so.
    fn process_ended(&mut self, slot: u32) {
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
    fn sweep(&mut self, slot: u32) {
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

    /// Signals to the keeper. Returns the exit code when it is time to leave.
    fn hear_signals(&mut self) -> io::Result<Option<u8>> {
        while let Some(signal) = self.signals.read_signal()? {
            let number = signal.ssi_signo as i32;
            if number != libc::SIGCHLD {
                match number {
                    libc::SIGHUP => {}
                    libc::SIGQUIT => self.quit(),
                    _ => self.end(),
                }
                self.link.tell_signal(number);
            } else if signal.ssi_code == libc::CLD_STOPPED && self.nurse.pid() == Some(signal.ssi_pid as i32)
            {
                self.nobody_reads();
            }
        }
        while let Some(pid) = raw::ended_child() {
            if let Some(slot) = self.mains.get(&pid).copied() {
                self.process_ended(slot);
            } else if let Some(reaped) = raw::reap(pid)? {
                let status = WaitStatus(reaped.status);
                if self.renewal.child() == Some(pid) {
                    self.checked(status);
                } else if self.nurse.pid() == Some(pid)
                    && let Some(code) = self.daemon_ended(status)
                {
                    return Ok(Some(code));
                }
            }
        }
        self.look_at_daemon();
        for slot in self.sweeping.clone() {
            self.sweep(slot);
        }
        Ok(None)
    }

    fn flush(&mut self) {
        let Self { slots, held, ending, renewal, .. } = self;
        let restarted = renewal.last.as_ref();
        match self.link.flush(&Holdings { slots, held, ending: *ending, restarted }) {
            Ok(full) if full == self.link_full => {}
            Ok(full) => {
                self.link_full = full;
                let flags = epoll::EventFlags::IN;
                let flags = if full { flags | epoll::EventFlags::OUT } else { flags };
                if let Some(socket) = self.link.socket() {
                    epoll::modify(&self.epoll, socket, Token::Daemon.data(), flags).ok();
                }
            }
            // The daemon is gone; its SIGCHLD is on the way. What it ordered last has not been read: it counts.
            Err(_) => {
                self.hear_daemon();
                self.drop_link();
            }
        }
    }
}

/// Lets the keeper hold a few descriptors for each of thousands of services. Returns the limits that it was started
/// with, which are those of the services.
fn raise_nofile() -> io::Result<(u64, u64)> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let infinity = libc::RLIM64_INFINITY;
    Ok((current.unwrap_or(infinity), maximum.unwrap_or(infinity)))
}

fn timespec(delay: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(delay.subsec_nanos()),
    }
}
