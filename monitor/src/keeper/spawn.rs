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
#![expect(unsafe_code, reason = "clone3 and what runs between it and execve; a store to shared memory")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::pipe::PipeFlags;

use super::plan::{PidText, ReadyPlan};
use super::protocol::Step;
use super::raw::{self, CloneArgs};
use super::window::{FIRST_PASSED, Numbers, Part, Window};

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

/// A child between clone3 and the answer of its status pipe.
#[derive(Debug)]
pub(super) struct Flight {
    /// The child's pid.
    pub(super) pid: i32,
    /// Readable when it has ended.
    pub(super) pidfd: OwnedFd,
    /// Hung up when it has executed its program.
    pub(super) status: OwnedFd,
    /// Its part of the window, until it has a table of its own.
    part: Option<Part>,
    /// `None` for a child of the program that this process ran before, whose memory the child keeps for itself.
    memory: Option<Memory>,
}

/// What the child uses: it stays until that has executed or ended.
#[derive(Debug)]
struct Memory {
    stack: Stack,
    _plan: Rc<ReadyPlan>,
    launch: Box<Launch>,
}

/// The answer of a status pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    Pending,
    /// The program has been executed, or a signal ended the child before.
    Executed,
    /// A step failed.
    Failed(Step, i32),
}

/// What the child is told. Plain numbers and addresses: it may not allocate, free, or lock.
#[derive(Debug)]
struct Launch {
    /// Whether the child begins with the keeper's table and has to take a copy of its low end.
    shares: bool,
    /// Set by the child when it has that copy.
    has_own_table: AtomicBool,
    numbers: Numbers,
    /// How many sockets are passed.
    sockets: usize,
    /// Where the texts of its pid are, and how many.
    pids: (usize, usize),
    program: usize,
    args: usize,
    env: usize,
    cwd: usize,
    identity: bool,
    uid: u32,
    gid: u32,
    groups: usize,
    group_count: usize,
    umask: u32,
    nofile: libc::rlimit64,
}

impl Launch {
    /// That of nobody yet.
    fn empty(numbers: Numbers, nofile: libc::rlimit64) -> Self {
        Self {
            shares: false,
            has_own_table: AtomicBool::new(false),
            numbers,
            sockets: 0,
            pids: (0, 0),
            program: 0,
            args: 0,
            env: 0,
            cwd: 0,
            identity: false,
            uid: 0,
            gid: 0,
            groups: 0,
            group_count: 0,
            umask: 0,
            nofile,
        }
    }
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

impl Flight {
    /// Whether the child needs its part of the window no more. Until that has been taken back, the keeper's own writing
    /// end of the status pipe is open too, and an execve cannot be seen.
    pub(super) fn has_own_table(&self) -> bool {
        let told = |memory: &Memory| memory.launch.has_own_table.load(Ordering::Acquire);
        self.part.is_none() || self.memory.as_ref().is_none_or(told)
    }

    /// The step that failed, of a child that has ended.
    pub(super) fn failure(&self) -> Option<(Step, i32)> {
        match self.answer() {
            Answer::Failed(step, errno) => Some((step, errno)),
            // The keeper's own writing end may be open still: there is nothing in the pipe.
            Answer::Executed | Answer::Pending => None,
        }
    }

