//! Making a process: clone3, and the few system calls of the child.
//!
//! The child shares the keeper's memory (CLONE_VM: no page table is copied, however large the keeper is) and begins with
//! its descriptor table (CLONE_FILES: none is copied and closed again, however many the keeper holds; see `window`). It
//! runs beside the keeper, which does not wait for the exec, because a program on a hung file system would hang it too.
//! The price: the child has a stack of its own, and nothing that it uses may be changed or freed before it has
//! executed. [`Flight`] owns all of that. That the child has a table of its own, so that its part of the window can be
//! emptied, it notes in that memory: a write into a pipe would wake the keeper, at the child's expense. Its status pipe
//! tells how it went: the step that failed and the error number, or nothing, and a successful execve closes it.
//!
//! What a start needs of that is made ahead, while there is time: [`Seat`].
//!
//! - `child`: all that the child does;
//! - `flight`: what the keeper has of it until it has executed its program;
//! - `next_slot`: how the eBPF programs know whose child it is.
#![expect(unsafe_code, reason = "clone3 and what runs between it and execve; a store to shared memory")]

mod child;
mod flight;
mod next_slot;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use rustix::pipe::PipeFlags;

use super::plan::ReadyPlan;
use super::protocol::Step;
use super::raw::{self, CloneArgs};
use super::window::{Numbers, Part, Window};
use child::{Launch, child};
use flight::Memory;
pub(super) use flight::{Answer, Flight};
use next_slot::NextSlot;

/// The stack of a child until it executes its program. An unoptimised build needs about 2 KiB of it.
const STACK: usize = 16 * 1024;

/// clone3 flags that libc does not have as 64-bit values.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What every child of this keeper has in common.
#[derive(Debug)]
pub(super) struct Nursery {
    /// `/dev/null`, for standard input.
    null: OwnedFd,
    /// RLIMIT_NOFILE as the keeper was started with it: the keeper raises its own.
    nofile: libc::rlimit64,
    /// The low descriptor numbers. Without them children get a copy of the whole table, and no sockets.
    window: Option<Window>,
    /// Whether children begin with the keeper's own descriptor table.
    shares: bool,
    /// Stacks that no child uses.
    stacks: Vec<Stack>,
    /// What the next start needs, made ahead.
    ahead: Option<Seat>,
    /// How many children there are between clone3 and execve.
    flights: usize,
    /// Tells the eBPF programs to which slot the next child belongs.
    next_slot: Option<NextSlot>,
}

/// A stack, aligned as both architectures want it.
#[derive(Debug)]
struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    fn new() -> Self {
        // Not written to: a child touches two pages of it, and the kernel gives no more.
        Self(Box::new_uninit_slice(STACK / size_of::<u128>()))
    }
}

/// What every start needs, whichever it is.
#[derive(Debug)]
struct Seat {
    stack: Stack,
    launch: Box<Launch>,
    /// The keeper's end of the status pipe.
    status: OwnedFd,
    way: Way,
}

/// How a child comes to its descriptors.
#[derive(Debug)]
enum Way {
    /// In a part of the window, where the writing end of the status pipe is already.
    Part(Part),
    /// In a copy of the whole table: here is that end.
    Copy(OwnedFd),
}

