//! The keeper's loop: one thread, one epoll.
//!
//! - `orders`: what the daemon wants;
//! - `starts`, `young`: lives from the queue to the execution of their programs;
//! - `deaths`: lives that have ended, and what follows;
//! - `adoption`: lives that an earlier keeper had begun;
//! - `ports`: ports that are held for the next life;
//! - `care`: the daemon;
//! - `renew`, `succeed`: another binary in place of this one, as seen from both;
//! - `calm`: memory that is given back.

mod adoption;
mod calm;
mod care;
mod deaths;
mod orders;
mod ports;
mod renew;
mod starts;
mod succeed;
mod young;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use defib_core::model::{Tick, WaitStatus};
use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit};

use super::ends::{self, Ends};
use super::events::{Token, unwatch};
use super::link::{Holdings, Link};
use super::notify::Notify;
use super::nurse::Nurse;
use super::raw;
use super::say;
use super::slots::Slot;
use super::spawn::Nursery;
use super::window::Window;
use crate::effect::clock;
use renew::Renewal;

/// The name under which the daemon hands over the map in which the eBPF programs look for the slot of the next child.
pub const NEXT_SLOT: &str = "next_slot";

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