    /// Asks the status pipe, without waiting.
    pub(super) fn answer(&self) -> Answer {
        // The write is one of 8 bytes, so the read gets all of it or nothing. rustix has no non-blocking pipe
        // read, so the poll comes first.
        let mut poll = [rustix::event::PollFd::new(&self.status, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(1..) => {}
            Ok(_) | Err(_) => return Answer::Pending,
        }
        let mut bytes = [0; 8];
        match rustix::io::read(&self.status, &mut bytes) {
            Ok(8) => {
                let [a, b, c, d, e, f, g, h] = bytes;
                let step = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok();
                let step = step.and_then(|index| Step::ALL.get(index)).copied().unwrap_or(Step::Exec);
                Answer::Failed(step, i32::from_ne_bytes([e, f, g, h]))
            }
            Ok(_) | Err(_) => Answer::Executed,
        }
    }
}

/// The child. Between clone3 and execve only raw system calls: see [`raw`]. All signals are blocked, as in the
/// keeper, until the last moment, so that a stop signal that comes early is not lost.
extern "C" fn child(launch: usize) -> ! {
    // SAFETY: the keeper's `Flight` keeps the `Launch` until this child has executed or ended.
    let launch = unsafe { &*(launch as *const Launch) };
    let (step, errno) = become_program(launch);
    let bytes = [step as u32, errno as u32];
    // SAFETY: `bytes` is readable; exit_group ends this process only, and never returns.
    unsafe {
        raw::syscall(libc::SYS_write, [launch.numbers.status as usize, bytes.as_ptr() as usize, 8, 0, 0, 0]);
        loop {
            raw::syscall(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
        }
    }
}

/// Makes the child what the plan says. Returns only if a step fails.
fn become_program(launch: &Launch) -> (Step, i32) {
    let run = |step: Step, number: i64, args: [usize; 6]| {
        // SAFETY: every address is of the launch or of what it points to, valid until execve has copied it.
        let result = unsafe { raw::syscall(number, args) };
        if result < 0 { Err((step, -result as i32)) } else { Ok(()) }
    };
    let all = || -> Result<(), (Step, i32)> {
        let numbers = &launch.numbers;
        if launch.shares {
            own_table(launch, &run)?;
        }
        run(Step::Session, libc::SYS_setsid, [0; 6])?;
        // Without O_CLOEXEC: these stay open over execve, all others close.
        let stay = |step, from: RawFd, to: RawFd| {
            run(step, libc::SYS_dup3, [from as usize, to as usize, 0, 0, 0, 0])
        };
        stay(Step::Streams, numbers.null, 0)?;
        stay(Step::Streams, numbers.output[0], 1)?;
        stay(Step::Streams, numbers.output[1], 2)?;
        for index in 0..launch.sockets as RawFd {
            stay(Step::Sockets, numbers.sockets + index, FIRST_PASSED + index)?;
        }
        write_pid(launch);
        let nofile = (&raw const launch.nofile) as usize;
        run(Step::Limit, libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, nofile, 0, 0, 0])?;
        run(Step::Session, libc::SYS_umask, [launch.umask as usize, 0, 0, 0, 0, 0])?;
        if launch.identity {
            let (uid, gid) = (launch.uid as usize, launch.gid as usize);
            run(Step::Groups, libc::SYS_setgroups, [launch.group_count, launch.groups, 0, 0, 0, 0])?;
            run(Step::Group, libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0])?;
            run(Step::User, libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0])?;
        }
        // As the user: what root may enter, the service need not be able to.
        run(Step::Directory, libc::SYS_chdir, [launch.cwd, 0, 0, 0, 0, 0])?;
        let none: u64 = 0;
        let mask = (&raw const none) as usize;
        run(Step::Signals, libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, mask, 0, 8, 0, 0])?;
        run(Step::Exec, libc::SYS_execve, [launch.program, launch.args, launch.env, 0, 0, 0])
    };
    all().err().unwrap_or((Step::Exec, 0))
}

/// From the keeper's descriptor table to one of its own. Until the first call has returned, nothing here may change a
/// descriptor: it would be the keeper's.
fn own_table(
    launch: &Launch,
    run: &impl Fn(Step, i64, [usize; 6]) -> Result<(), (Step, i32)>,
) -> Result<(), (Step, i32)> {
    let Numbers { part: (first, behind), end, .. } = launch.numbers;
    let close = |from: RawFd, to: usize, flags: u32| {
        run(Step::Table, libc::SYS_close_range, [from as usize, to, flags as usize, 0, 0, 0])
    };
    close(end, u32::MAX as usize, libc::CLOSE_RANGE_UNSHARE)?;
    // Of other starts: should this program's file system hang, their status pipes must not stay open here.
    close(FIRST_PASSED, first as usize - 1, 0)?;
    if behind < end {
        close(behind, end as usize - 1, 0)?;
    }
    launch.has_own_table.store(true, Ordering::Release);
    Ok(())
}

/// Writes this process's pid into its environment.
fn write_pid(launch: &Launch) {
    // SAFETY: no memory is involved.
    let mut pid = unsafe { raw::syscall(libc::SYS_getpid, [0; 6]) };
    let mut digits = [0_u8; PidText::DIGITS];
    let mut count = 0;
    while count < digits.len() && (pid > 0 || count == 0) {
        digits[count] = b'0' + (pid % 10) as u8;
        pid /= 10;
        count += 1;
    }
    let (first, texts) = launch.pids;
    for index in 0..texts {
        // SAFETY: the plan, which the keeper's `Flight` holds, owns these texts of atomics, one behind the other.
        let text = unsafe { &*(first as *const PidText).add(index) };
        text.set(digits[..count].iter().rev().copied());
    }
}

/// The one-element array map in which the keeper announces the slot of its next child: slot + 1, or 0.
#[derive(Debug)]
struct NextSlot(NonNull<AtomicU64>);

impl NextSlot {
    fn map(fd: &OwnedFd) -> io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, flags, MapFlags::SHARED, fd, 0)? };
        NonNull::new(page.cast()).map(Self).ok_or_else(|| io::Error::other("mmap at address 0"))
    }

    fn store(&self, slot: Option<u32>) {
        // SAFETY: the mapping lives as long as `self`, is page-aligned, and is only used through atomics.
        unsafe { self.0.as_ref() }.store(slot.map_or(0, |slot| u64::from(slot) + 1), Ordering::SeqCst);
    }
}

impl Drop for NextSlot {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, used by nobody else.
        unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE) }.ok();
    }
}

/// Less than a page is mapped as a whole one.
const PAGE: usize = 4096;

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