/// Where the next child is to go.
#[derive(Debug)]
pub(super) struct Berth<'a> {
    /// The slot, for the eBPF programs.
    pub(super) slot: u32,
    /// Standard output and error; `None`: /dev/null.
    pub(super) output: Option<[BorrowedFd<'a>; 2]>,
    /// The sockets that are passed.
    pub(super) sockets: &'a [OwnedFd],
    /// The cgroup, if there are cgroups.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

impl Nursery {
    /// At most so many children are between clone3 and execve, hung file systems or not: one stack each.
    const FLIGHTS: usize = 256;

    /// So many stacks wait for the next starts: of services that crash by turns there are never more in use, and those of
    /// a thousand that were started at once would stay, 8 KiB of memory each.
    const SPARE: usize = 4;

    /// `nofile` is the limit that the keeper was started with.
    pub(super) fn new(nofile: (u64, u64), window: Option<Window>) -> io::Result<Self> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        let mut nursery = Self {
            null: null.into(),
            nofile: libc::rlimit64 { rlim_cur: nofile.0, rlim_max: nofile.1 },
            shares: window.is_some() && raw::can_unshare_table(),
            window,
            stacks: Vec::new(),
            ahead: None,
            flights: 0,
            next_slot: None,
        };
        nursery.ahead = Some(nursery.seat()?);
        Ok(nursery)
    }

    /// Takes over the map in which the eBPF programs look for the slot of the keeper's next child.
    pub(super) fn announce_to(&mut self, map: &OwnedFd) -> io::Result<()> {
        self.next_slot = Some(NextSlot::map(map)?);
        Ok(())
    }

    /// Whether another child may be made before one of the present ones has executed, or has a table of its own.
    pub(super) fn has_room(&self) -> bool {
        self.flights < Self::FLIGHTS
            && (self.ahead.is_some() || self.window.as_ref().is_none_or(Window::has_room))
    }

    /// Makes a process. It is a child of the keeper from here on, whatever becomes of its program.
    pub(super) fn spawn(
        &mut self,
        plan: &Rc<ReadyPlan>,
        berth: &Berth<'_>,
    ) -> Result<Flight, (Step, io::Error)> {
        let mut seat = match self.ahead.take() {
            Some(seat) => seat,
            None => self.seat().map_err(|error| (Step::Pipe, error))?,
        };
        let made = self.board(&mut seat, plan, berth).and_then(|()| self.clone(&mut seat, berth));
        let (pid, pidfd) = match made {
            Ok(made) => made,
            Err(failed) => {
                // As good as new for the next start.
                if let (Way::Part(part), Some(window)) = (&mut seat.way, &self.window) {
                    window.unload(part);
                }
                self.ahead = Some(seat);
                return Err(failed);
            }
        };
        self.flights += 1;
        let Seat { stack, launch, status, way } = seat;
        let part = match way {
            Way::Part(part) => Some(part),
            Way::Copy(_) => None,
        };
        let memory = Some(Memory { stack, _plan: Rc::clone(plan), launch });
        let mut flight = Flight { pid, pidfd, status, part, memory };
        if !self.shares {
            // It has got its copy with the clone.
            self.leave_window(&mut flight);
        }
        Ok(flight)
    }

    /// Takes over a child that the program before has made: it uses nothing of this one.
    pub(super) fn embark(&mut self, pid: i32, pidfd: OwnedFd, status: OwnedFd) -> Flight {
        self.flights += 1;
        Flight { pid, pidfd, status, part: None, memory: None }
    }

    /// The limits of descriptors that services start with.
    pub(super) fn nofile(&self) -> (u64, u64) {
        (self.nofile.rlim_cur, self.nofile.rlim_max)
    }

    /// A child has a table of its own: its part of the window is for others.
    pub(super) fn leave_window(&mut self, flight: &mut Flight) {
        if let (Some(part), Some(window)) = (flight.part.take(), &mut self.window) {
            window.give_back(part);
        }
        self.prepare();
    }

    /// Takes back the stack of a child that has executed or ended.
    pub(super) fn landed(&mut self, mut flight: Flight) -> OwnedFd {
        self.flights -= 1;
        self.leave_window(&mut flight);
        if self.stacks.len() < Self::SPARE {
            self.stacks.extend(flight.memory.map(|memory| memory.stack));
        }
        flight.pidfd
    }

    /// Makes ready what the next start will need.
    fn prepare(&mut self) {
        if self.ahead.is_none() {
            // What fails now fails again, and is told, when it is wanted.
            self.ahead = self.seat().ok();
        }
    }

    fn seat(&mut self) -> io::Result<Seat> {
        let (status, answer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let way = match &mut self.window {
            Some(window) => {
                let mut part = window.take().ok_or(io::Error::from_raw_os_error(libc::EAGAIN))?;
                match part.set_status(answer.as_fd()) {
                    Ok(()) => Way::Part(part),
                    Err(error) => {
                        window.give_back(part);
                        return Err(error);
                    }
                }
            }
            None => Way::Copy(answer),
        };
        let stack = self.stacks.pop().unwrap_or_else(Stack::new);
        let numbers = match &way {
            Way::Part(part) => part.numbers(),
            Way::Copy(answer) => Numbers::of(self.null.as_fd(), [self.null.as_fd(); 2], answer.as_fd()),
        };
        Ok(Seat { stack, launch: Box::new(Launch::empty(numbers, self.nofile)), status, way })
    }

    /// Puts everything where the child looks for it.
    fn board(&self, seat: &mut Seat, plan: &ReadyPlan, berth: &Berth<'_>) -> Result<(), (Step, io::Error)> {
        if plan.sockets > 0 && berth.sockets.len() != plan.sockets {
            // The daemon has let them be closed, and has not given others.
            return Err((Step::Sockets, io::Error::from_raw_os_error(libc::EBADF)));
        }
        let numbers = match &mut seat.way {
            Way::Part(part) => {
                let sockets = if plan.sockets > 0 { berth.sockets } else { &[] };
                part.load(berth.output, sockets).map_err(|error| (Step::Streams, error))?;
                part.numbers()
            }
            Way::Copy(_) if plan.sockets > 0 => {
                return Err((Step::Sockets, io::Error::from_raw_os_error(libc::EMFILE)));
            }
            Way::Copy(answer) => {
                let null = self.null.as_fd();
                Numbers::of(null, berth.output.unwrap_or([null; 2]), answer.as_fd())
            }
        };
        let identity = plan.identity.as_ref();
        *seat.launch = Launch {
            shares: self.shares,
            has_own_table: AtomicBool::new(false),
            numbers,
            sockets: plan.sockets,
            pids: (plan.pids.as_ptr() as usize, plan.pids.len()),
            program: plan.program.as_ptr() as usize,
            args: plan.args.address(),
            env: plan.env.address(),
            cwd: plan.cwd.as_ptr() as usize,
            identity: identity.is_some(),
            uid: identity.map_or(0, |identity| identity.uid),
            gid: identity.map_or(0, |identity| identity.gid),
            groups: identity.map_or(0, |identity| identity.groups.as_ptr() as usize),
            group_count: identity.map_or(0, |identity| identity.groups.len()),
            umask: plan.umask,
            nofile: self.nofile,
        };
        Ok(())
    }

    fn clone(&self, seat: &mut Seat, berth: &Berth<'_>) -> Result<(i32, OwnedFd), (Step, io::Error)> {
        let mut pidfd: RawFd = -1;
        let args = CloneArgs {
            flags: libc::CLONE_VM as u64
                | libc::CLONE_PIDFD as u64
                | CLONE_CLEAR_SIGHAND
                | if self.shares { libc::CLONE_FILES as u64 } else { 0 }
                | if berth.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: seat.stack.0.as_mut_ptr() as u64,
            stack_size: STACK as u64,
            cgroup: berth.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
            ..CloneArgs::default()
        };
        let argument = std::ptr::from_ref(seat.launch.as_ref()) as usize;
        self.announce(Some(berth.slot));
        // SAFETY: `Flight` keeps the stack, the launch, the plan and the part of the window until the child has executed
        // or ended, and `child` does nothing but system calls. If there is no child, nothing uses them.
        let pid = unsafe { raw::clone3(&args, child, argument) };
        self.announce(None);
        if pid < 0 {
            return Err((Step::Clone, io::Error::from_raw_os_error(-pid as i32)));
        }
        // SAFETY: clone3 has just made this descriptor for us.
        Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    }

    fn announce(&self, slot: Option<u32>) {
        if let Some(next) = &self.next_slot {
            next.store(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::plan::Plan;

    fn spawn(program: &str, cwd: &str) -> (i32, Answer) {
        let plan = Plan {
            program: program.as_bytes().to_vec(),
            args: vec![b"sh".to_vec(), b"-c".to_vec(), b"exit 7".to_vec()],
            env: vec![],
            cwd: cwd.as_bytes().to_vec(),
            identity: None,
            umask: 0o22,
            end_leftovers: true,
            sockets: 0,
        };
        let plan = Rc::new(ReadyPlan::new(plan, 1).expect("a plan"));
        let mut nursery = Nursery::new((256, 256), None).expect("/dev/null");
        let berth = Berth { slot: 0, output: None, sockets: &[], cgroup: None };
        let flight = nursery.spawn(&plan, &berth).expect("a child");
        let answer = loop {
            match flight.answer() {
                Answer::Pending => std::thread::yield_now(),
                answer => break answer,
            }
        };
        let status = loop {
            match raw::reap(flight.pid).expect("a child") {
                Some(reaped) => break reaped.status,
                None => std::thread::yield_now(),
            }
        };
        nursery.landed(flight);
        (status, answer)
    }

    #[test]
    fn a_child_runs_its_program_and_its_raw_status_comes_back() {
        assert_eq!(spawn("/bin/sh", "/"), (7 << 8, Answer::Executed));
    }

    #[test]
    fn a_child_tells_which_step_failed() {
        assert_eq!(spawn("/no/such/program", "/").1, Answer::Failed(Step::Exec, libc::ENOENT));
        assert_eq!(spawn("/bin/sh", "/no/such/folder").1, Answer::Failed(Step::Directory, libc::ENOENT));
    }
}
